use crate::AttentionOptions;
use crate::softmax_attention::pattern;
use burn::tensor::Tensor;

/// The two patterns, `[batch, heads, time, source]` each.
pub fn patterns(
    q: Tensor<4>,
    k: Tensor<4>,
    kv_heads: usize,
    options: impl Into<AttentionOptions>,
) -> (Tensor<4>, Tensor<4>) {
    let options = options.into();
    let [(q1, k1), (q2, k2)] = maps(q, k, kv_heads);
    (pattern(q1, k1, options.clone()), pattern(q2, k2, options))
}

/// The queries and keys of the two.
fn maps(q: Tensor<4>, k: Tensor<4>, kv_heads: usize) -> [(Tensor<4>, Tensor<4>); 2] {
    let (q1, q2) = halves(q);
    let (k1, k2) = if k.dims()[1] == kv_heads { (k.clone(), k) } else { halves(k) };
    [(q1, k1), (q2, k2)]
}

/// Heads `0, 2, 4, …` and heads `1, 3, 5, …` of `[batch, heads, time, d]`.
fn halves(x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [batch, heads, time, d] = x.dims();
    let pairs = x.reshape([batch, heads / 2, 2, time, d]);
    let half = |c| pairs.clone().narrow(2, c, 1).reshape([batch, heads / 2, time, d]);
    (half(0), half(1))
}
