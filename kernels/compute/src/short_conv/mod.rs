//! Short causal depthwise convolution followed by SiLU.

pub mod cuda;
mod reference;

use crate::trace::{Implementation, record};
use burn::tensor::Tensor;

/// `y_t = silu( Σ_j w_j ⊙ x_{t−K+1+j} + b )`, one kernel per channel; the last tap is the current token.
///
/// Shapes: `x [batch, time, channels]`, `weight [channels, K]`, `bias [channels]`, `past [batch, K−1, channels]` (the
/// inputs before `x`; zeros at the start of a sequence) → the output and the next `past`.
pub fn short_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    past: Option<Tensor<3>>,
) -> (Tensor<3>, Tensor<3>) {
    record("short_conv", Implementation::Reference);
    reference::short_conv(x, weight, bias, past)
}
