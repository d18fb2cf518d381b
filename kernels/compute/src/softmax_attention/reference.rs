use super::{AttentionOptions, Normaliser};
use burn::tensor::{Tensor, TensorData, activation};

/// Far below any score, and finite: an infinity would make NaN of a row without keys.
const HIDDEN: f32 = -1e30;

/// The attention pattern: `[batch, heads, time, source]`. A number for `options` is the scale.
pub fn pattern(q: Tensor<4>, k: Tensor<4>, options: impl Into<AttentionOptions>) -> Tensor<4> {
    let AttentionOptions { scale, window, softcap, bias, normaliser } = options.into();
    let [batch, heads, time, d] = q.dims();
    let [_, kv_heads, source, d_key] = k.dims();
    assert_eq!(d, d_key, "queries have head_dim {d}, keys have {d_key}");
    assert!(heads.is_multiple_of(kv_heads), "{heads} query heads are not a multiple of {kv_heads} key heads");
    assert!(source >= time, "{time} queries but only {source} keys");
    let group = heads / kv_heads;
    // The queries of a group stand one below the other, so keys are never repeated.
    let mut scores = (q * scale)
        .reshape([batch, kv_heads, group * time, d])
        .matmul(k.transpose())
        .reshape([batch, heads, time, source]);
    if let Some(cap) = softcap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    // Query t stands at key `source − time + t`.
    let hidden = |t: usize, s: usize| {
        let own = source - time + t;
        s > own || window.is_some_and(|window| s + window <= own)
    };
    if time > 1 || window.is_some_and(|window| window < source) {
        let mask: Vec<f32> =
            (0..time * source).map(|i| if hidden(i / source, i % source) { HIDDEN } else { 0.0 }).collect();
        let like = (&scores.device(), scores.dtype());
        scores = scores + Tensor::<4>::from_data(TensorData::new(mask, [1, 1, time, source]), like);
    }
    match normaliser {
        Normaliser::Sigmoid => activation::sigmoid(scores),
        Normaliser::Softmax { sink: None } => activation::softmax(scores, 3),
        Normaliser::Softmax { sink: Some(sink) } => {
            // One column more, which takes its share and is dropped.
            let sink = sink.expand([batch, heads, time, 1]);
            activation::softmax(Tensor::cat(vec![scores, sink], 3), 3).narrow(3, 0, source)
        }
    }
}

/// `pattern · v`, with value heads shared by groups of query heads.
pub fn apply(pattern: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [batch, heads, time, source] = pattern.dims();
    let [_, kv_heads, _, d_value] = v.dims();
    pattern.reshape([batch, kv_heads, heads / kv_heads * time, source]).matmul(v).reshape([batch, heads, time, d_value])
}
