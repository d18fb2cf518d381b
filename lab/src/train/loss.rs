//! The loss: cross-entropy where the mask counts.

use burn::tensor::{Int, Tensor};

/// `Σ mask · −log softmax(logits)[target] / Σ mask`, in nats per counted token, `[1]`.
///
/// Shapes: `logits [batch, time, vocab]`, `targets [batch, time]`, `mask` of `batch · time` weights
/// in row-major order. NaN when no position counts. Training goes without logits of all tokens:
/// [`kernels::cross_entropy`].
///
/// # Panics
/// Where the shapes do not fit.
pub fn cross_entropy(logits: Tensor<3>, targets: Tensor<2, Int>, mask: &[f32]) -> Tensor<1> {
    let [batch, time, vocab] = logits.dims();
    let tokens = batch * time;
    assert_eq!([batch, time], targets.dims(), "logits are [batch {batch}, time {time}], targets {:?}", targets.dims());
    assert_eq!(tokens, mask.len(), "expected a mask of {tokens} weights, got {}", mask.len());
    kernels::cross_entropy::of_logits(logits.reshape([tokens, vocab]), targets.reshape([tokens]), mask)
}
