//! Softmax attention with grouped keys (Vaswani et al. 2017; GQA: Ainslie et al. 2023), as in Llama
//! and Qwen3: the baseline.
//!
//! ```text
//! q = x W_qᵀ, k = x W_kᵀ, v = x W_vᵀ        q, k ← RMSNorm per head (QK-norm), then rotated
//! A = softmax(q kᵀ / √d + causal mask)       out = concat_h(A v) W_oᵀ
//! ```
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`; query head `h` reads
//! key head `h / (heads / kv_heads)`: `kv_heads = heads` is MHA, `1` is MQA.
//!
//! Parameters: `2·D·H·d + 2·D·Hk·d`, and `2·d` with QK-norm.

use super::{check_heads, merge_heads, split_heads};
use crate::error::ZooError;
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::softmax_attention::{apply, pattern};
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
    #[serde(default)]
    pub position: Position,
}

fn yes() -> bool {
    true
}

const EPS: f64 = 1e-6;

impl SoftmaxConfig {
    /// Multi-head attention with QK-norm and full rotation.
    pub fn new(heads: usize) -> Self {
        Self { heads, kv_heads: None, head_dim: None, qk_norm: true, position: Position::default() }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        let head_dim = check_heads(d_model, self.heads, self.kv_heads(), self.head_dim)?;
        self.position.validate(head_dim)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let d = self.head_dim(d_model);
        2 * d_model * d * (self.heads + self.kv_heads()) + if self.qk_norm { 2 * d } else { 0 }
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Softmax {
        let (d, heads, kv_heads) = (self.head_dim(d_model), self.heads, self.kv_heads());
        Softmax {
            q_proj: Linear::new(d_model, heads * d, init),
            k_proj: Linear::new(d_model, kv_heads * d, init),
            v_proj: Linear::new(d_model, kv_heads * d, init),
            o_proj: Linear::residual(heads * d, d_model, init),
            q_norm: self.qk_norm.then(|| RmsNorm::new(d, EPS, init)),
            k_norm: self.qk_norm.then(|| RmsNorm::new(d, EPS, init)),
            heads,
            kv_heads,
            position: self.position,
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
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    position: Position,
}

impl Softmax {
    /// Every head's output `[batch, heads, time, d]`, before it is merged and projected.
    /// With a cache the tokens follow those it holds.
    pub(crate) fn attend(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<4> {
        let start = cache.as_ref().map_or(0, |c| c.position());
        let norm = |x, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let q = norm(split_heads(self.q_proj.forward(x.clone()), self.heads), &self.q_norm);
        let k = norm(split_heads(self.k_proj.forward(x.clone()), self.kv_heads), &self.k_norm);
        let v = split_heads(self.v_proj.forward(x), self.kv_heads);
        let q = tap.at("q", self.position.rotate(q, start));
        let mut k = tap.at("k", self.position.rotate(k, start));
        let mut v = tap.at("v", v);
        if let Some(cache) = cache {
            k = cache.append("k", k, 2);
            v = cache.append("v", v, 2);
        }
        let scale = (q.dims()[3] as f64).powf(-0.5);
        if tap.wants("pattern") {
            return apply(tap.at("pattern", pattern(q, k, scale)), v);
        }
        kernels::softmax_attention(q, k, v, scale)
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
