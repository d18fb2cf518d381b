//! Attention over keys and values that are stored as codes of a product quantiser, without ever
//! reconstructing them (MILLION, Wang et al. 2025; asymmetric look-up as in Jégou et al. 2011).
//!
//! A vector of `d` channels is cut into `M` sub-vectors, each the number of a centroid
//! `C_m[c] ∈ R^{d/M}`. With codes `a_sm` of the keys and `b_sm` of the values,
//! ```text
//! T_m[c] = q_m · C^K_m[c]          s_s = Σ_m T_m[a_sm]                a table per query, M reads per key
//! w_m[c] = Σ_s p_s [b_sm = c]      o_m = Σ_c w_m[c] C^V_m[c]         weight gathers on centroids
//! ```
//! The newest keys and values stand beside in full precision. Each part is attended to alone, with
//! the logarithm `L = log Σ_s e^{s_s}` of its sum, and the two are merged by
//! `o = Σ_i e^{L_i − L} o_i`, `L = log Σ_i e^{L_i}` (a sink is a part without a value).

mod reference;
#[cfg(test)]
mod tests;

use crate::AttentionOptions;
use crate::trace::{Implementation, record};
use burn::tensor::{Int, Tensor};

/// Keys or values as codes.
#[derive(Clone, Debug)]
pub struct ProductCodes {
    /// Which centroid, `[batch, kv_heads, source, subspaces]`, each below the number of centroids.
    pub codes: Tensor<4, Int>,
    /// `[subspaces, centroids, width]`, where `subspaces · width` are the channels.
    pub centroids: Tensor<3>,
}

/// What [`softmax_attention`](crate::softmax_attention) gives over the reconstructed keys and values
/// followed by the `recent` ones.
///
/// Shapes: `q [batch, heads, time, d]`, `recent` keys and values `[batch, kv_heads, recent, d]` →
/// `[batch, heads, time, d_value]`. The queries are the last of all tokens, and their own keys are
/// among the recent ones: `time ≤ recent`.
pub fn product_attention(
    q: Tensor<4>,
    keys: &ProductCodes,
    values: &ProductCodes,
    recent: (Tensor<4>, Tensor<4>),
    options: impl Into<AttentionOptions>,
) -> Tensor<4> {
    record("product_attention", Implementation::Reference);
    reference::attend(q, keys, values, recent, options.into())
}
