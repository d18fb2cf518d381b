//! Softmax attention with grouped keys (Vaswani et al. 2017; GQA: Ainslie et al. 2023), as in Llama
//! and Qwen3: the baseline.
//!
//! ```text
//! q = x W_qᵀ, k = x W_kᵀ, v = x W_vᵀ        q, k ← RMSNorm per head (QK-norm), then rotated
//! A = softmax(q kᵀ / √d + causal mask)       out = concat_h(A v) W_oᵀ
//! ```
//! Options: any [`Position`]; a window of the last `window` keys; a soft cap
//! `s ← softcap · tanh(s / softcap)` on the scores (Gemma 2); a [`Sink`] for surplus weight; biases on
//! the four projections (gpt-oss).
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`; query head `h` reads
//! key head `h / (heads / kv_heads)`: `kv_heads = heads` is MHA, `1` is MQA.
//!
//! Parameters: `2·D·H·d + 2·D·Hk·d`, `2·d` with QK-norm, `H·d + 2·Hk·d + D` with biases, and those of the
//! sink.

use super::sinks::{Sink, SinkShape};
use super::{check_heads, merge_heads, normed_heads, split_heads};
use crate::cache::KeyValues;
use crate::error::{ZooError, positive, positive_number};
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kernels::AttentionOptions;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxConfig {
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
    /// ε of that norm.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// Whether that norm multiplies by `1 + w`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero_centred: bool,
    #[serde(default)]
    pub position: Position,
    /// How many keys a query sees, its own included; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
    /// Whether the four projections have biases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-6
}

impl SoftmaxConfig {
    /// Multi-head attention with QK-norm and full rotation.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            kv_heads: None,
            head_dim: None,
            qk_norm: true,
            norm_eps: eps(),
            zero_centred: false,
            position: Position::default(),
            window: None,
            softcap: None,
            sink: None,
            bias: false,
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        let head_dim = check_heads(d_model, self.heads, self.kv_heads(), self.head_dim)?;
        positive_number("norm_eps", self.norm_eps)?;
        if let Some(window) = self.window {
            positive("window", window)?;
        }
        if let Some(cap) = self.softcap {
            positive_number("softcap", cap)?;
        }
        if let Some(sink) = &self.sink {
            sink.validate()?;
        }
        self.position.validate(head_dim)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let d = self.head_dim(d_model);
        2 * d_model * d * (self.heads + self.kv_heads())
            + if self.qk_norm { 2 * d } else { 0 }
            + if self.bias { (self.heads + 2 * self.kv_heads()) * d + d_model } else { 0 }
            + self.sink.map_or(0, |sink| sink.parameters(&self.sink_shape(d_model)))
    }

    fn sink_shape(&self, d_model: usize) -> SinkShape {
        SinkShape { heads: self.heads, kv_heads: self.kv_heads(), head_dim: self.head_dim(d_model) }
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Softmax {
        let (d, heads, kv_heads) = (self.head_dim(d_model), self.heads, self.kv_heads());
        let norm = if self.zero_centred { RmsNorm::zero_centred } else { RmsNorm::new };
        let biased = |linear: Linear, init: &mut Init| if self.bias { linear.biased(init) } else { linear };
        Softmax {
            q_proj: biased(Linear::new(d_model, heads * d, init), init),
            k_proj: biased(Linear::new(d_model, kv_heads * d, init), init),
            v_proj: biased(Linear::new(d_model, kv_heads * d, init), init),
            o_proj: biased(Linear::residual(heads * d, d_model, init), init),
            q_norm: self.qk_norm.then(|| norm(d, self.norm_eps, init)),
            k_norm: self.qk_norm.then(|| norm(d, self.norm_eps, init)),
            sink: self.sink.and_then(|sink| sink.init(&self.sink_shape(d_model), init)),
            config: self.clone(),
        }
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    pub fn head_dim(&self, d_model: usize) -> usize {
        self.head_dim.unwrap_or(d_model / self.heads)
    }
}

#[derive(Module, Debug)]
pub struct Softmax {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    /// The logits `[heads, 1]` or the key `[kv_heads, head_dim]` of the sinks that learn.
    pub sink: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: SoftmaxConfig,
}

impl Softmax {
    /// Queries `[batch, heads, time, d]`, keys and values `[batch, kv_heads, time, d]`, normed and not
    /// yet rotated.
    pub(crate) fn inputs(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads());
        let [q, k, v] = Linear::all([&self.q_proj, &self.k_proj, &self.v_proj], x);
        let q = normed_heads(q, heads, &self.q_norm);
        let k = normed_heads(k, kv_heads, &self.k_norm);
        [q, k, split_heads(v, kv_heads)]
    }

    /// The same, rotated, of tokens the first of which stands at position `start`.
    pub(crate) fn project(&self, x: Tensor<3>, start: usize, tap: &mut dyn Tap) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        self.rotated(self.inputs(x), start, tap)
    }

    fn rotated(&self, [q, k, v]: [Tensor<4>; 3], start: usize, tap: &mut dyn Tap) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let position = self.config.position;
        let q = tap.at("q", position.rotate(q, start));
        let k = tap.at("k", position.rotate(k, start));
        let v = tap.at("v", v);
        (q, k, v)
    }

    /// Every head's output `[batch, heads, time, d]`, before it is merged and projected.
    /// With a cache the tokens follow those it holds.
    pub(crate) fn attend(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<4> {
        self.attend_with(x, |_, _, _| None, cache, tap)
    }

    /// The same with `more` added to the scores, made from the queries `[batch, heads, time, d]` and
    /// all keys, and broadcast to `[batch, heads, time, source]`.
    pub(crate) fn attend_with(
        &self,
        x: Tensor<3>,
        more: impl FnOnce(&Tensor<4>, &KeyValues, &mut dyn Tap) -> Option<Tensor<4>>,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Tensor<4> {
        self.attend_from(self.inputs(x), more, None, cache, tap)
    }

    /// The same from [`inputs`](Self::inputs) that may have been changed; keys and values are cached
    /// as they come. The output is multiplied by `gate`, broadcast to `[batch, heads, time, d]`.
    pub(crate) fn attend_from(
        &self,
        inputs: [Tensor<4>; 3],
        more: impl FnOnce(&Tensor<4>, &KeyValues, &mut dyn Tap) -> Option<Tensor<4>>,
        gate: Option<Tensor<4>>,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Tensor<4> {
        let SoftmaxConfig { heads, position, window, softcap, sink, .. } = self.config;
        let start = cache.as_ref().map_or(0, |c| c.position());
        let (q, k, v) = self.rotated(inputs, start, tap);
        let past = KeyValues::of(k, v, cache, window);
        let [_, _, time, d] = q.dims();
        let source = past.source();
        let scale = (d as f64).powf(-0.5);
        let first = sink.and_then(|sink| sink.bias(start + time - source, source, &q));
        let options = AttentionOptions {
            window,
            softcap,
            bias: first.into_iter().chain(more(&q, &past, tap)).reduce(|a, b| a + b),
            slopes: position.slopes(heads),
            normaliser: match sink {
                Some(sink) => sink.normaliser(self.sink.as_ref().map(Param::val), &q, scale),
                None => AttentionOptions::from(scale).normaliser,
            },
            gate,
            ..scale.into()
        };
        past.attend(q, options, "pattern", tap)
    }
}

impl Mixer for Softmax {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.attend(x, None, tap);
        tap.at("out", self.o_proj.forward(merge_heads(heads)))
    }

    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.attend(x, Some(cache), tap);
        tap.at("out", self.o_proj.forward(merge_heads(heads)))
    }
}
