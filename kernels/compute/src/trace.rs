//! Which implementation of which operator runs, so that a slow path is never taken unseen.

use crate::cuda::program::{Emulator, set_emulator};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Implementation {
    /// Plain tensor operations, on any device.
    Reference,
    /// Tiles, SIMD and threads, in f32 and f64.
    Cpu,
    /// CUDA kernels of our own.
    Cuda,
}

/// Why the reference runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Because {
    /// There are kernels, and none of them was ever seen to be right on such a GPU.
    NeverTried,
    /// There are kernels, and they are switched off.
    SwitchedOff,
    /// There is no kernel for this.
    NoKernel(&'static str),
    /// In bf16 and f16 on the CPU.
    HalfPrecision,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variable = crate::cuda::VARIABLE;
        match self {
            Self::NeverTried => {
                write!(f, "its CUDA kernels have not passed `selftest` on such a GPU; {variable}=1 tries them")
            }
            Self::SwitchedOff => write!(f, "its CUDA kernels are switched off by {variable}=0"),
            Self::NoKernel(what) => write!(f, "no CUDA kernel for {what}"),
            Self::HalfPrecision => f.write_str("the CPU's fast forms compute in f32 and f64 alone"),
        }
    }
}

/// One call of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ran {
    pub operator: &'static str,
    pub implementation: Implementation,
    /// Said of the reference, where it was not asked for.
    pub because: Option<Because>,
}

/// `cpu`, or `reference: no CUDA kernel for a bias`.
impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{:?}", self.implementation).to_lowercase())?;
        self.because.map_or(Ok(()), |because| write!(f, ": {because}"))
    }
}

thread_local! {
    static TRACE: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
    static REFERENCE_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Says on stderr that the reference runs in the place of a faster form, once for every operator and reason.
pub(crate) fn say(operator: &'static str, because: Because) {
    static SAID: Mutex<BTreeSet<(&str, Because)>> = Mutex::new(BTreeSet::new());
    let asked_for = because == Because::SwitchedOff;
    if !asked_for && SAID.lock().unwrap_or_else(PoisonError::into_inner).insert((operator, because)) {
        eprintln!("{operator} runs by its reference: {because}");
    }
}

/// Runs `f` and returns what it returned and the operators that ran on this thread, in order.
pub fn trace<T>(f: impl FnOnce() -> T) -> (T, Vec<Ran>) {
    /// Also where `f` panics.
    struct Restore(Option<Vec<Ran>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRACE.set(self.0.take());
        }
    }
    let _restore = Restore(TRACE.replace(Some(Vec::new())));
    let result = f();
    (result, TRACE.take().unwrap_or_default())
}

/// Runs `f` with every operator of this thread in plain tensor operations: the truth that the fast
/// forms are measured against.
pub fn by_reference<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            REFERENCE_ONLY.set(self.0);
        }
    }
    let _restore = Restore(REFERENCE_ONLY.replace(true));
    f()
}

/// What [`trace`], [`by_reference`] and [`emulated`](crate::cuda::emulated) have set on a thread.
pub(crate) struct State(Option<Vec<Ran>>, bool, Option<Emulator>);

/// Takes the state of this thread along.
pub(crate) fn leave() -> State {
    State(TRACE.take(), REFERENCE_ONLY.get(), set_emulator(None))
}

/// Sets the state of this thread and returns what it was.
pub(crate) fn enter(State(trace, reference, emulator): State) -> State {
    State(TRACE.replace(trace), REFERENCE_ONLY.replace(reference), set_emulator(emulator))
}

pub(crate) fn reference_only() -> bool {
    REFERENCE_ONLY.get()
}

pub(crate) fn record(ran: Ran) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(ran);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn ran() -> Ran {
        Ran { operator: "test", implementation: Implementation::Cpu, because: None }
    }

    #[test]
    fn a_panic_takes_nothing_from_who_traces_around_it_and_leaves_nothing_set() {
        let (_, seen) = trace(|| {
            record(ran());
            let panics = || crate::in_pool(|| panic!("in the pool"));
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            assert!(catch_unwind(|| trace(|| panic!("traced"))).is_err());
            record(ran());
        });
        assert_eq!(seen, [ran(); 2]);
        assert!(catch_unwind(|| by_reference(|| crate::in_pool(|| panic!("in the pool")))).is_err());
        assert!(!reference_only() && !crate::in_pool(reference_only));
        assert!(TRACE.take().is_none());
    }

    #[test]
    fn half_precision_on_the_cpu_is_said_to_run_by_the_reference() {
        let x = burn::tensor::Tensor::<2>::ones([2, 4], (&burn::tensor::Device::flex(), burn::tensor::DType::BF16));
        let (_, seen) = trace(|| crate::swiglu(x.clone(), x));
        assert_eq!(
            (seen[0].implementation, seen[0].because),
            (Implementation::Reference, Some(Because::HalfPrecision))
        );
        assert_eq!(seen[0].to_string(), "reference: the CPU's fast forms compute in f32 and f64 alone");
    }
}
