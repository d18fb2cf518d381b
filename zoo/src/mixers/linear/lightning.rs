//! Lightning attention (Qin et al. 2024, arXiv 2401.04658): retention without rotation, whose fixed
//! decays also depend on the layer. The last layers remember longest, and head 0 never forgets.
//!
//! ```text
//! q = silu(x W_qᵀ)    k = silu(x W_kᵀ)    v = silu(x W_vᵀ)        ln γ_h = −(8/H)(1 − l/L) h, h = 0 … H−1
//! S_t = γ_h S_{t−1} + k_t v_tᵀ        o_t = S_tᵀ q_t
//! out = ( RMSNorm(concat_h o) ⊙ σ(x W_gᵀ) ) W_oᵀ
//! ```
//! for layer `l` of `L`, counted from 0. Shapes: `q, k [batch, heads, time, d_k]`,
//! `v, o [batch, heads, time, d_v]`, state `[batch, heads, d_k, d_v]`; the norm spans all heads.
//!
//! The decays are those of flash-linear-attention, the layer around them (silu, norm, gate) that of
//! MiniMax-01, which spaces the decays as ALiBi does its slopes.
//!
//! Parameters: `H·(2·D·dk + 3·D·dv + dv)`.

use super::{attend, check_chunk, check_share, default_chunk, fixed_decay};
use crate::error::{ZooError, positive};
use crate::mixers::{merge_heads, split_heads};
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, activation};
use kernels::Gates;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightningConfig {
    pub heads: usize,
    /// Channels of a query and a key; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_dim: Option<usize>,
    /// Channels of a value; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

impl LightningConfig {
    pub fn new(heads: usize) -> Self {
        Self { heads, key_dim: None, value_dim: None, chunk: default_chunk() }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (dk, dv) = (self.key_dim(d_model), self.value_dim(d_model));
        self.heads * (2 * d_model * dk + 3 * d_model * dv + dv)
    }

    pub fn init(&self, d_model: usize, layer: usize, init: &mut Init) -> Lightning {
        let (qk, v) = (self.heads * self.key_dim(d_model), self.heads * self.value_dim(d_model));
        Lightning {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            g_proj: Linear::new(d_model, v, init),
            norm: RmsNorm::new(v, 1e-5, init),
            o_proj: Linear::residual(v, d_model, init),
            log_decays: lightning_log_decays(self.heads, layer, init.layers()),
            chunk: self.chunk,
        }
    }

    pub fn key_dim(&self, d_model: usize) -> usize {
        self.key_dim.unwrap_or(d_model / self.heads)
    }
    pub fn value_dim(&self, d_model: usize) -> usize {
        self.value_dim.unwrap_or(d_model / self.heads)
    }
}

/// `ln γ_h = −(8/H)(1 − l/L) h` of layer `l` (from 0) of `L`.
pub fn lightning_log_decays(heads: usize, layer: usize, layers: usize) -> Vec<f64> {
    let steepest = 8.0 / heads as f64 * (1.0 - layer as f64 / layers as f64);
    (0..heads).map(|h| -steepest * h as f64).collect()
}

#[derive(Module, Debug)]
pub struct Lightning {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub g_proj: Linear,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    log_decays: Vec<f64>,
    #[module(skip)]
    chunk: usize,
}

impl Lightning {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.log_decays.len();
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj]
            .map(|projection| split_heads(activation::silu(projection.forward(x.clone())), heads));
        let (q, k, v) = (tap.at("q", q), tap.at("k", k), tap.at("v", v));

        let decay = fixed_decay(&self.log_decays, &q);
        let o = merge_heads(attend([q, k, v], &decay, &Gates::Add, self.chunk, cache, tap));
        let [batch, time, width] = o.dims();
        let gate = activation::sigmoid(self.g_proj.forward(x)).reshape([batch, time, heads, width / heads]);
        let gate = tap.at("gate", gate).reshape([batch, time, width]);
        tap.at("out", self.o_proj.forward(self.norm.forward(o) * gate))
    }
}

impl Mixer for Lightning {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
