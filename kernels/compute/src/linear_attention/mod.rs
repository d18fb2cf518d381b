//! Linear attention: a state of constant size, decayed, erased and written once per token.
//!
//! ```text
//! S_t = (I − k_t (b_t ⊙ k_t)ᵀ) Diag(e^{g_t}) S_{t−1} + k_t (w_t ⊙ v_t)ᵀ        o_t = S_tᵀ q_t
//! ```
//! with a state `S ∈ R^{d_key × d_value}` per head: the state decays, what it holds under `k_t` is
//! read and erased, and a value is written there. Which parts there are makes the family:
//!
//! | decay `g` | [`Gates`] | models |
//! |---|---|---|
//! | none | `Add` | linear attention |
//! | per head | `Add` | RetNet, Lightning (`g` fixed); Mamba-2 (`v` times its step size) |
//! | per key channel | `Add` | gated linear attention |
//! | none | `Beta` | DeltaNet |
//! | per head | `Beta` | Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464) |
//! | per key channel | `Beta` | Kimi Delta Attention (arXiv 2510.26692) |
//! | per key channel | `EraseWrite` | Gated DeltaNet-2 |
//!
//! `q` arrives already scaled.

mod chunked;
pub mod cuda;
mod recurrent;

use crate::trace::{Implementation, record};
use burn::tensor::Tensor;
pub use chunked::inverse_unit_lower;

/// How to run through the tokens; the result is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearForm {
    /// Token after token, as the equation reads: the truth, and the way to decode.
    Recurrent,
    /// In chunks of this many tokens (a power of two) through the WY/UT representation:
    /// matrix products inside a chunk, one state passed from chunk to chunk.
    Chunked(usize),
}

/// The logarithm `g ≤ 0` of what survives a step.
#[derive(Clone, Debug)]
pub enum LogDecay {
    /// Nothing fades.
    None,
    /// One number per head, `[batch, heads, time]`.
    Head(Tensor<3>),
    /// One per row of the state, `[batch, heads, time, d_key]`.
    Channel(Tensor<4>),
}

/// What is erased and how much is written.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a call
pub enum Gates {
    /// `b = 0`, `w = 1`: values add up.
    Add,
    /// `b = w = β`, one number per head, `[batch, heads, time]`: the delta rule. Up to `β = 1` the
    /// old value shrinks; at `β = 1` it is replaced; up to `β = 2` it changes its sign.
    Beta(Tensor<3>),
    /// `erase = b [batch, heads, time, d_key]` and `write = w [batch, heads, time, d_value]` apart.
    EraseWrite { erase: Tensor<4>, write: Tensor<4> },
}

impl Gates {
    /// `b ⊙ k`, where anything is erased.
    fn erased(&self, k: &Tensor<4>) -> Option<Tensor<4>> {
        match self {
            Self::Add => None,
            Self::Beta(beta) => Some(k.clone() * beta.clone().unsqueeze_dim::<4>(3)),
            Self::EraseWrite { erase, .. } => Some(k.clone() * erase.clone()),
        }
    }

    /// `w ⊙ v`.
    fn written(&self, v: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Add => v,
            Self::Beta(beta) => v * beta.clone().unsqueeze_dim::<4>(3),
            Self::EraseWrite { write, .. } => v * write.clone(),
        }
    }

    /// The values that [`effective_pattern`] weighs: `v`, but `w ⊙ v` where every channel of a value
    /// has a write gate of its own. (With that gate inside, every channel had another pattern.)
    pub fn values(&self, v: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Add | Self::Beta(_) => v,
            Self::EraseWrite { .. } => self.written(v),
        }
    }
}

/// Shapes: `q, k [batch, heads, time, d_key]`, `v [batch, heads, time, d_value]`,
/// `state [batch, heads, d_key, d_value]` (zeros when absent) → the output
/// `[batch, heads, time, d_value]` and the state after the last token.
pub fn linear_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: &LogDecay,
    gates: &Gates,
    state: Option<Tensor<4>>,
    form: LinearForm,
) -> (Tensor<4>, Tensor<4>) {
    record("linear_attention", Implementation::Reference);
    let [batch, heads, time, d_key] = q.dims();
    let state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, d_key, v.dims()[3]], (&q.device(), q.dtype())));
    match form {
        LinearForm::Recurrent => recurrent::run(q, k, v, decay, gates, state),
        LinearForm::Chunked(chunk) => {
            // A chunk longer than the sequence would be padding.
            let chunk = chunk.min(time.next_power_of_two());
            chunked::run(q, k, v, decay, gates, state, chunk)
        }
    }
}

/// The weights with which the values enter the outputs when the state starts empty, erase term
/// included: the output is the pattern times [`Gates::values`]. Rows need not sum to one and entries
/// may be negative. `[batch, heads, time, time]`.
pub fn effective_pattern(q: Tensor<4>, k: Tensor<4>, decay: &LogDecay, gates: &Gates) -> Tensor<4> {
    let pattern = chunked::pattern(q, k, decay, gates);
    match gates {
        Gates::Beta(beta) => pattern * beta.clone().unsqueeze_dim::<4>(2),
        Gates::Add | Gates::EraseWrite { .. } => pattern,
    }
}

#[cfg(test)]
mod tests;
