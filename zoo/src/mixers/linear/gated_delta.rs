//! Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464), the linear mixer of
//! Qwen3-Next: a state of constant size in place of a cache that grows.
//!
//! ```text
//! u = silu(conv4(concat[x W_qᵀ, x W_kᵀ, x W_vᵀ]))  → q, k, v          depthwise, causal
//! q ← q/‖q‖ · d_k^{−½}    k ← k/‖k‖    β = σ(x W_bᵀ)    g = −e^{A_log} softplus(x W_aᵀ + dt_bias)
//! S_t = e^{g_t} S_{t−1} + β_t k_t (v_t − e^{g_t} S_{t−1}ᵀ k_t)ᵀ      o_t = S_tᵀ q_t
//! out = concat_h( RMSNorm(o) ⊙ silu(x W_zᵀ) ) W_oᵀ
//! ```
//! Shapes: `q, k [batch, heads, time, d_k]`, `v, o [batch, heads, time, d_v]`, state
//! `[batch, heads, d_k, d_v]` whatever the length. Groups of `heads / k_heads` heads share q and k.
//!
//! Parameters: `2·D·Hk·dk + 3·D·H·dv + 2·D·H + K·(2·Hk·dk + H·dv) + 2·H + dv`.
//!
//! β may reach 2 ([`GatedDeltaConfig::allow_negative_eigenvalues`], see [`DeltaNet`](super::DeltaNet)).
//!
//! Initial decay: `dt` log-uniform in [0.001, 0.1] as in flash-linear-attention, `A ~ U(1, 16)` as in its KDA and in
//! Mamba-2 (its Gated DeltaNet draws from 0 on): half-lives from a step to hundreds. (Hugging Face's `dt_bias = 1` forgets within a few tokens.)

use super::{
    attend, by_head, check_chunk, check_share, convolve, default_chunk, default_conv, initial_a_log, initial_conv,
    initial_dt_bias, norm_gate_project, rate, step_size, tap_decay,
};
use crate::error::{ZooError, divisible, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, activation};
use kernels::rms_norm::{Activation, GatePlace};
use kernels::{Gates, LogDecay, l2_norm};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedDeltaConfig {
    /// Heads of values, each with its own state.
    pub heads: usize,
    /// Heads of queries and keys; `heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_heads: Option<usize>,
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
    /// ε of the output norm, 1e-6 as in Qwen3-Next when absent.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

fn eps() -> f64 {
    1e-6
}

impl GatedDeltaConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            k_heads: None,
            key_dim: None,
            value_dim: None,
            conv: default_conv(),
            allow_negative_eigenvalues: false,
            norm_eps: eps(),
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        divisible("heads", self.heads, "k_heads", positive("k_heads", self.k_heads())?)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        positive("conv", self.conv)?;
        positive_number("norm_eps", self.norm_eps)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let qk = self.k_heads() * self.key_dim(d_model);
        let v = self.heads * self.value_dim(d_model);
        d_model * (2 * qk + 3 * v + 2 * self.heads)
            + self.conv * (2 * qk + v)
            + 2 * self.heads
            + self.value_dim(d_model)
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> GatedDelta {
        let qk = self.k_heads() * self.key_dim(d_model);
        let v = self.heads * self.value_dim(d_model);
        GatedDelta {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            z_proj: Linear::new(d_model, v, init),
            b_proj: Linear::new(d_model, self.heads, init),
            a_proj: Linear::new(d_model, self.heads, init),
            conv: initial_conv(2 * qk + v, self.conv, init),
            a_log: initial_a_log(self.heads, init),
            dt_bias: initial_dt_bias(self.heads, init),
            norm: RmsNorm::new(self.value_dim(d_model), self.norm_eps, init),
            o_proj: Linear::residual(v, d_model, init),
            heads: self.heads,
            k_heads: self.k_heads(),
            reach: if self.allow_negative_eigenvalues { 2.0 } else { 1.0 },
            chunk: self.chunk,
        }
    }

    pub fn k_heads(&self) -> usize {
        self.k_heads.unwrap_or(self.heads)
    }
    pub fn key_dim(&self, d_model: usize) -> usize {
        self.key_dim.unwrap_or(d_model / self.heads)
    }
    pub fn value_dim(&self, d_model: usize) -> usize {
        self.value_dim.unwrap_or(d_model / self.heads)
    }
}

#[derive(Module, Debug)]
pub struct GatedDelta {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub z_proj: Linear,
    pub b_proj: Linear,
    pub a_proj: Linear,
    /// `[channels of q, k and v, taps]`.
    pub conv: Param<Tensor<2>>,
    pub a_log: Param<Tensor<1>>,
    pub dt_bias: Param<Tensor<1>>,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    k_heads: usize,
    /// The largest β.
    #[module(skip)]
    reach: f64,
    #[module(skip)]
    chunk: usize,
}

impl GatedDelta {
    fn run(&self, x: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let Self { q_proj, k_proj, v_proj, b_proj, a_proj, z_proj, .. } = self;
        let [q, k, v, b, a, z] = Linear::all([q_proj, k_proj, v_proj, b_proj, a_proj, z_proj], x);
        let [q, k, v] = convolve([q, k, v], &self.conv, None, cache.as_deref_mut());
        let (q, k) = (split_heads(q, self.k_heads), split_heads(k, self.k_heads));
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let q = tap.at("q", l2_norm(q, 1e-6, scale));
        let k = tap.at("k", l2_norm(k, 1e-6, 1.0));
        let v = tap.at("v", split_heads(v, self.heads));

        let beta = tap.at("beta", activation::sigmoid(by_head(b)) * self.reach);
        let log_decay = by_head(step_size(a, &self.dt_bias) * rate(&self.a_log).unsqueeze::<3>()).neg();
        let decay = LogDecay::Head(tap_decay(log_decay.cast(FloatDType::from(v.dtype())), tap));

        let o = attend([self.share(q), self.share(k), v], &decay, &Gates::Beta(beta), self.chunk, cache, tap);
        norm_gate_project(o, &self.norm, z, (Activation::Silu, GatePlace::After), &self.o_proj, tap)
    }

    /// Repeats each head of queries or keys for the value heads that share it.
    fn share(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, time, d] = x.dims();
        let group = self.heads / heads;
        match group {
            1 => x,
            _ => x.unsqueeze_dim::<5>(2).repeat_dim(2, group).reshape([batch, heads * group, time, d]),
        }
    }
}

impl Mixer for GatedDelta {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
