use super::ProductCodes;
use crate::softmax_attention::{AttentionOptions, Normaliser, apply, products, scores};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation};

impl ProductCodes {
    /// The vectors that the codes stand for, `[batch, kv_heads, source, subspaces · width]`.
    pub fn reconstruct(&self) -> Tensor<4> {
        let [batch, kv_heads, source, subspaces] = self.codes.dims();
        let [_, _, width] = self.centroids.dims();
        let rows = batch * kv_heads * source;
        let codes = self.codes.clone().reshape([rows, subspaces, 1]).swap_dims(0, 1); // [subspaces, rows, 1]
        let vectors = self.centroids.clone().gather(1, codes.expand([subspaces, rows, width]));
        vectors.swap_dims(0, 1).reshape([batch, kv_heads, source, subspaces * width])
    }

    /// `q kᵀ` by look-up, `[batch, heads, time, source]`.
    pub(super) fn products(&self, q: Tensor<4>) -> Tensor<4> {
        let [batch, heads, time, _] = q.dims();
        let [_, kv_heads, source, subspaces] = self.codes.dims();
        let [_, count, width] = self.centroids.dims();
        let (groups, rows) = (batch * kv_heads, heads / kv_heads * time);
        let parts = q.reshape([groups * rows, subspaces, width]).swap_dims(0, 1);
        let table = parts.matmul(self.centroids.clone().transpose()); // [subspaces, groups · rows, count]
        let table = table.swap_dims(0, 1).reshape([groups, rows, subspaces, count]);
        table.gather(3, self.for_rows(rows)).sum_dim(2).reshape([batch, heads, time, source])
    }

    /// `pattern · v` by weight per centroid, `[batch, heads, time, subspaces · width]`.
    pub(super) fn apply(&self, pattern: Tensor<4>) -> Tensor<4> {
        let [batch, heads, time, source] = pattern.dims();
        let [_, kv_heads, _, subspaces] = self.codes.dims();
        let [_, count, width] = self.centroids.dims();
        let (groups, rows) = (batch * kv_heads, heads / kv_heads * time);
        let none = Tensor::<4>::zeros([groups, rows, subspaces, count], (&pattern.device(), pattern.dtype()));
        let weights = pattern.reshape([groups, rows, 1, source]).expand([groups, rows, subspaces, source]);
        let weights = none.scatter(3, self.for_rows(rows), weights, IndexingUpdateOp::Add);
        let parts = weights.reshape([groups * rows, subspaces, count]).swap_dims(0, 1);
        let parts = parts.matmul(self.centroids.clone()); // [subspaces, groups · rows, width]
        parts.swap_dims(0, 1).reshape([batch, heads, time, subspaces * width])
    }

    /// The codes for each of the `rows` queries of a key head: `[batch · kv_heads, rows, subspaces, source]`.
    fn for_rows(&self, rows: usize) -> Tensor<4, Int> {
        let [batch, kv_heads, source, subspaces] = self.codes.dims();
        let codes = self.codes.clone().swap_dims(2, 3).reshape([batch * kv_heads, 1, subspaces, source]);
        codes.expand([batch * kv_heads, rows, subspaces, source])
    }
}

pub(super) fn attend(
    q: Tensor<4>,
    keys: &ProductCodes,
    values: &ProductCodes,
    (recent_k, recent_v): (Tensor<4>, Tensor<4>),
    options: AttentionOptions,
) -> Tensor<4> {
    let [batch, heads, time, _] = q.dims();
    let (coded, recent) = (keys.codes.dims()[2], recent_k.dims()[2]);
    let source = coded + recent;
    let q = q * options.scale;
    let coded_scores = scores(keys.products(q.clone()), &options, 0, source);
    let recent_scores = scores(products(q, recent_k), &options, coded, source);
    let Normaliser::Softmax { sink } = options.normaliser else {
        // Weights that do not compete add up.
        let [coded, recent] = [coded_scores, recent_scores].map(activation::sigmoid);
        return values.apply(coded) + apply(recent, recent_v);
    };
    let sink = sink.map(|sink| sink.expand([batch, heads, time, 1]));
    let sums = [&coded_scores, &recent_scores].map(|scores| log_sum_exp(scores.clone()));
    let [coded, recent] = [coded_scores, recent_scores].map(|scores| activation::softmax(scores, 3));
    merge([values.apply(coded), apply(recent, recent_v)], sums, sink)
}

/// Attention over all keys from attention over each part `[batch, heads, time, d]` and the
/// logarithms of the parts' sums `[batch, heads, time, 1]`.
pub(super) fn merge(parts: [Tensor<4>; 2], sums: [Tensor<4>; 2], sink: Option<Tensor<4>>) -> Tensor<4> {
    let whole = log_sum_exp(Tensor::cat(sums.iter().cloned().chain(sink).collect(), 3));
    let [first, second] = parts;
    let [first_sum, second_sum] = sums;
    first * (first_sum - whole.clone()).exp() + second * (second_sum - whole).exp()
}

/// `log Σ e^x` along the last axis, kept.
pub(super) fn log_sum_exp(x: Tensor<4>) -> Tensor<4> {
    let top = x.clone().max_dim(3).detach();
    (x - top.clone()).exp().sum_dim(3).log() + top
}
