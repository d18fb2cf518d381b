//! Mixture of block attention (MoBA; Lu et al. 2025, arXiv 2502.13189): every query attends to a few
//! blocks of keys, which it chooses by their mean key.
//!
//! ```text
//! blocks c of `block` keys,  g_tc = q_t · mean(k of c)           c complete and before t's own block
//! chosen(t) = own block ∪ the top_k − 1 earlier blocks of largest g_tc
//! A = softmax over the keys s ≤ t in chosen(t) of q_t · k_s / √d          out = concat_h(A v) W_oᵀ
//! ```
//! Each query head chooses for itself. The choice has no gradient and no parameters: with as many
//! blocks as the text has this is softmax attention, exactly, and with `top_k = 1` attention inside
//! a block. The own block is always seen, and its mean never computed: it would hold later keys.
//!
//! This is the definition: it masks the dense map and saves nothing. Decoding chooses in the same way
//! (the published layer goes back to dense attention there) and keeps keys and values.
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`, the choice
//! `[batch, heads, time, complete blocks]` with ones at the earlier blocks that are chosen.
//!
//! Parameters: those of softmax attention.

use super::{Softmax, SoftmaxConfig, merge_heads};
use crate::error::{ZooError, positive};
use crate::{Cache, Init, Mixer, Position, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobaConfig {
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
    #[serde(default)]
    pub position: Position,
    /// Keys of a block.
    #[serde(default = "block")]
    pub block: usize,
    /// Blocks that a query sees, its own included.
    #[serde(default = "top_k")]
    pub top_k: usize,
}

fn yes() -> bool {
    true
}
fn block() -> usize {
    512
}
fn top_k() -> usize {
    3
}

impl MobaConfig {
    /// Three blocks of 512 keys, as in the paper's scaling experiments.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            kv_heads: None,
            head_dim: None,
            qk_norm: true,
            position: Position::default(),
            block: block(),
            top_k: top_k(),
        }
    }

    /// The attention whose keys are chosen.
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
        positive("top_k", self.top_k)?;
        self.attention().validate(d_model)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.attention().parameters(d_model)
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Moba {
        Moba { attention: self.attention().init(d_model, init), block: self.block, top_k: self.top_k }
    }
}

#[derive(Module, Debug)]
pub struct Moba {
    pub attention: Softmax,
    #[module(skip)]
    block: usize,
    #[module(skip)]
    top_k: usize,
}

impl Moba {
    /// What is added to the scores: 0 at keys of chosen blocks, far below any score at the others.
    fn hidden(&self, q: &Tensor<4>, k: &Tensor<4>, tap: &mut dyn Tap) -> Tensor<4> {
        let [batch, heads, time, _] = q.dims();
        let source = k.dims()[2];
        let complete = source / self.block;
        let own = |t: usize| (source - time + t) / self.block;
        let table = |columns: usize, one: &dyn Fn(usize, usize) -> bool| {
            let values: Vec<f32> = (0..time * columns).map(|i| one(i / columns, i % columns) as u8 as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, time, columns]), (&q.device(), q.dtype()))
        };
        let mut seen = table(source, &|t, s| s / self.block == own(t)).expand([batch, heads, time, source]);
        // A tap sees the choice even where there is nothing to choose from yet.
        let earlier = table(complete.max(1), &|t, c| c < own(t));
        let chosen = if complete == 0 {
            earlier.expand([batch, heads, time, 1])
        } else {
            let scores = block_scores(q.clone().detach(), k.clone().detach(), self.block);
            best_blocks(scores, earlier, self.top_k - 1)
        };
        let chosen = tap.at("blocks", chosen);
        if complete > 0 {
            seen = seen + over_keys(chosen, self.block, source);
        }
        (seen.clamp_max(1.0) - 1.0) * HIDDEN
    }

    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.attention.attend_with(x, |q, past, tap| Some(self.hidden(q, &past.keys(), tap)), cache, tap);
        tap.at("out", self.attention.o_proj.forward(merge_heads(heads)))
    }
}

/// Multiplies `seen − 1`: far below any score, and finite.
pub(super) const HIDDEN: f64 = 1e30;

/// Queries times the mean key of every complete block: `[batch, heads, time, blocks]`.
pub(super) fn block_scores(q: Tensor<4>, k: Tensor<4>, block: usize) -> Tensor<4> {
    let [batch, heads, time, d] = q.dims();
    let [_, kv_heads, source, _] = k.dims();
    let blocks = source / block;
    let keys = k.narrow(2, 0, blocks * block).reshape([batch, kv_heads, blocks, block, d]);
    let means: Tensor<4> = keys.mean_dim(3).squeeze_dim(3);
    q.reshape([batch, kv_heads, heads / kv_heads * time, d])
        .matmul(means.transpose())
        .reshape([batch, heads, time, blocks])
}

/// Ones at the `count` best of the `earlier` blocks, zeros elsewhere: `[batch, heads, time, blocks]`.
pub(super) fn best_blocks(scores: Tensor<4>, earlier: Tensor<4>, count: usize) -> Tensor<4> {
    let (blocks, device, dtype) = (scores.dims()[3], scores.device(), scores.dtype());
    let scores = scores + (earlier.clone() - 1.0) * HIDDEN;
    // A block's rank is the number of those before it: better ones, and equal ones to its left.
    let (own, others) = (scores.clone().unsqueeze_dim::<5>(4), scores.unsqueeze_dim::<5>(3));
    let left: Vec<f32> = (0..blocks * blocks).map(|i| (i % blocks < i / blocks) as u8 as f32).collect();
    let left = Tensor::<5>::from_data(TensorData::new(left, [1, 1, 1, blocks, blocks]), (&device, dtype));
    let better = others.clone().greater(own.clone()).float().cast(dtype);
    let equal = others.equal(own).float().cast(dtype) * left;
    let rank: Tensor<4> = (better + equal).sum_dim(4).squeeze_dim(4);
    rank.lower_elem(count as f64).float().cast(dtype) * earlier
}

/// What stands at each complete block, at each of its keys; zeros at the keys after them.
pub(super) fn over_keys(blocks: Tensor<4>, block: usize, source: usize) -> Tensor<4> {
    let [batch, heads, time, count] = blocks.dims();
    let keys = count * block;
    let spread = blocks.unsqueeze_dim::<5>(4).repeat_dim(4, block).reshape([batch, heads, time, keys]);
    if keys == source {
        return spread;
    }
    let rest = Tensor::zeros([batch, heads, time, source - keys], (&spread.device(), spread.dtype()));
    Tensor::cat(vec![spread, rest], 3)
}

impl Mixer for Moba {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
