//! Multi-head latent attention (MLA; DeepSeek-V2 2024, arXiv 2405.04434): all heads' keys and values
//! are projections of one small vector per token, and that vector is all that is kept.
//!
//! ```text
//! c = RMSNorm(x W_dkvᵀ),  k^R = rotate(x W_krᵀ)                         one of each for all heads
//! k_h = [W_uk_h c ; k^R],  v_h = W_uv_h c,  q_h = [q^C_h ; rotate(q^R_h)],  q = x W_qᵀ
//! A_h = softmax(q_h k_hᵀ / √(d_c + d_r) + causal mask)       out = concat_h(A_h v_h) W_oᵀ
//! ```
//! Queries may be of low rank too: `q = RMSNorm(x W_dqᵀ) W_uqᵀ`. Since a rotation would stand between
//! `q` and `W_uk`, positions travel in channels of their own, `q^R` and `k^R`.
//!
//! Decoding keeps `[c ; k^R]`, `r + d_r` numbers a token (512 + 64 as published). As
//! `q^C · W_uk c = (W_ukᵀ q^C) · c`, `W_uk` is folded into the query and `W_uv` into the output
//! ("absorbed"): heads attend directly to `[c ; k^R]`, as multi-query attention with one wide key
//! and with `c` as its value. `forward` expands keys and values, which is cheaper for whole texts;
//! so does a step that is asked for them. A tap on `k` or `v` then gets those of all tokens so far.
//! A [quantised cache](crate::quantise) encodes `[c ; k^R]` as one vector.
//!
//! Shapes: `q, k [batch, heads, time, d_c + d_r]`, `v [batch, heads, time, d_v]`,
//! `c [batch, time, r]`.
//!
//! Parameters: `D·H·(d_c + d_r) + D·(r + d_r) + r + r·H·(d_c + d_v) + H·d_v·D`; with queries of rank
//! `r_q` the first term becomes `D·r_q + r_q + r_q·H·(d_c + d_r)`.

use super::{merge_heads, split_heads};
use crate::cache::KeyValues;
use crate::error::{ZooError, divisible, positive, positive_number};
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentConfig {
    pub heads: usize,
    /// `r`, channels of the latent; `d_model / 4` when absent, as in DeepSeek-V2-Lite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// `r_q`, the rank of the queries; full when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<usize>,
    /// `d_c`, channels of a query and key without position; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_dim: Option<usize>,
    /// `d_r`, channels with position; half of `d_c` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_dim: Option<usize>,
    /// `d_v`; `d_c` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Of the `d_r` channels: a rotation, or none.
    #[serde(default)]
    pub position: Position,
    /// ε of the norms.
    #[serde(default = "eps")]
    pub norm_eps: f64,
}

fn eps() -> f64 {
    1e-6
}

impl LatentConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            rank: None,
            query_rank: None,
            content_dim: None,
            position_dim: None,
            value_dim: None,
            position: Position::default(),
            norm_eps: eps(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        if self.content_dim.is_none() {
            divisible("d_model", d_model, "heads", self.heads)?;
        }
        positive("rank", self.rank(d_model))?;
        positive("query_rank", self.query_rank.unwrap_or(1))?;
        positive("content_dim", self.content_dim(d_model))?;
        positive("position_dim", self.position_dim(d_model))?;
        positive("value_dim", self.value_dim(d_model))?;
        positive_number("norm_eps", self.norm_eps)?;
        if let Position::Alibi {} = self.position {
            let expected = "rope or none (slopes need no channels of their own)".into();
            return Err(ZooError::Invalid { name: "position", value: "alibi".into(), expected });
        }
        self.position.validate(self.position_dim(d_model))
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (rank, heads) = (self.rank(d_model), self.heads);
        let (content, position, value) =
            (self.content_dim(d_model), self.position_dim(d_model), self.value_dim(d_model));
        let wide = heads * (content + position);
        let queries = self.query_rank.map_or(d_model * wide, |rank| d_model * rank + rank + rank * wide);
        queries + d_model * (rank + position) + rank + rank * heads * (content + value) + heads * value * d_model
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Latent {
        let (rank, heads) = (self.rank(d_model), self.heads);
        let (content, position, value) =
            (self.content_dim(d_model), self.position_dim(d_model), self.value_dim(d_model));
        Latent {
            q_down: self.query_rank.map(|rank| Linear::new(d_model, rank, init)),
            q_norm: self.query_rank.map(|rank| RmsNorm::new(rank, self.norm_eps, init)),
            q_proj: Linear::new(self.query_rank.unwrap_or(d_model), heads * (content + position), init),
            kv_down: Linear::new(d_model, rank + position, init),
            kv_norm: RmsNorm::new(rank, self.norm_eps, init),
            kv_proj: Linear::new(rank, heads * (content + value), init),
            o_proj: Linear::residual(heads * value, d_model, init),
            heads,
            rank,
            content,
            position: self.position,
        }
    }

    pub fn rank(&self, d_model: usize) -> usize {
        self.rank.unwrap_or(d_model / 4)
    }

    pub fn content_dim(&self, d_model: usize) -> usize {
        self.content_dim.unwrap_or(d_model / self.heads)
    }

    pub fn position_dim(&self, d_model: usize) -> usize {
        self.position_dim.unwrap_or(self.content_dim(d_model) / 2)
    }

    pub fn value_dim(&self, d_model: usize) -> usize {
        self.value_dim.unwrap_or(self.content_dim(d_model))
    }
}

#[derive(Module, Debug)]
pub struct Latent {
    pub q_down: Option<Linear>,
    pub q_norm: Option<RmsNorm>,
    /// Per head `d_c` rows of content, then `d_r` of position.
    pub q_proj: Linear,
    /// `r` rows of the latent, then `d_r` of the common key.
    pub kv_down: Linear,
    pub kv_norm: RmsNorm,
    /// Per head `d_c` rows of the key, `W_uk`, then `d_v` of the value, `W_uv`.
    pub kv_proj: Linear,
    pub o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    rank: usize,
    #[module(skip)]
    content: usize,
    #[module(skip)]
    position: Position,
}

impl Latent {
    /// `[batch, heads, time, d_c + d_r]`.
    fn queries(&self, x: Tensor<3>, start: usize) -> Tensor<4> {
        let low = match (&self.q_down, &self.q_norm) {
            (Some(down), Some(norm)) => norm.forward(down.forward(x)),
            _ => x,
        };
        let q = split_heads(self.q_proj.forward(low), self.heads);
        let width = q.dims()[3];
        let placed = self.position.rotate(q.clone().narrow(3, self.content, width - self.content), start);
        Tensor::cat(vec![q.narrow(3, 0, self.content), placed], 3)
    }

    /// What is kept of every token, `[c ; k^R]`: `[batch, 1, time, r + d_r]`.
    fn compress(&self, x: Tensor<3>, start: usize, tap: &mut dyn Tap) -> Tensor<4> {
        let down = self.kv_down.forward(x);
        let width = down.dims()[2];
        let c = tap.at("latent", self.kv_norm.forward(down.clone().narrow(2, 0, self.rank)));
        let common = down.narrow(2, self.rank, width - self.rank).unsqueeze_dim(1);
        Tensor::cat(vec![c.unsqueeze_dim(1), self.position.rotate(common, start)], 3)
    }

    /// Keys and values of every head from what is kept.
    fn expand(&self, kept: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, _, source, width] = kept.dims();
        let c = kept.clone().narrow(3, 0, self.rank).reshape([batch, source, self.rank]);
        let both = split_heads(self.kv_proj.forward(c), self.heads);
        let value = both.dims()[3] - self.content;
        let common = kept.narrow(3, self.rank, width - self.rank);
        let common = common.expand([batch, self.heads, source, width - self.rank]);
        let k = Tensor::cat(vec![both.clone().narrow(3, 0, self.content), common], 3);
        (k, both.narrow(3, self.content, value))
    }

    /// Keys and values formed for every head.
    fn expanded(&self, q: Tensor<4>, kept: Tensor<4>, tap: &mut dyn Tap) -> Tensor<4> {
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let (k, v) = self.expand(kept);
        let (k, v) = (tap.at("k", k), tap.at("v", v));
        KeyValues::Whole { k, v }.attend(q, scale, "pattern", tap)
    }

    /// The same without keys and values: heads read what is kept.
    fn absorbed(&self, q: Tensor<4>, kept: Tensor<4>, tap: &mut dyn Tap) -> Tensor<4> {
        let width = q.dims()[3];
        let scale = (width as f64).powf(-0.5);
        let up = self.kv_proj.weight.val().reshape([1, self.heads as i32, -1, self.rank as i32]);
        let value = up.dims()[2] - self.content;
        let to_key: Tensor<4> = up.clone().narrow(2, 0, self.content); // [1, heads, d_c, r]
        let to_value = up.narrow(2, self.content, value); // [1, heads, d_v, r]
        let content = q.clone().narrow(3, 0, self.content).matmul(to_key);
        let q = Tensor::cat(vec![content, q.narrow(3, self.content, width - self.content)], 3);
        let c = kept.clone().narrow(3, 0, self.rank);
        let mixed = KeyValues::Whole { k: kept, v: c }.attend(q, scale, "pattern", tap);
        mixed.matmul(to_value.transpose())
    }

    fn finish(&self, heads: Tensor<4>, tap: &mut dyn Tap) -> Tensor<3> {
        tap.at("out", self.o_proj.forward(merge_heads(heads)))
    }
}

impl Mixer for Latent {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        let kept = self.compress(x.clone(), 0, tap);
        let q = tap.at("q", self.queries(x, 0));
        let heads = self.expanded(q, kept, tap);
        self.finish(heads, tap)
    }

    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        let start = cache.position();
        let kept = self.compress(x.clone(), start, tap);
        let kept = cache.append("latent", kept, 2);
        let q = tap.at("q", self.queries(x, start));
        let heads =
            if tap.wants("k") || tap.wants("v") { self.expanded(q, kept, tap) } else { self.absorbed(q, kept, tap) };
        self.finish(heads, tap)
    }
}
