//! What CUDA kernels share. They are written in CubeCL, and everything that can be known about them
//! without a GPU is: `source` expands them to CUDA C++, `tests/cuda` runs that text on the CPU against
//! the reference, and `cuda-kernels.md` has what NVRTC and `ptxas` make of it.
//!
//! An operator makes [`kernel`]s and puts them into a [`program`], which runs on a GPU. Whether it may is decided in [`permit`].

mod compiled;
pub mod kernel;
pub mod permit;
pub mod program;
pub mod rows;
pub mod source;
pub mod tile;
mod tune;

use crate::trace::Because;
pub use compiled::{keep_compiled, kept};
pub(crate) use permit::{Asked, permitted};
pub use permit::{Card, Passed, Setting, VARIABLE, record};
pub use program::emulated;
pub(crate) use program::{Gpu, Program, is_emulated, with_gpu};
use source::Source;

/// Expands kernels to CUDA C++.
type Sources = fn() -> Vec<Source>;

/// The operators that have CUDA kernels, and those of their kernels that the table holds.
const OPERATORS: [(&str, Sources); 17] = [
    ("softmax_attention", crate::softmax_attention::cuda::sources),
    // By the same kernels.
    ("differential_attention", crate::softmax_attention::cuda::sources),
    ("linear_attention", crate::linear_attention::cuda::sources),
    ("short_conv", crate::short_conv::cuda::sources),
    ("rms_norm", crate::rms_norm::cuda::sources),
    ("add_rms_norm", crate::rms_norm::cuda::add_sources),
    ("gated_rms_norm", crate::rms_norm::cuda::gated_sources),
    ("l2_norm", crate::rms_norm::cuda::l2_sources),
    ("rope", crate::rope::cuda::sources),
    ("swiglu", crate::swiglu::cuda::sources),
    ("embedding", crate::embedding::cuda::sources),
    ("adamw", crate::adamw::cuda::sources),
    ("squares", crate::adamw::cuda::squares_sources),
    ("cross_entropy", crate::cross_entropy::cuda::sources),
    ("route", crate::experts::cuda::route_sources),
    ("experts", crate::experts::cuda::sources),
    ("product_attention", crate::product_attention::cuda::sources),
];

/// The operators that have CUDA kernels.
pub fn operators() -> impl Iterator<Item = &'static str> {
    OPERATORS.iter().map(|(operator, _)| *operator)
}

/// Every kernel of this crate as CUDA C++, for every shape that the table holds. Expanded once: it takes a while.
pub fn sources() -> &'static [Source] {
    static SOURCES: std::sync::LazyLock<Vec<Source>> = std::sync::LazyLock::new(|| {
        let mut all: Vec<Sources> = OPERATORS.iter().map(|(_, sources)| *sources).collect();
        all.dedup_by(|a, b| std::ptr::fn_addr_eq(*a, *b));
        all.iter().flat_map(|sources| sources()).collect()
    });
    &SOURCES
}

/// One number for all kernels of an operator, as in `cuda-selftest.md`; another one when any of them changes.
///
/// # Panics
/// When the operator has none.
pub fn fingerprint(operator: &str) -> String {
    let (_, sources) = OPERATORS.iter().find(|(name, _)| *name == operator).expect("an operator with CUDA kernels");
    let hashes: String = sources().iter().map(Source::hash).collect();
    format!("{:016x}", source::hash(&hashes))
}

/// The CUDA device of `tensor`'s device, when it is one.
pub fn card(device: &burn::tensor::Device) -> Option<Card> {
    match device.as_dispatch() {
        burn_dispatch::DispatchDevice::Cube(device @ burn_backend::cubecl::Device::Cuda(_)) => {
            Some(Card::of(&device.client()))
        }
        _ => None,
    }
}

/// What is to be said of an operator's kernels on a GPU.
///
/// # Errors
/// Why they do not run there.
pub fn state(operator: &str, card: &Card) -> Result<(), Because> {
    let setting = Setting::of_environment().unwrap_or_else(|error| panic!("{error}"));
    setting.permits(permit::passed(operator, &card.target))
}
