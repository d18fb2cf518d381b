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
//! The layer (silu, norm, gate) is that of MiniMax-01, whose decays are others: [`LightningDecays`].
//!
//! Parameters: `H·(2·D·dk + 3·D·dv + dv)`.

use super::{attend, check_chunk, check_share, default_chunk, default_norm_eps, fixed_decay, norm_gate_project};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, activation};
use kernels::Gates;
use kernels::rms_norm::{Activation, GatePlace};
use serde::{Deserialize, Serialize};

/// `ln γ_h` of head `h` (from 0) of `H` in layer `l` (from 0) of `L`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LightningDecays {
    /// `−(8/H)(1 − l/L) h`: the paper and flash-linear-attention.
    #[default]
    Linear,
    /// `−2^{−8(h+1)/H} (1 − l/(L−1))`, ALiBi's slopes: MiniMax-01. No head forgets in the last layer
    /// but for the 1e-5 that is added to the factor.
    Geometric,
}

impl LightningDecays {
    /// `ln γ_h ≤ 0` of a layer's heads. A prediction head behind the last layer decays as that one does.
    pub fn log_decays(self, heads: usize, layer: usize, layers: usize) -> Vec<f64> {
        let layer = layer.min(layers.saturating_sub(1));
        let (count, layer, layers) = (heads as f64, layer as f64, layers as f64);
        let of_head = |h: f64| match self {
            Self::Linear => -(8.0 / count) * (1.0 - layer / layers) * h,
            Self::Geometric => -(-8.0 * (h + 1.0) / count).exp2() * (1.0 - layer / (layers - 1.0 + 1e-5) + 1e-5),
        };
        (0..heads).map(|h| of_head(h as f64)).collect()
    }
}

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
    #[serde(default)]
    pub decays: LightningDecays,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

impl LightningConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            key_dim: None,
            value_dim: None,
            decays: LightningDecays::default(),
            norm_eps: default_norm_eps(),
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        positive_number("norm_eps", self.norm_eps)?;
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
            norm: RmsNorm::new(v, self.norm_eps, init),
            o_proj: Linear::residual(v, d_model, init),
            log_decays: self.decays.log_decays(self.heads, layer, init.layers()),
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

        let decay = fixed_decay(&self.log_decays, &q, tap);
        let o = attend([q, k, v], &decay, &Gates::Add, self.chunk, cache, tap);
        let z = self.g_proj.forward(x);
        norm_gate_project(o, &self.norm, z, (Activation::Sigmoid, GatePlace::After), &self.o_proj, tap)
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
