//! Multi-token attention (Golovneva et al. 2025, arXiv 2504.00927) and, as its smallest case,
//! talking heads (Shazeer et al. 2020, arXiv 2003.02436): what one query finds at one key may depend
//! on neighbouring queries, neighbouring keys and other heads.
//!
//! ```text
//! S = q kᵀ / √d, 0 where s > t
//! S'_ts = Σ_{a<c_q} Σ_{|b|≤c_k/2} θ_ab S_{t−a, s+b}      one kernel per head, 0 outside of the map
//! S''_h = Σ_{h'} P_hh' S'_{h'}                            h' in the group of h
//! A = softmax(S'' + causal mask)                          and the same two steps on A, 0 where s > t
//! O = A v;   O ← RMSNorm(O) (1 − λ_init(l));   O ← O σ(w·O + b)         out = concat_h(O) W_oᵀ
//! ```
//! Before the softmax and after it ([`MapMixing`]) either step may be left out, and so may the norm,
//! its factor (`λ_init` as in differential attention, the paper's first version) and the gate (the
//! released configurations). Kernels start as "this query, this key" and `P` as the identity: the
//! model starts as softmax attention up to the norm. Rows of the final pattern need not sum to one.
//!
//! No future token is read: queries mix with earlier ones alone, and where keys mix with later
//! ones, scores beyond each query are zeros.
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`, `θ [heads, 1, c_q, c_k]`
//! with the current query in the last row, `P [heads / group, group, group]`.
//!
//! Parameters: those of softmax attention, `H·c_q·c_k` per convolution, `H·group` per head mixing,
//! `d` for the norm, `d + 1` for the gate.
//!
//! Decoding keeps all keys and values and the last `R + 1` queries, `R = Σ (c_q − 1)` over both
//! convolutions, and forms the last `R + 1` rows of the map anew: that costs `R + 1` rows in place of
//! one, but a cache of scores would grow with the text for every head and row.

use super::{Softmax, SoftmaxConfig, lambda_init, merge_heads};
use crate::error::{ZooError, divisible, positive, positive_number};
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation, module::conv2d, ops::ConvOptions};
use kernels::softmax_attention::apply;
use serde::{Deserialize, Serialize};

/// What mixes the map, before the softmax or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapMixing {
    /// Queries and keys that a kernel spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<MapKernel>,
    /// How many neighbouring heads mix with each other: a divisor of `heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
}

/// The span of a convolution over the map.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapKernel {
    /// The current query and those before it.
    pub queries: usize,
    /// An odd number, the current key in the middle.
    pub keys: usize,
}

/// The norm of every head's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadNorm {
    /// Whether the normed output is multiplied by `1 − λ_init(layer)`.
    #[serde(default)]
    pub depth_scaling: bool,
    /// Whether a gate, one score per head and token from the normed output, multiplies it.
    #[serde(default)]
    pub gate: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiTokenConfig {
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
    /// Rotation or none: slopes on the scores are not defined here.
    #[serde(default)]
    pub position: Position,
    /// On the scores.
    #[serde(default)]
    pub before: MapMixing,
    /// On the weights.
    #[serde(default)]
    pub after: MapMixing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<HeadNorm>,
    /// ε of that norm.
    #[serde(default = "eps")]
    pub norm_eps: f64,
}

fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-5
}

impl MultiTokenConfig {
    /// The released configuration of the language models: kernels of 6 queries × 11 keys and mixing
    /// of all heads, before and after the softmax, and a gated norm. (There the kernels are in every
    /// fourth layer, head mixing is in all, and QK-norm in none.)
    pub fn new(heads: usize) -> Self {
        let mixing = MapMixing { kernel: Some(MapKernel { queries: 6, keys: 11 }), heads: Some(heads) };
        let norm = Some(HeadNorm { depth_scaling: false, gate: true });
        Self { before: mixing, after: mixing, norm, ..Self::plain(heads) }
    }

    /// Talking heads: all heads mix, before and after the softmax; no kernels, no norm. (Theirs
    /// start at random, these at the identity; and theirs may have other numbers of heads on each side of the
    /// softmax.)
    pub fn talking_heads(heads: usize) -> Self {
        let mixing = MapMixing { kernel: None, heads: Some(heads) };
        Self { before: mixing, after: mixing, ..Self::plain(heads) }
    }

    /// Nothing mixed: softmax attention with QK-norm and full rotation.
    pub fn plain(heads: usize) -> Self {
        Self {
            heads,
            kv_heads: None,
            head_dim: None,
            qk_norm: true,
            position: Position::default(),
            before: MapMixing::default(),
            after: MapMixing::default(),
            norm: None,
            norm_eps: eps(),
        }
    }

    /// The attention whose map is mixed.
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
        self.attention().validate(d_model)?;
        positive_number("norm_eps", self.norm_eps)?;
        if let Position::Alibi {} = self.position {
            let expected = "rope or none (slopes would be mixed with the scores)".into();
            return Err(ZooError::Invalid { name: "position", value: "alibi".into(), expected });
        }
        self.before.validate(self.heads)?;
        self.after.validate(self.heads)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let d = self.head_dim(d_model);
        self.attention().parameters(d_model)
            + self.before.parameters(self.heads)
            + self.after.parameters(self.heads)
            + self.norm.map_or(0, |norm| if norm.gate { 2 * d + 1 } else { d })
    }

    /// The mixer of block `layer`, counted from 0.
    pub fn init(&self, d_model: usize, layer: usize, init: &mut Init) -> MultiToken {
        let d = self.head_dim(d_model);
        MultiToken {
            attention: self.attention().init(d_model, init),
            before: self.before.init(self.heads, init),
            after: self.after.init(self.heads, init),
            norm: self.norm.map(|norm| OutputNorm {
                norm: RmsNorm::new(d, self.norm_eps, init),
                gate: norm.gate.then(|| Linear::new(d, 1, init)),
                gate_bias: norm.gate.then(|| init.constant([1], 0.0)),
                factor: if norm.depth_scaling { 1.0 - lambda_init(layer) } else { 1.0 },
            }),
            earlier: self.earlier_queries(),
        }
    }

    pub fn head_dim(&self, d_model: usize) -> usize {
        self.attention().head_dim(d_model)
    }

    /// `R`: queries before the current one that its output depends on.
    pub fn earlier_queries(&self) -> usize {
        self.before.earlier() + self.after.earlier()
    }
}

impl MapMixing {
    fn validate(&self, heads: usize) -> Result<(), ZooError> {
        if let Some(MapKernel { queries, keys }) = self.kernel {
            positive("queries of a kernel", queries)?;
            if positive("keys of a kernel", keys)?.is_multiple_of(2) {
                let (value, expected) = (keys.to_string(), "an odd number".into());
                return Err(ZooError::Invalid { name: "keys of a kernel", value, expected });
            }
        }
        if let Some(group) = self.heads {
            divisible("heads", heads, "mixed heads", group)?;
        }
        Ok(())
    }

    fn parameters(&self, heads: usize) -> usize {
        heads * (self.kernel.map_or(0, |kernel| kernel.queries * kernel.keys) + self.heads.unwrap_or(0))
    }

    /// Queries before the current one that are read.
    fn earlier(&self) -> usize {
        self.kernel.map_or(0, |kernel| kernel.queries - 1)
    }

    fn init(&self, heads: usize, init: &mut Init) -> MapMix {
        let one = |at: bool| if at { 1.0 } else { 0.0 };
        MapMix {
            kernel: self.kernel.map(|MapKernel { queries, keys }| {
                let middle = (queries - 1) * keys + keys / 2;
                let mut index = 0..;
                init.draw([heads, 1, queries, keys], |_| {
                    one(index.next().expect("endless") % (queries * keys) == middle)
                })
            }),
            heads: self.heads.map(|group| {
                let mut index = 0..;
                init.draw([heads / group, group, group], |_| {
                    one((index.next().expect("endless") % (group * group)).is_multiple_of(group + 1))
                })
            }),
        }
    }
}

/// What [`MapMixing`] describes.
#[derive(Module, Debug)]
pub struct MapMix {
    /// `[heads, 1, c_q, c_k]`.
    pub kernel: Option<Param<Tensor<4>>>,
    /// `[heads / group, group, group]`: to head, from head.
    pub heads: Option<Param<Tensor<3>>>,
}

impl MapMix {
    /// Mixes a map `[batch, heads, rows, source]` that is 0 where `visible [1, 1, rows, source]` is.
    fn apply(&self, mut map: Tensor<4>, visible: &Tensor<4>) -> Tensor<4> {
        let [batch, heads, rows, source] = map.dims();
        if let Some(kernel) = &self.kernel {
            let kernel = kernel.val();
            let [_, _, queries, keys] = kernel.dims();
            let none = Tensor::zeros([batch, heads, queries - 1, source], (&map.device(), map.dtype()));
            let padded = if queries > 1 { Tensor::cat(vec![none, map], 2) } else { map };
            map =
                conv2d(padded, kernel, None, ConvOptions::new([1, 1], [0, keys / 2], [1, 1], heads)) * visible.clone();
        }
        if let Some(mix) = &self.heads {
            let mix = mix.val();
            let [groups, group, _] = mix.dims();
            let columns = map.reshape([batch, groups, group, rows * source]);
            map = mix.unsqueeze::<4>().matmul(columns).reshape([batch, heads, rows, source]);
        }
        map
    }
}

/// What [`HeadNorm`] describes.
#[derive(Module, Debug)]
pub struct OutputNorm {
    pub norm: RmsNorm,
    pub gate: Option<Linear>,
    pub gate_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    factor: f64,
}

impl OutputNorm {
    fn forward(&self, out: Tensor<4>, tap: &mut dyn Tap) -> Tensor<4> {
        let [batch, heads, time, d] = out.dims();
        let out = self.norm.scaled(out, self.factor);
        let (Some(gate), Some(bias)) = (&self.gate, &self.gate_bias) else { return out };
        let score = gate.forward(out.clone().reshape([batch, heads * time, d])) + bias.val().unsqueeze();
        let gate = activation::sigmoid(score).reshape([batch, heads, time, 1]);
        out * tap.at("gate", gate.swap_dims(1, 2)).swap_dims(1, 2)
    }
}

#[derive(Module, Debug)]
pub struct MultiToken {
    /// Queries, keys and values, and the output projection.
    pub attention: Softmax,
    pub before: MapMix,
    pub after: MapMix,
    pub norm: Option<OutputNorm>,
    #[module(skip)]
    earlier: usize,
}

impl MultiToken {
    /// The weight of every value for queries that are the last ones of `source` tokens:
    /// `[batch, heads, rows, source]`. The first [`MultiTokenConfig::earlier_queries`] rows are right
    /// only where they are the first of the text.
    fn pattern(&self, q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
        let [batch, heads, rows, d] = q.dims();
        let [_, kv_heads, source, _] = k.dims();
        let like = (&q.device(), q.dtype());
        let visible = Tensor::<4>::ones([1, 1, rows, source], like).tril((source - rows) as i64);
        let scores = (q * (d as f64).powf(-0.5))
            .reshape([batch, kv_heads, heads / kv_heads * rows, d])
            .matmul(k.transpose())
            .reshape([batch, heads, rows, source]);
        let scores = self.before.apply(scores * visible.clone(), &visible);
        let hidden = (visible.clone() - 1.0) * HIDDEN;
        self.after.apply(activation::softmax(scores + hidden, 3), &visible)
    }

    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let time = x.dims()[1];
        let start = cache.as_ref().map_or(0, |c| c.position());
        let (mut q, mut k, mut v) = self.attention.project(x, start, tap);
        if let Some(cache) = cache {
            q = cache.append_last("q", q, 2, Some(self.earlier + 1));
            k = cache.append("k", k, 2);
            v = cache.append("v", v, 2);
        }
        let rows = q.dims()[2];
        let pattern = self.pattern(q, k).narrow(2, rows - time, time);
        let mut out = apply(tap.at("pattern", pattern), v);
        if let Some(norm) = &self.norm {
            out = norm.forward(out, tap);
        }
        tap.at("out", self.attention.o_proj.forward(merge_heads(out)))
    }
}

/// Multiplies `visible − 1`: far below any score, and finite.
const HIDDEN: f64 = 1e30;

impl Mixer for MultiToken {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
