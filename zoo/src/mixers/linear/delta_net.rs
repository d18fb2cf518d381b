//! DeltaNet (Schlag, Irie and Schmidhuber 2021, arXiv 2102.11174; Yang et al. 2024, arXiv
//! 2406.06484): what the state holds under a key is corrected instead of added to.
//!
//! ```text
//! q, k, v = silu(conv4(x W_qᵀ)), silu(conv4(x W_kᵀ)), silu(conv4(x W_vᵀ))          depthwise, causal
//! q ← q/‖q‖ · d_k^{−½}    k ← k/‖k‖    β = σ(x W_bᵀ), or 2 σ(x W_bᵀ)
//! S_t = S_{t−1} + β_t k_t (v_t − S_{t−1}ᵀ k_t)ᵀ = (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ
//! o_t = S_tᵀ q_t        out = concat_h( RMSNorm(o) ) W_oᵀ
//! ```
//! Shapes: `q, k [batch, heads, time, d_k]`, `v, o [batch, heads, time, d_v]`, `β [batch, heads,
//! time]`, state `[batch, heads, d_k, d_v]`.
//!
//! Along `k` the update has the eigenvalue `1 − β`. With β up to 2 it may be negative, which lets the
//! state flip a sign with every token: what tracking a parity takes (Grazzi et al. 2024, arXiv
//! 2411.12537).
//!
//! Parameters: `H·(2·D·dk + 2·D·dv + D + K·(2·dk + dv)) + dv`.

use super::{
    attend, by_head, check_chunk, check_share, default_chunk, default_conv, default_norm_eps, delta_inputs,
    initial_conv,
};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::merge_heads;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use kernels::{Gates, LogDecay};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaNetConfig {
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
    /// Whether β reaches 2 instead of 1.
    #[serde(default)]
    pub allow_negative_eigenvalues: bool,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

impl DeltaNetConfig {
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
        let (dk, dv) = (self.key_dim(d_model), self.value_dim(d_model));
        self.heads * (2 * d_model * dk + 2 * d_model * dv + d_model + self.conv * (2 * dk + dv)) + dv
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> DeltaNet {
        let (qk, v) = (self.heads * self.key_dim(d_model), self.heads * self.value_dim(d_model));
        DeltaNet {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            conv: initial_conv(2 * qk + v, self.conv, init),
            b_proj: Linear::new(d_model, self.heads, init),
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
pub struct DeltaNet {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    /// `[channels of q, k and v, taps]`.
    pub conv: Param<Tensor<2>>,
    pub b_proj: Linear,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    config: DeltaNetConfig,
}

impl DeltaNet {
    fn run(&self, x: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = delta_inputs(&x, projections, &self.conv, self.config.heads, cache.as_deref_mut(), tap);

        let reach = if self.config.allow_negative_eigenvalues { 2.0 } else { 1.0 };
        let beta = tap.at("beta", activation::sigmoid(by_head(self.b_proj.forward(x))) * reach);

        let o = attend([q, k, v], &LogDecay::None, &Gates::Beta(beta), self.config.chunk, cache, tap);
        tap.at("out", self.o_proj.forward(merge_heads(self.norm.forward(o))))
    }
}

impl Mixer for DeltaNet {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
