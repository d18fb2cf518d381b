//! Kimi Delta Attention (Kimi Linear 2025, arXiv 2510.26692): Gated DeltaNet with a decay for every
//! channel of the key, so that a head forgets some things and keeps others.
//!
//! ```text
//! q, k, v = silu(conv4(x W_qᵀ)), silu(conv4(x W_kᵀ)), silu(conv4(x W_vᵀ))          depthwise, causal
//! q ← q/‖q‖ · d_k^{−½}    k ← k/‖k‖    β = σ(x W_bᵀ)    g = −e^{A_log} softplus(x W_f1ᵀ W_f2ᵀ + dt_bias)
//! S_t = (I − β_t k_t k_tᵀ) Diag(e^{g_t}) S_{t−1} + β_t k_t v_tᵀ      o_t = S_tᵀ q_t
//! out = concat_h( RMSNorm(o) ⊙ σ(x W_g1ᵀ W_g2ᵀ + b_g) ) W_oᵀ
//! ```
//! Shapes: `q, k, g [batch, heads, time, d_k]`, `v, o [batch, heads, time, d_v]`, `β [batch, heads,
//! time]`, state `[batch, heads, d_k, d_v]`. `A_log` is one number per head, `dt_bias` one per channel;
//! `W_f1` and `W_g1` have rank `d_v`. (`b_g` is in flash-linear-attention, not in Kimi's release.)
//!
//! Parameters: `H·(2·D·dk + 2·D·dv + D + K·(2·dk + dv)) + dv·(2·D + H·dk + H·dv) + H·(1 + dk + dv) + dv`.
//!
//! Kimi Linear has three of these to one block of softmax attention without position.

use super::{
    attend, by_head, check_chunk, check_share, default_chunk, default_conv, default_norm_eps, delta_inputs,
    initial_a_log, initial_conv, initial_dt_bias, norm_gate_project, rate, step_size, tap_decay,
};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, activation};
use kernels::rms_norm::{Activation, GatePlace};
use kernels::{Gates, LogDecay};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdaConfig {
    pub heads: usize,
    /// Channels of a query and a key; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_dim: Option<usize>,
    /// Channels of a value; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Taps of the short convolution.
    #[serde(default = "default_conv")]
    pub conv: usize,
    /// Whether β reaches 2 instead of 1, so that an erased value may return with the other sign.
    #[serde(default)]
    pub allow_negative_eigenvalues: bool,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

impl KdaConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            key_dim: None,
            value_dim: None,
            conv: default_conv(),
            allow_negative_eigenvalues: false,
            norm_eps: default_norm_eps(),
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        positive("conv", self.conv)?;
        positive_number("norm_eps", self.norm_eps)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (h, dk, dv) = (self.heads, self.key_dim(d_model), self.value_dim(d_model));
        h * (2 * d_model * dk + 2 * d_model * dv + d_model + self.conv * (2 * dk + dv))
            + dv * (2 * d_model + h * dk + h * dv)
            + h * (1 + dk + dv)
            + dv
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Kda {
        let (heads, rank) = (self.heads, self.value_dim(d_model));
        let (qk, v) = (heads * self.key_dim(d_model), heads * self.value_dim(d_model));
        Kda {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            conv: initial_conv(2 * qk + v, self.conv, init),
            b_proj: Linear::new(d_model, heads, init),
            f_a_proj: Linear::new(d_model, rank, init),
            f_b_proj: Linear::new(rank, qk, init),
            a_log: initial_a_log(heads, init),
            dt_bias: initial_dt_bias(qk, init),
            g_a_proj: Linear::new(d_model, rank, init),
            g_b_proj: Linear::new(rank, v, init),
            g_bias: init.constant([v], 0.0),
            norm: RmsNorm::new(self.value_dim(d_model), self.norm_eps, init),
            o_proj: Linear::residual(v, d_model, init),
            config: self.clone(),
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
pub struct Kda {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    /// `[channels of q, k and v, taps]`.
    pub conv: Param<Tensor<2>>,
    pub b_proj: Linear,
    pub f_a_proj: Linear,
    pub f_b_proj: Linear,
    /// `[heads]`.
    pub a_log: Param<Tensor<1>>,
    /// `[heads · d_k]`.
    pub dt_bias: Param<Tensor<1>>,
    pub g_a_proj: Linear,
    pub g_b_proj: Linear,
    /// `[heads · d_v]`.
    pub g_bias: Param<Tensor<1>>,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    config: KdaConfig,
}

impl Kda {
    fn run(&self, x: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.config.heads;
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = delta_inputs(&x, projections, &self.conv, heads, cache.as_deref_mut(), tap);

        let reach = if self.config.allow_negative_eigenvalues { 2.0 } else { 1.0 };
        let beta = tap.at("beta", activation::sigmoid(by_head(self.b_proj.forward(x.clone()))) * reach);
        let dt = step_size(self.f_b_proj.forward(self.f_a_proj.forward(x.clone())), &self.dt_bias);
        let log_decay = (split_heads(dt, heads) * rate(&self.a_log).reshape([1, heads, 1, 1])).neg();
        let decay = LogDecay::Channel(tap_decay(log_decay.cast(FloatDType::from(x.dtype())), tap));

        let o = attend([q, k, v], &decay, &Gates::Beta(beta), self.config.chunk, cache, tap);
        let z = self.g_b_proj.forward(self.g_a_proj.forward(x)) + self.g_bias.val().unsqueeze();
        norm_gate_project(o, &self.norm, z, (Activation::Sigmoid, GatePlace::After), &self.o_proj, tap)
    }
}

impl Mixer for Kda {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
