//! Native sparse attention (NSA; Yuan et al. 2025, arXiv 2502.11089), with means as its compression:
//! three views of the past, weighed by gates of the query's token.
//!
//! ```text
//! compressed   softmax over the blocks c that end at or before t of q_t · k̄_c / √d, on the values v̄_c
//! selected     softmax over the keys s ≤ t of `selected` blocks: the first, t's own, the one before,
//!              and those of largest compressed weight, averaged over the heads of a key head
//! window       softmax over the last `window` keys
//! o_t = Σ_branches g_t ⊙ branch_t,   g = σ(x W_gᵀ) per head and branch       out = concat_h(o) W_oᵀ
//! ```
//! with `k̄, v̄` the means of a block of `block` keys and values. This is the form of
//! flash-linear-attention: the paper compresses overlapping blocks by a learned network and gives
//! every branch keys and values of its own. The choice itself has no gradient.
//!
//! This is the definition: it masks dense maps and saves nothing. As a value enters its block's mean
//! with `1 / block`, the three branches add up to one pattern; its rows sum to the gates of those
//! that see anything. Decoding keeps keys and values.
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`, gates
//! `[batch, time, heads, 3]`, the choice `[batch, kv_heads, time, complete blocks]`.
//!
//! Parameters: those of softmax attention, and `3·D·H`.

use super::moba::{HIDDEN, best_blocks, block_scores, over_keys};
use super::{Softmax, SoftmaxConfig, merge_heads};
use crate::error::{ZooError, positive};
use crate::{Cache, Init, Linear, Mixer, Position, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData, activation};
use kernels::AttentionOptions;
use kernels::softmax_attention::{apply, pattern};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NsaConfig {
    pub heads: usize,
    /// Key and value heads; `heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Channels of a head; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries and keys are normed per head, before rotation.
    #[serde(default = "yes")]
    pub qk_norm: bool,
    /// Rotation or none: a mean key has no one distance.
    #[serde(default)]
    pub position: Position,
    /// Keys of a block.
    #[serde(default = "block")]
    pub block: usize,
    /// Blocks that a query sees in full, the three that it always does included.
    #[serde(default = "selected")]
    pub selected: usize,
    /// Keys of the window, the query's own included.
    #[serde(default = "window")]
    pub window: usize,
}

fn yes() -> bool {
    true
}
fn block() -> usize {
    64
}
fn selected() -> usize {
    16
}
fn window() -> usize {
    512
}

impl NsaConfig {
    /// 16 blocks of 64 keys and a window of 512, as in the paper.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            kv_heads: None,
            head_dim: None,
            qk_norm: true,
            position: Position::default(),
            block: block(),
            selected: selected(),
            window: window(),
        }
    }

    /// Where queries, keys and values come from.
    pub fn attention(&self) -> SoftmaxConfig {
        SoftmaxConfig {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            qk_norm: self.qk_norm,
            position: self.position,
            ..SoftmaxConfig::new(self.heads)
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("block", self.block)?;
        positive("window", self.window)?;
        let invalid =
            |name, value: String, expected: &str| Err(ZooError::Invalid { name, value, expected: expected.into() });
        if self.selected < 3 {
            return invalid("selected", self.selected.to_string(), "at least 3 (the first block and the last two)");
        }
        if let Position::Alibi {} = self.position {
            return invalid("position", "alibi".into(), "rope or none (a mean key has no one distance)");
        }
        self.attention().validate(d_model)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.attention().parameters(d_model) + 3 * d_model * self.heads
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Nsa {
        Nsa {
            attention: self.attention().init(d_model, init),
            gate_proj: Linear::new(d_model, 3 * self.heads, init),
            block: self.block,
            selected: self.selected,
            window: self.window,
        }
    }
}

#[derive(Module, Debug)]
pub struct Nsa {
    pub attention: Softmax,
    /// Per head one row for the compressed, the selected and the window branch.
    pub gate_proj: Linear,
    #[module(skip)]
    block: usize,
    #[module(skip)]
    selected: usize,
    #[module(skip)]
    window: usize,
}

impl Nsa {
    /// The patterns `[batch, heads, time, source]` of the three branches.
    fn branches(&self, q: Tensor<4>, k: Tensor<4>, tap: &mut dyn Tap) -> [Tensor<4>; 3] {
        let [batch, heads, time, d] = q.dims();
        let [_, kv_heads, source, _] = k.dims();
        let (complete, scale) = (source / self.block, (d as f64).powf(-0.5));
        let position = |t: usize| source - time + t;
        let own = |t: usize| position(t) / self.block;
        let like = (&q.device(), q.dtype());
        let table = |columns: usize, one: &dyn Fn(usize, usize) -> bool| {
            let values: Vec<f32> = (0..time * columns).map(|i| one(i / columns, i % columns) as u8 as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, time, columns]), like)
        };
        let earlier = table(complete.max(1), &|t, c| c < own(t));
        let (compressed, chosen) = if complete == 0 {
            (Tensor::zeros([batch, heads, time, source], like), earlier.expand([batch, kv_heads, time, 1]))
        } else {
            let ended = table(complete, &|t, c| (c + 1) * self.block <= position(t) + 1);
            let scores = block_scores(q.clone() * scale, k.clone(), self.block) + (ended.clone() - 1.0) * HIDDEN;
            // A query that no block precedes has a row of zeros.
            let weights = activation::softmax(scores, 3) * ended;
            let group = weights.clone().detach().reshape([batch, kv_heads, heads / kv_heads, time, complete]);
            let importance: Tensor<4> = group.mean_dim(2).squeeze_dim(2);
            // Above every weight.
            let always = table(complete, &|t, c| (c == 0 || c + 1 == own(t)) && c < own(t)) * 2.0;
            let chosen = best_blocks(importance + always, earlier, self.selected - 1);
            (over_keys(weights / self.block as f64, self.block, source), chosen)
        };
        let chosen = tap.at("blocks", chosen);
        let mut seen = table(source, &|t, s| s / self.block == own(t)).expand([batch, kv_heads, time, source]);
        if complete > 0 {
            seen = (seen + over_keys(chosen, self.block, source)).clamp_max(1.0);
        }
        let seen = seen.unsqueeze_dim::<5>(2).repeat_dim(2, heads / kv_heads).reshape([batch, heads, time, source]);
        let bias = Some((seen - 1.0) * HIDDEN);
        let selected = pattern(q.clone(), k.clone(), AttentionOptions { bias, ..scale.into() });
        let window = pattern(q, k, AttentionOptions { window: Some(self.window), ..scale.into() });
        [compressed, selected, window]
    }

    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let start = cache.as_ref().map_or(0, |c| c.position());
        let (q, mut k, mut v) = self.attention.project(x.clone(), start, tap);
        if let Some(cache) = cache {
            k = cache.append("k", k, 2);
            v = cache.append("v", v, 2);
        }
        let [batch, heads, time, _] = q.dims();
        let gates = activation::sigmoid(self.gate_proj.forward(x)).reshape([batch, time, heads, 3]);
        let gates = tap.at("branches", gates).swap_dims(1, 2);
        let branches = self.branches(q, k, tap).into_iter().enumerate();
        let whole = branches.map(|(i, branch)| branch * gates.clone().narrow(3, i, 1)).reduce(|a, b| a + b);
        let heads = apply(tap.at("pattern", whole.expect("three branches")), v);
        tap.at("out", self.attention.o_proj.forward(merge_heads(heads)))
    }
}

impl Mixer for Nsa {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
