//! Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), the state space model seen as linear attention: `C` is
//! the query, `B` the key, `x` the value, and the step size `Δ` both writes and decays.
//!
//! ```text
//! x, B, C = silu(conv4(u W_xᵀ)), silu(conv4(u W_Bᵀ)), silu(conv4(u W_Cᵀ))      conv with bias
//! Δ = softplus(u W_Δᵀ + dt_bias)    A = −e^{A_log}    z = u W_zᵀ
//! S_t = e^{Δ_t A} S_{t−1} + Δ_t B_t x_tᵀ        y_t = S_tᵀ C_t + D x_t
//! out = RMSNorm( concat_h(y) ⊙ silu(z) ) W_oᵀ
//! ```
//! for an input `u [batch, time, d_model]`. Shapes: `x, y [batch, heads, time, P]`, `B, C [batch, 1,
//! time, N]` shared by all heads (one group), `Δ [batch, heads, time]`; `A_log`, `dt_bias` and `D` are
//! one number per head; state `[batch, heads, N, P]`. The gate comes before the norm, which spans all
//! heads. There is no scale `N^{−½}`.
//!
//! The skip `D x` is part of the pattern: it stands on the diagonal.
//!
//! Parameters: `D_m·(3·H·P + 2·N + H) + (K + 1)·(H·P + 2·N) + 3·H + H·P`, with `D_m = d_model`.

use super::{
    by_head, check_chunk, check_share, convolve, default_conv, default_norm_eps, initial_a_log, initial_conv,
    initial_dt_bias, norm_gate_project, offered, rate, run_state, step_size, tap_decay,
};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};
use kernels::linear_attention::effective_pattern;
use kernels::rms_norm::{Activation, GatePlace};
use kernels::{Gates, LogDecay};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mamba2Config {
    pub heads: usize,
    /// `P`, channels of a value; `2 · d_model / heads` when absent (64 in the released models).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// `N`, channels of `B` and `C`.
    #[serde(default = "state_dim")]
    pub state_dim: usize,
    /// Taps of the short convolution.
    #[serde(default = "default_conv")]
    pub conv: usize,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "chunk")]
    pub chunk: usize,
}

fn state_dim() -> usize {
    128
}

fn chunk() -> usize {
    256
}

impl Mamba2Config {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            head_dim: None,
            state_dim: state_dim(),
            conv: default_conv(),
            norm_eps: default_norm_eps(),
            chunk: chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("head_dim", self.head_dim, ("2 · d_model", 2 * d_model), self.heads)?;
        positive("state_dim", self.state_dim)?;
        positive("conv", self.conv)?;
        positive_number("norm_eps", self.norm_eps)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (h, inner) = (self.heads, self.heads * self.head_dim(d_model));
        let convolved = inner + 2 * self.state_dim;
        d_model * (2 * inner + convolved + h) + (self.conv + 1) * convolved + 3 * h + inner
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Mamba2 {
        let (heads, inner) = (self.heads, self.heads * self.head_dim(d_model));
        let channels = inner + 2 * self.state_dim;
        let bound = (self.conv as f64).powf(-0.5);
        Mamba2 {
            z_proj: Linear::new(d_model, inner, init),
            x_proj: Linear::new(d_model, inner, init),
            b_proj: Linear::new(d_model, self.state_dim, init),
            c_proj: Linear::new(d_model, self.state_dim, init),
            dt_proj: Linear::new(d_model, heads, init),
            conv: initial_conv(channels, self.conv, init),
            conv_bias: init.uniform([channels], -bound, bound),
            a_log: initial_a_log(heads, init),
            dt_bias: initial_dt_bias(heads, init),
            d: init.constant([heads], 1.0),
            norm: RmsNorm::new(inner, self.norm_eps, init),
            o_proj: Linear::residual(inner, d_model, init),
            config: self.clone(),
        }
    }

    pub fn head_dim(&self, d_model: usize) -> usize {
        self.head_dim.unwrap_or(2 * d_model / self.heads)
    }
}

#[derive(Module, Debug)]
pub struct Mamba2 {
    pub z_proj: Linear,
    pub x_proj: Linear,
    pub b_proj: Linear,
    pub c_proj: Linear,
    pub dt_proj: Linear,
    /// `[channels of x, B and C, taps]`.
    pub conv: Param<Tensor<2>>,
    pub conv_bias: Param<Tensor<1>>,
    pub a_log: Param<Tensor<1>>,
    pub dt_bias: Param<Tensor<1>>,
    pub d: Param<Tensor<1>>,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    config: Mamba2Config,
}

impl Mamba2 {
    fn run(&self, u: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.config.heads;
        let projections = [&self.x_proj, &self.b_proj, &self.c_proj, &self.dt_proj, &self.z_proj];
        let [x, b, c, dt, z] = Linear::all(projections, u);
        let [x, b, c] = convolve([x, b, c], &self.conv, Some(&self.conv_bias), cache.as_deref_mut());
        let c = tap.at("q", split_heads(c, 1)).repeat_dim(1, heads);
        let b = tap.at("k", split_heads(b, 1)).repeat_dim(1, heads);
        let x = tap.at("v", split_heads(x, heads));

        let dtype = FloatDType::from(x.dtype());
        let dt = tap.at("dt", by_head(step_size(dt, &self.dt_bias)));
        let log_decay = (dt.clone() * rate(&self.a_log).reshape([1, heads, 1])).neg();
        let decay = LogDecay::Head(tap_decay(log_decay.cast(dtype), tap));
        let b = b * dt.cast(dtype).unsqueeze_dim::<4>(3);
        let skip = self.d.val().reshape([1, heads, 1, 1]);

        let pattern = || {
            let from_state = effective_pattern(c.clone(), b.clone(), &decay, &Gates::Add);
            let diagonal = Tensor::<2>::eye(x.dims()[2], &x.device()).cast(x.dtype()).unsqueeze::<4>();
            from_state + diagonal * skip.clone()
        };
        let changed = offered(cache.is_none(), pattern, tap).map(|pattern| pattern.matmul(x.clone()));
        let y = run_state([c, b, x.clone()], &decay, &Gates::Add, self.config.chunk, cache, tap) + x * skip;
        let gate = (Activation::Silu, GatePlace::Before);
        norm_gate_project(changed.unwrap_or(y), &self.norm, z, gate, &self.o_proj, tap)
    }
}

impl Mixer for Mamba2 {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
