use burn::tensor::{Tensor, TensorData, activation::softmax};

/// The attention pattern `softmax(q kᵀ · scale + mask)`: `[batch, heads, time, source]`.
pub fn pattern(q: Tensor<4>, k: Tensor<4>, scale: f64) -> Tensor<4> {
    let [batch, heads, time, d] = q.dims();
    let [_, kv_heads, source, d_key] = k.dims();
    assert_eq!(d, d_key, "queries have head_dim {d}, keys have {d_key}");
    assert!(heads.is_multiple_of(kv_heads), "{heads} query heads are not a multiple of {kv_heads} key heads");
    assert!(source >= time, "{time} queries but only {source} keys");
    let group = heads / kv_heads;
    // The queries of a group stand one below the other, so keys are never repeated.
    let scores = (q * scale)
        .reshape([batch, kv_heads, group * time, d])
        .matmul(k.transpose())
        .reshape([batch, heads, time, source]);
    if time == 1 {
        return softmax(scores, 3);
    }
    let mask = (0..time * source)
        .map(|i| if i % source > source - time + i / source { -1e30f32 } else { 0.0 })
        .collect::<Vec<f32>>();
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, time, source]), (&scores.device(), scores.dtype()));
    softmax(scores + mask, 3)
}

/// `pattern · v`, with value heads shared by groups of query heads.
pub fn apply(pattern: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [batch, heads, time, source] = pattern.dims();
    let [_, kv_heads, _, d_value] = v.dims();
    pattern.reshape([batch, kv_heads, heads / kv_heads * time, source]).matmul(v).reshape([batch, heads, time, d_value])
}
