//! Differential attention (Ye et al. 2024, arXiv 2410.05258): the difference of two patterns over the
//! same values, `(softmax(q₁ k₁ᵀ · scale) − λ softmax(q₂ k₂ᵀ · scale)) v`.

mod reference;

use crate::AttentionOptions;
use crate::selftest::{Case, Inputs};
use crate::softmax_attention::{apply, attend, gated};
use burn::tensor::{Tensor, activation::sigmoid};
pub use reference::patterns;

/// Shapes: `q [batch, 2 · heads, time, d]`, `k [batch, 2 · kv_heads or kv_heads, source, d]`,
/// `v [batch, kv_heads, source, d_value]`, `lambda` broadcast to `[batch, heads, time, 1]` →
/// `[batch, heads, time, d_value]`.
///
/// Head `h` subtracts the pattern of query head `2h + 1` from that of `2h`; with `2 · kv_heads` key heads
/// (V1) they read key heads `2g` and `2g + 1` of group `g`, otherwise (V2) the same.
///
/// # Panics
/// When shapes or dtypes do not fit together, and with a sink or sigmoid weights, which nobody has defined.
pub fn differential_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    lambda: Tensor<4>,
    options: impl Into<AttentionOptions>,
) -> Tensor<4> {
    difference(q, k, v, lambda, options.into())
}

fn difference(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, lambda: Tensor<4>, options: AttentionOptions) -> Tensor<4> {
    assert!(
        matches!(options.normaliser, crate::Normaliser::Softmax { sink: None }),
        "differential attention has softmax patterns without a sink"
    );
    attend("differential_attention", q, k, v, Some(lambda), options, |q, k, v, lambda, options| {
        let gate = options.gate.clone();
        let (positive, negative) = patterns(q, k, v.dims()[1], options);
        gated(apply(positive - negative * lambda.expect("λ is always there"), v), gate)
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, q: [usize; 4], k: [usize; 4], v: [usize; 4], lambda: [usize; 4]| {
        let scale = (q[3] as f64).powf(-0.5);
        let run = move |x: &Inputs| {
            let lambda = sigmoid(x.get::<4>("lambda"));
            differential_attention(x.get("q"), x.get("k"), x.get("v"), lambda, scale).reshape([-1])
        };
        let inputs = [("q", &q[..]), ("k", &k), ("v", &v), ("lambda", &lambda)];
        Case::new("differential_attention", name, &inputs, run)
    };
    vec![
        case("V1, one λ, 75 tokens", [2, 4, 75, 16], [2, 4, 75, 16], [2, 2, 75, 32], [1, 1, 1, 1]),
        case("V1, grouped keys, 63 tokens", [1, 8, 63, 60], [1, 4, 63, 60], [1, 2, 63, 100], [1, 4, 1, 1]),
        case("V2, λ of every token, 75 tokens", [2, 8, 75, 64], [2, 2, 75, 64], [2, 2, 75, 64], [2, 4, 75, 1]),
        case("V2, 3 queries after 20 keys", [1, 4, 3, 16], [1, 1, 23, 16], [1, 1, 23, 16], [1, 2, 3, 1]),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tiles_agree_with_the_reference_in_the_output_and_every_gradient() {
        crate::selftest::agree(super::cases(), 1e-10);
    }
}
