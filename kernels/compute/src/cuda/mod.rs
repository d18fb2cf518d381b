//! What CUDA kernels share. They are written in CubeCL, and everything that can be known about them
//! without a GPU is: `source` expands them to CUDA C++, `tests/cuda` runs that text on the CPU against
//! the reference, and `cuda-kernels.md` has what NVRTC and `ptxas` make of it.

pub mod source;
pub mod tile;

/// Every kernel of this crate as CUDA C++, for every shape that the table holds.
pub fn sources() -> Vec<source::Source> {
    crate::softmax_attention::cuda::sources::all()
}
