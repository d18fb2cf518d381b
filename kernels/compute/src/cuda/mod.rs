//! What CUDA kernels share. They are written in CubeCL, and everything that can be known about them
//! without a GPU is: `source` expands them to CUDA C++, `tests/cuda` runs that text on the CPU against
//! the reference, and `cuda-kernels.md` has what NVRTC and `ptxas` make of it.

pub mod source;
pub mod tile;

/// Every kernel of this crate as CUDA C++, for every shape that the table holds. Expanded once: it takes a while.
pub fn sources() -> &'static [source::Source] {
    static SOURCES: std::sync::LazyLock<Vec<source::Source>> = std::sync::LazyLock::new(|| {
        let mut sources = crate::softmax_attention::cuda::sources::all();
        sources.extend(crate::linear_attention::cuda::sources());
        sources.extend(crate::short_conv::cuda::sources(4));
        sources
    });
    &SOURCES
}
