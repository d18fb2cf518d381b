//! The CUDA C++ that a kernel becomes, without a device.
//!
//! It is what the runtime hands to NVRTC, so NVRTC and `ptxas`, which need no device either, tell
//! what a GPU would run: see `cuda-kernels.md`.

use cubecl::__private::{Arc, Runtime};
use cubecl::cuda::{CudaCompilationOptions, CudaCompiler, CudaRuntime};
use cubecl::ir::features::{MmaConfig, TypeUsage};
use cubecl::ir::{
    DeviceIdentity, DeviceProperties, FloatKind, HardwareProperties, IntKind, MemoryDeviceProperties, UIntKind,
};
use cubecl::prelude::*;
use cubecl::profile::TimingMethod;
use cubecl::{Compiler, CubeKernel, define_kernel};

impl Source {
    /// FNV-1a of the text, its variables numbered in the order in which they appear: the compiler's numbers for shared memory
    /// differ from run to run.
    pub fn hash(&self) -> String {
        format!("{:016x}", hash(&canonical(&self.text)))
    }
}

/// FNV-1a.
pub fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn canonical(text: &str) -> String {
    let mut numbers = std::collections::HashMap::new();
    let mut result = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let digits = word.strip_prefix('v').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        if digits > 0 {
            let next = numbers.len();
            let number = numbers.entry(word[1..=digits].to_string()).or_insert(next);
            result += &format!("v{number}{}", &word[1 + digits..]);
        } else {
            result += &word;
        }
        word.clear();
        result.push(c);
    }
    result.pop();
    result
}

/// What the compiler is told about a device.
pub struct Target {
    pub settings: KernelSettings,
    pub device: Arc<DeviceProperties>,
    pub properties: Arc<TargetProperties>,
}

/// A kernel as CUDA C++.
pub struct Source {
    /// Name of the instance, as in the table.
    pub name: String,
    /// Name of the function.
    pub function: String,
    pub units: u32,
    /// Bytes of shared memory that a launch reserves.
    pub shared: usize,
    pub text: String,
}

/// Any card that has `mma.m16n8k16` for 16-bit floats: compute capability 8.0 and above.
fn ampere() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        // What a block may opt in to on 8.0; 9.0 has more.
        max_shared_memory_size: SHARED_LIMIT,
        max_cube_count: (i32::MAX as u32, 65535, 65535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: None,
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let mut device = DeviceProperties::new(
        Default::default(),
        MemoryDeviceProperties::new(1 << 30, 512),
        hardware,
        TimingMethod::Device,
        DeviceIdentity::default(),
    );
    for float in [FloatKind::BF16, FloatKind::F16] {
        let (a_type, cd_type) = (ElemType::Float(float), ElemType::Float(FloatKind::F32));
        device.features.matmul.mma.insert(MmaConfig { a_type, b_type: a_type, cd_type, m: 16, n: 8, k: 16 });
        device.features.matmul.ldmatrix.insert(a_type);
    }
    let types = [
        ElemType::Index,
        ElemType::Bool,
        ElemType::Float(FloatKind::BF16),
        ElemType::Float(FloatKind::F16),
        ElemType::Float(FloatKind::F32),
        ElemType::Int(IntKind::I32),
        ElemType::Int(IntKind::I64),
        ElemType::UInt(UIntKind::U32),
        ElemType::UInt(UIntKind::U64),
    ];
    for ty in types {
        device.register_type_usage(ty, TypeUsage::all());
    }
    device.register_address_type(AddressType::U32);
    device.features.copy_async = true;
    device
}

pub const BF16: ElemType = ElemType::Float(FloatKind::BF16);

/// The type in a kernel, and what is added to the kernel's name.
///
/// # Panics
/// For another dtype than the two.
pub fn element(dtype: burn::tensor::DType) -> (ElemType, &'static str) {
    match dtype {
        burn::tensor::DType::BF16 => (BF16, ""),
        burn::tensor::DType::F32 => (ElemType::Float(FloatKind::F32), " f32"),
        other => unreachable!("`choose` lets f32 and bf16 through, this is {other:?}"),
    }
}

/// A buffer of its own, as an argument of a kernel.
pub fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// Bytes of shared memory that a block may have on every card these kernels are for.
pub const SHARED_LIMIT: usize = 163 * 1024;

/// `kernel` as CUDA C++: what it is compiled for is given to it.
pub fn source<K: CubeKernel>(name: &str, cube: CubeDim, kernel: impl FnOnce(Target) -> K) -> Source {
    let kernel = kernel(Target {
        settings: KernelSettings::new(cube.into(), ExecutionMode::Unchecked, AddressType::U32),
        device: Arc::new(ampere()),
        properties: Arc::new(CudaRuntime::target_properties()),
    });
    let definition = define_kernel(&kernel).unwrap_or_else(|error| panic!("{name}: {error}"));
    // The runtime's name ends in a hash of Rust's type identifiers, which another build changes.
    let hashed = definition.settings.kernel_name.clone();
    let function = hashed[..hashed.rfind('_').expect("a name and a hash")].to_string();
    // As the runtime sets them for these cards.
    let mut options = CudaCompilationOptions::default();
    options.cpp.supports_features.fast_math = true;
    options.cpp.supports_features.grid_constants = true;
    options.cpp.supports_features.dp4a = true;
    let compiled =
        CudaCompiler::default().compile(definition, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    Source {
        name: name.to_string(),
        units: cube.num_elems(),
        shared: compiled.shared_memory_size(),
        text: compiled.to_string().replace(&hashed, &function),
        function,
    }
}

/// A kernel as its launcher would make it, without anything to launch: its type, the target, its buffers and
/// its numbers by name, and what it is compiled for.
macro_rules! expand {
    ($($kernel:ident)::+, $target:expr, [$($buffer:ident)*], [$($number:ident)*], $($setting:expr),+) => {
        $($kernel)::+::new(
            $target.settings,
            $target.device,
            $target.properties,
            $($crate::cuda::source::expand!(@buffer $buffer),)*
            $($crate::cuda::source::expand!(@number $number),)*
            $($setting),+
        )
    };
    (@buffer $name:ident) => { $crate::cuda::source::buffer() };
    (@number $name:ident) => { () };
}
pub(crate) use expand;
