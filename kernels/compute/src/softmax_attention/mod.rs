//! Causal attention with grouped keys: `softmax(cap(q kᵀ · scale) + bias + mask) v`, and what is
//! known to stand in the softmax's place.

pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::trace::{Implementation, record};
use burn::tensor::Tensor;
pub use reference::{apply, pattern};
pub(crate) use reference::{products, scores};

/// What becomes of the scores.
///
/// `AttentionOptions::from(scale)` is plain causal attention.
#[derive(Clone, Debug)]
pub struct AttentionOptions {
    /// Multiplies `q kᵀ`; `1/√d` as a rule.
    pub scale: f64,
    /// How many keys a query sees at most, its own included; all of the past when absent.
    pub window: Option<usize>,
    /// Scores `s` become `c · tanh(s / c)` (Gemma 2).
    pub softcap: Option<f64>,
    /// Added to the capped scores; broadcast to `[batch, heads, time, source]`.
    pub bias: Option<Tensor<4>>,
    pub normaliser: Normaliser,
}

/// How a row of scores becomes a row of weights.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a call
pub enum Normaliser {
    /// `A_ts = e^{s_ts} / (e^{sink_t} + Σ_j e^{s_tj})`: with a sink (broadcast to
    /// `[batch, heads, time, 1]`) a row sums to less than one, without to one.
    Softmax { sink: Option<Tensor<4>> },
    /// `A_ts = σ(s_ts)`: no row sum at all.
    Sigmoid,
}

impl From<f64> for AttentionOptions {
    fn from(scale: f64) -> Self {
        Self { scale, window: None, softcap: None, bias: None, normaliser: Normaliser::Softmax { sink: None } }
    }
}

/// Shapes: `q [batch, heads, time, d]`, `k [batch, kv_heads, source, d]`,
/// `v [batch, kv_heads, source, d_value]` → `[batch, heads, time, d_value]`.
///
/// Query `t` sees the keys `0 ..= source − time + t`: with a cache the queries are the last ones.
/// Query head `h` reads key head `h / (heads / kv_heads)`. A number for `options` is the scale.
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: impl Into<AttentionOptions>) -> Tensor<4> {
    record("softmax_attention", Implementation::Reference);
    apply(pattern(q, k, options), v)
}
