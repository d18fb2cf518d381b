//! The gated delta rule (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464).
//!
//! ```text
//! S_t = e^{g_t} S_{t−1} + k_t ( β_t ( v_t − k_tᵀ e^{g_t} S_{t−1} ) )ᵀ        o_t = S_tᵀ q_t
//! ```
//! with a state `S ∈ R^{d_key × d_value}` per head: the state decays, what it holds under `k_t` is
//! read, and the difference to `v_t` is written. `q` arrives already scaled.

mod reference;

use crate::trace::{Implementation, record};
use burn::tensor::Tensor;
pub use reference::{effective_pattern, inverse_unit_lower};

/// How to run through the tokens; the result is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaForm {
    /// Token after token, as the equation reads: the truth, and the way to decode.
    Recurrent,
    /// In chunks of this many tokens (a power of two) through the WY/UT representation:
    /// matrix products inside a chunk, one state passed from chunk to chunk.
    Chunked(usize),
}

/// Shapes: `q, k [batch, heads, time, d_key]`, `v [batch, heads, time, d_value]`,
/// `beta, log_decay [batch, heads, time]` (`log_decay = g ≤ 0`), `state [batch, heads, d_key, d_value]`
/// → the output `[batch, heads, time, d_value]` and the state after the last token.
pub fn gated_delta_rule(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    beta: Tensor<3>,
    log_decay: Tensor<3>,
    state: Option<Tensor<4>>,
    form: DeltaForm,
) -> (Tensor<4>, Tensor<4>) {
    record("gated_delta_rule", Implementation::Reference);
    let [batch, heads, time, d_key] = q.dims();
    let state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, d_key, v.dims()[3]], (&q.device(), q.dtype())));
    match form {
        DeltaForm::Recurrent => reference::recurrent(q, k, v, beta, log_decay, state),
        DeltaForm::Chunked(chunk) => {
            // A chunk longer than the sequence would be padding.
            let chunk = chunk.min(time.next_power_of_two());
            reference::chunked(q, k, v, beta, log_decay, state, chunk)
        }
    }
}

#[cfg(test)]
mod tests;
