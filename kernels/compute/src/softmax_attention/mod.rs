//! Causal softmax attention with grouped keys: `softmax(q kᵀ · scale + mask) v`.

mod reference;

use crate::trace::{Implementation, record};
use burn::tensor::Tensor;
pub use reference::{apply, pattern};

/// Shapes: `q [batch, heads, time, d]`, `k [batch, kv_heads, source, d]`,
/// `v [batch, kv_heads, source, d_value]` → `[batch, heads, time, d_value]`.
///
/// Query `t` sees the keys `0 ..= source − time + t`: with a cache the queries are the last ones.
/// Query head `h` reads key head `h / (heads / kv_heads)`.
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    record("softmax_attention", Implementation::Reference);
    apply(pattern(q, k, scale), v)
}
