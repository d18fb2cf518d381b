//! A kernel with its grid and its numbers: what is left to say is which memory it works on.

use super::source::{Source, Target, source};
use cubecl::CubeKernel;
use cubecl::prelude::*;
use std::fmt;
use std::sync::Arc;

/// A number that a kernel is given when it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    U32(u32),
    F32(f32),
}

impl From<u32> for Number {
    fn from(x: u32) -> Self {
        Self::U32(x)
    }
}

impl From<f32> for Number {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Visits {
    pub name: &'static str,
    /// Numbers, of which it visits none beyond; of memory that is read by rows, as many as those have.
    pub count: usize,
    /// How many it takes at once.
    pub vector: usize,
}

/// What runs a kernel: on a client, over cubes of units, on its buffers.
pub type Launch = dyn Fn(&Client, CubeCount, CubeDim, Vec<BufferArg>) + Send + Sync;

/// Expands a kernel under a name, for a size of its cubes.
type Expand = dyn Fn(&str, CubeDim) -> Source + Send + Sync;

/// One run of a kernel, made by `kernel!`.
#[derive(Clone)]
pub struct Kernel {
    /// Name of the instance, as in the table.
    pub name: String,
    pub cubes: [u32; 3],
    pub units: CubeDim,
    /// In the order of its arguments.
    pub buffers: Vec<Visits>,
    /// In the order of its arguments.
    pub numbers: Vec<Number>,
    pub(crate) source: Arc<Expand>,
    pub(crate) launch: Arc<Launch>,
}

impl Kernel {
    /// As CUDA C++, without a device.
    pub fn source(&self) -> Source {
        (self.source)(&self.name, self.units)
    }

    /// Units of a cube along its three axes.
    pub fn threads(&self) -> [u32; 3] {
        let CubeDim(units) = self.units;
        [units.x, units.y, units.z]
    }

    /// Its floats and its integers.
    pub fn by_type(&self) -> (Vec<f32>, Vec<u32>) {
        let (mut floats, mut integers) = (Vec::new(), Vec::new());
        for number in &self.numbers {
            match number {
                Number::F32(x) => floats.push(*x),
                Number::U32(x) => integers.push(*x),
            }
        }
        (floats, integers)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {:?} of {:?} with {:?}", self.name, self.cubes, self.units, self.numbers)
    }
}

/// Expands what `kernel!` was given.
pub(crate) fn expanded<K: CubeKernel>(name: &str, units: CubeDim, kernel: impl FnOnce(Target) -> K) -> Source {
    source(name, units, kernel)
}

/// A [`Kernel`]: its name, cubes, units, the module and the type that `#[cube(launch_unchecked)]` made, its buffers in the order
/// of its arguments and how many numbers of each it visits (`=> n` where it takes vectors of `n`), its numbers, and what it is
/// compiled for, which is `Copy`.
macro_rules! kernel {
    (
        $name:expr, $cubes:expr, $units:expr, $($module:ident)::+ as $kernel:ident,
        [$($buffer:ident: $count:expr $(=> $vector:expr)?),* $(,)?], {$($number:ident: $ty:ty = $value:expr),* $(,)?} $(, $setting:expr)* $(,)?
    ) => {{
        // Before numbers take the names.
        let (name, cubes, units) = ($name, $cubes, $units);
        let buffers = vec![$($crate::cuda::kernel::Visits {
            name: stringify!($buffer),
            count: $count,
            vector: 1 $(* $vector)?,
        }),*];
        $(let $number: $ty = $value;)*
        $crate::cuda::kernel::Kernel {
            name,
            cubes,
            units,
            buffers,
            numbers: vec![$($crate::cuda::kernel::Number::from($number)),*],
            source: std::sync::Arc::new(move |name, units| $crate::cuda::kernel::expanded(name, units, |t| {
                $($module)::+::$kernel::new(
                    t.settings,
                    t.device,
                    t.properties,
                    $($crate::cuda::source::expand!(@buffer $buffer),)*
                    $($crate::cuda::source::expand!(@number $number),)*
                    $($setting),*
                )
            })),
            launch: std::sync::Arc::new(move |client, cubes, units, buffers| {
                let mut buffers = buffers.into_iter();
                $(let $buffer = buffers.next().expect("as many buffers as arguments");)*
                // SAFETY: every buffer is as long as the kernel was said to go, which the program has checked, or is a view,
                // whose rows lie in it.
                unsafe {
                    $($module)::+::launch_unchecked(
                        client, cubes, units, $($buffer,)* $($number,)* $($setting),*
                    )
                }
            }),
        }
    }};
}
pub(crate) use kernel;
