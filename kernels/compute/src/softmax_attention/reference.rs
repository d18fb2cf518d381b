use super::{AttentionOptions, Normaliser};
use burn::tensor::{Bool, DType, Tensor, TensorData, activation};
use std::ops::Range;

/// What a bias is raised to at least, and what stands for a hidden score, so far below that its weight is zero.
/// Finite: infinities would make NaN of a row that has nothing else.
fn lowest(dtype: DType) -> [f64; 2] {
    match dtype {
        DType::F16 => [-3e4, -6e4],
        _ => [LOWEST_BIAS, -3e38],
    }
}

/// In f32, f64 and bf16.
pub(super) const LOWEST_BIAS: f64 = -1.5e38;

/// The attention pattern: `[batch, heads, time, source]`. A number for `options` is the scale.
pub fn pattern(q: Tensor<4>, k: Tensor<4>, options: impl Into<AttentionOptions>) -> Tensor<4> {
    let options = options.into();
    let [batch, heads, time, _] = q.dims();
    let source = k.dims()[2];
    assert!(source >= time, "{time} queries but only {source} keys");
    options.check();
    let scores = scores(products(q * options.scale, k), &options, 0, source);
    match options.normaliser {
        Normaliser::Sigmoid => activation::sigmoid(scores),
        Normaliser::Softmax { sink: None } => activation::softmax(scores, 3),
        Normaliser::Softmax { sink: Some(sink) } => {
            // One column more, which takes its share and is dropped.
            let sink = sink.expand([batch, heads, time, 1]);
            activation::softmax(Tensor::cat(vec![scores, sink], 3), 3).narrow(3, 0, source)
        }
    }
}

/// The rows `rows` of the heads `heads` of the pattern, `[batch, heads, rows, source]`: what somebody
/// looks at while the fused operator does the work.
pub fn pattern_of(
    q: Tensor<4>,
    k: Tensor<4>,
    options: impl Into<AttentionOptions>,
    heads: Range<usize>,
    rows: Range<usize>,
) -> Tensor<4> {
    let options = options.into();
    let [batch, all, time, _] = q.dims();
    let [_, kv_heads, source, _] = k.dims();
    if heads == (0..all) && rows == (0..time) {
        return pattern(q, k, options);
    }
    // The keys up to the last row's own, of every head by itself.
    let seen = source - time + rows.end;
    let key = |head: usize| k.clone().narrow(1, head / (all / kv_heads), 1).narrow(2, 0, seen);
    let keys = Tensor::cat(heads.clone().map(key).collect(), 1);
    let part = |x: Tensor<4>| {
        let narrow = |x: Tensor<4>, axis: usize, range: &Range<usize>| {
            if x.dims()[axis] == 1 { x } else { x.narrow(axis, range.start, range.len()) }
        };
        let x = narrow(narrow(x, 1, &heads), 2, &rows);
        if x.dims()[3] == source { x.narrow(3, 0, seen) } else { x }
    };
    let normaliser = match options.normaliser {
        Normaliser::Softmax { sink } => Normaliser::Softmax { sink: sink.map(part) },
        Normaliser::Sigmoid => Normaliser::Sigmoid,
    };
    let slopes = options.slopes.map(|slopes| slopes[heads.clone()].to_vec());
    let options = AttentionOptions { bias: options.bias.map(part), normaliser, slopes, ..options };
    let q = q.narrow(1, heads.start, heads.len()).narrow(2, rows.start, rows.len());
    let like = (&q.device(), q.dtype());
    let rest = Tensor::zeros([batch, heads.len(), rows.len(), source - seen], like);
    let pattern = pattern(q, keys, options);
    if seen == source { pattern } else { Tensor::cat(vec![pattern, rest], 3) }
}

/// `q kᵀ`, `[batch, heads, time, source]`.
pub(crate) fn products(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    let [batch, heads, time, d] = q.dims();
    let [_, kv_heads, source, d_key] = k.dims();
    assert_eq!(d, d_key, "queries have head_dim {d}, keys have {d_key}");
    assert!(heads.is_multiple_of(kv_heads), "{heads} query heads are not a multiple of {kv_heads} key heads");
    // The queries of a group stand one below the other, so keys are never repeated.
    q.reshape([batch, kv_heads, heads / kv_heads * time, d]).matmul(k.transpose()).reshape([batch, heads, time, source])
}

/// Soft cap, bias and mask over scaled products with the keys `first ..` of `source` keys.
pub(crate) fn scores(products: Tensor<4>, options: &AttentionOptions, first: usize, source: usize) -> Tensor<4> {
    let [_, _, time, keys] = products.dims();
    let mut scores = products;
    let [lowest_bias, lowest] = lowest(scores.dtype());
    if let Some(cap) = options.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(bias) = &options.bias {
        let bias = bias.clone();
        let below = bias.clone().lower_elem(lowest_bias);
        let bias = bias.mask_fill(below, lowest_bias);
        scores = scores + if bias.dims()[3] == source { bias.narrow(3, first, keys) } else { bias };
    }
    if let Some(slopes) = &options.slopes {
        let value = |i: usize| {
            let (head, t, s) = (i / (time * keys), i / keys % time, first + i % keys);
            slopes[head] * (s as f64 - (source - time + t) as f64)
        };
        let values: Vec<f64> = (0..slopes.len() * time * keys).map(value).collect();
        let like = (&scores.device(), scores.dtype());
        scores = scores + Tensor::<4>::from_data(TensorData::new(values, [1, slopes.len(), time, keys]), like);
    }
    // Query t stands at key `source − time + t`.
    let hidden = |t: usize, s: usize| {
        let own = source - time + t;
        s > own || options.window.is_some_and(|window| s + window <= own)
    };
    if time > 1 || options.window.is_some_and(|window| window < source) {
        let mask: Vec<bool> = (0..time * keys).map(|i| hidden(i / keys, first + i % keys)).collect();
        let mask = Tensor::<4, Bool>::from_data(TensorData::new(mask, [1, 1, time, keys]), &scores.device());
        scores = scores.clone().mask_fill(mask.expand(scores.shape()), lowest);
    }
    scores
}

/// `out ∘ gate`, where there is a gate.
pub fn gated(out: Tensor<4>, gate: Option<Tensor<4>>) -> Tensor<4> {
    match gate {
        Some(gate) => out * gate,
        None => out,
    }
}

/// `pattern · v`, with value heads shared by groups of query heads.
pub fn apply(pattern: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [batch, heads, time, source] = pattern.dims();
    let [_, kv_heads, _, d_value] = v.dims();
    pattern.reshape([batch, kv_heads, heads / kv_heads * time, source]).matmul(v).reshape([batch, heads, time, d_value])
}
