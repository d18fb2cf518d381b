//! Gated linear attention (Yang et al. 2023, arXiv 2312.06635): every channel of the key fades at a
//! rate that the token chooses.
//!
//! ```text
//! q = x W_qᵀ · d_k^{−½}    k = x W_kᵀ    v = x W_vᵀ    α = σ(x W_a1ᵀ W_a2ᵀ + b_a)^{1/16}
//! S_t = Diag(α_t) S_{t−1} + k_t v_tᵀ        o_t = S_tᵀ q_t
//! out = concat_h( RMSNorm(o) ⊙ silu(x W_gᵀ) ) W_oᵀ
//! ```
//! Shapes: `q, k, α [batch, heads, time, d_k]` with `d_k = d_v / 2`, `v, o [batch, heads, time, d_v]`,
//! state `[batch, heads, d_k, d_v]`. `W_a1` has rank 16. The root keeps the decay near one: at
//! `σ = ½` a channel has a half-life of 16 tokens.
//!
//! Parameters: `H·(2·D·dk + 3·D·dv + dk) + R·(D + H·dk) + dv`.

use super::{
    attend, check_chunk, check_share, default_chunk, default_norm_eps, norm_gate_project, softplus, tap_decay,
};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kernels::rms_norm::{Activation, GatePlace};
use kernels::{Gates, LogDecay};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlaConfig {
    pub heads: usize,
    /// Channels of a query and a key; `d_model / (2 · heads)` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_dim: Option<usize>,
    /// Channels of a value; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Rank of the decay's projection.
    #[serde(default = "sixteen")]
    pub rank: usize,
    /// The root that is taken of the sigmoid.
    #[serde(default = "root")]
    pub root: f64,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

fn sixteen() -> usize {
    16
}

fn root() -> f64 {
    16.0
}

impl GlaConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            key_dim: None,
            value_dim: None,
            rank: sixteen(),
            root: root(),
            norm_eps: default_norm_eps(),
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("half of d_model", d_model / 2), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        positive("rank", self.rank)?;
        positive_number("root", self.root)?;
        positive_number("norm_eps", self.norm_eps)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (h, dk, dv) = (self.heads, self.key_dim(d_model), self.value_dim(d_model));
        h * (2 * d_model * dk + 3 * d_model * dv + dk) + self.rank * (d_model + h * dk) + dv
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Gla {
        let (qk, v) = (self.heads * self.key_dim(d_model), self.heads * self.value_dim(d_model));
        Gla {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            a_a_proj: Linear::new(d_model, self.rank, init),
            a_b_proj: Linear::new(self.rank, qk, init),
            a_bias: init.constant([qk], 0.0),
            g_proj: Linear::new(d_model, v, init),
            norm: RmsNorm::new(self.value_dim(d_model), self.norm_eps, init),
            o_proj: Linear::residual(v, d_model, init),
            config: self.clone(),
        }
    }

    pub fn key_dim(&self, d_model: usize) -> usize {
        self.key_dim.unwrap_or(d_model / 2 / self.heads)
    }
    pub fn value_dim(&self, d_model: usize) -> usize {
        self.value_dim.unwrap_or(d_model / self.heads)
    }
}

#[derive(Module, Debug)]
pub struct Gla {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub a_a_proj: Linear,
    pub a_b_proj: Linear,
    /// `[heads · d_k]`.
    pub a_bias: Param<Tensor<1>>,
    pub g_proj: Linear,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    config: GlaConfig,
}

impl Gla {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.config.heads;
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| split_heads(p.forward(x.clone()), heads));
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let (q, k, v) = (tap.at("q", q * scale), tap.at("k", k), tap.at("v", v));

        let a = self.a_b_proj.forward(self.a_a_proj.forward(x.clone())) + self.a_bias.val().unsqueeze();
        // ln σ(a) = −softplus(−a)
        let log_decay = softplus(split_heads(a, heads).neg()) * (-1.0 / self.config.root);
        let decay = LogDecay::Channel(tap_decay(log_decay, tap));

        let o = attend([q, k, v], &decay, &Gates::Add, self.config.chunk, cache, tap);
        let z = self.g_proj.forward(x);
        norm_gate_project(o, &self.norm, z, (Activation::Silu, GatePlace::After), &self.o_proj, tap)
    }
}

impl Mixer for Gla {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
