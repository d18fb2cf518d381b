//! Retention (RetNet, Sun et al. 2023, arXiv 2307.08621): rotated queries and keys, and a fixed decay
//! per head, from a short memory to a long one.
//!
//! ```text
//! q = rotate(x W_qᵀ) · d_k^{−½}    k = rotate(x W_kᵀ)    v = x W_vᵀ        γ_h = 1 − 2^{−5−h}, h = 0 … H−1
//! S_t = γ_h S_{t−1} + k_t v_tᵀ        o_t = S_tᵀ q_t = Σ_{s≤t} γ_h^{t−s} (q_t · k_s) v_s
//! out = concat_h( RMSNorm(o) ⊙ silu(x W_gᵀ) ) W_oᵀ
//! ```
//! Shapes: `q, k [batch, heads, time, d_k]`, `v, o [batch, heads, time, d_v]` with `d_v = 2 d_k`, state
//! `[batch, heads, d_k, d_v]`. The norm has a weight and the rotation is plain RoPE, as in
//! flash-linear-attention (the paper rotates with xPos).
//!
//! Parameters: `H·(2·D·dk + 3·D·dv) + dv`.

use super::{attend, check_chunk, check_share, default_chunk, default_norm_eps, fixed_decay, norm_gate_project};
use crate::error::{ZooError, positive, positive_number};
use crate::mixers::split_heads;
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::Gates;
use kernels::rms_norm::{Activation, GatePlace};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetNetConfig {
    pub heads: usize,
    /// Channels of a query and a key; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_dim: Option<usize>,
    /// Channels of a value; `2 · d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Rotation of queries and keys, or none.
    #[serde(default)]
    pub position: Position,
    /// What survives a step, one number in (0, 1] per head; `1 − 2^{−5−h}` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decays: Option<Vec<f64>>,
    /// ε of the output norm.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

impl RetNetConfig {
    pub fn new(heads: usize) -> Self {
        let position = Position::default();
        Self {
            heads,
            key_dim: None,
            value_dim: None,
            position,
            decays: None,
            norm_eps: default_norm_eps(),
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        self.position.validate(self.key_dim(d_model))?;
        if let Position::Alibi {} = self.position {
            let expected = "rope or none: retention has its own decay with distance".into();
            return Err(ZooError::Invalid { name: "position", value: "alibi".into(), expected });
        }
        if let Some(decays) = &self.decays
            && (decays.len() != self.heads || !decays.iter().all(|&decay| decay > 0.0 && decay <= 1.0))
        {
            let (value, expected) = (format!("{decays:?}"), format!("{} numbers in (0, 1]", self.heads));
            return Err(ZooError::Invalid { name: "decays", value, expected });
        }
        positive_number("norm_eps", self.norm_eps)?;
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (dk, dv) = (self.key_dim(d_model), self.value_dim(d_model));
        self.heads * (2 * d_model * dk + 3 * d_model * dv) + dv
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> RetNet {
        let (qk, v) = (self.heads * self.key_dim(d_model), self.heads * self.value_dim(d_model));
        RetNet {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            g_proj: Linear::new(d_model, v, init),
            norm: RmsNorm::new(self.value_dim(d_model), self.norm_eps, init),
            o_proj: Linear::residual(v, d_model, init),
            config: self.clone(),
        }
    }

    /// `ln γ_h`.
    pub fn log_decays(&self) -> Vec<f64> {
        match &self.decays {
            Some(decays) => decays.iter().map(|decay| decay.ln()).collect(),
            None => (0..self.heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect(),
        }
    }

    pub fn key_dim(&self, d_model: usize) -> usize {
        self.key_dim.unwrap_or(d_model / self.heads)
    }
    pub fn value_dim(&self, d_model: usize) -> usize {
        self.value_dim.unwrap_or(2 * (d_model / self.heads))
    }
}

#[derive(Module, Debug)]
pub struct RetNet {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub g_proj: Linear,
    pub norm: RmsNorm,
    pub o_proj: Linear,
    #[module(skip)]
    config: RetNetConfig,
}

impl RetNet {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let RetNetConfig { heads, position, chunk, .. } = self.config;
        let start = cache.as_ref().map_or(0, |cache| cache.position());
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| split_heads(p.forward(x.clone()), heads));
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let q = tap.at("q", position.rotate(q, start) * scale);
        let k = tap.at("k", position.rotate(k, start));
        let v = tap.at("v", v);

        let decay = fixed_decay(&self.config.log_decays(), &q, tap);
        let o = attend([q, k, v], &decay, &Gates::Add, chunk, cache, tap);
        let z = self.g_proj.forward(x);
        norm_gate_project(o, &self.norm, z, (Activation::Silu, GatePlace::After), &self.o_proj, tap)
    }
}

impl Mixer for RetNet {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
