//! Linear attention on CUDA: token after token (`steps`), and the gated delta rule in chunks on tensor cores (`chunks`).

pub mod chunks;
pub mod steps;

/// The kernels that the table holds.
pub fn sources() -> Vec<crate::cuda::source::Source> {
    let mut sources = steps::sources();
    sources.extend(chunks::sources());
    sources
}
