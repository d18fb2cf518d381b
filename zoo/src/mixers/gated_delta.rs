//! Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464), the linear mixer of
//! Qwen3-Next: a state of constant size in place of a cache that grows.
//!
//! ```text
//! u = silu(conv4(concat[x W_qᵀ, x W_kᵀ, x W_vᵀ]))  → q, k, v          depthwise, causal
//! q ← q/‖q‖ · d_k^{−½}    k ← k/‖k‖    β = σ(x W_bᵀ)    g = −e^{A_log} softplus(x W_aᵀ + dt_bias)
//! S_t = e^{g_t} S_{t−1} + k_t (β_t (v_t − k_tᵀ e^{g_t} S_{t−1}))ᵀ      o_t = S_tᵀ q_t
//! out = concat_h( RMSNorm(o) ⊙ silu(x W_zᵀ) ) W_oᵀ
//! ```
//! Shapes: `q, k [batch, heads, time, d_k]`, `v, o [batch, heads, time, d_v]`, state
//! `[batch, heads, d_k, d_v]` whatever the length. Groups of `heads / k_heads` heads share q and k.
//!
//! Parameters: `2·D·Hk·dk + 3·D·H·dv + 2·D·H + K·(2·Hk·dk + H·dv) + 2·H + dv`.
//!
//! Initial decay as in flash-linear-attention, `A ~ U(1, 16)` and `dt` log-uniform in [0.001, 0.1]:
//! half-lives from a step to hundreds. (Hugging Face's `dt_bias = 1` forgets within a few tokens.)

use super::{merge_heads, split_heads};
use crate::error::{ZooError, divisible, positive};
use crate::norm::l2_norm;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use kernels::gated_delta_rule::effective_pattern;
use kernels::{DeltaForm, gated_delta_rule, short_conv};
use rand::RngExt;
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
    #[serde(default = "four")]
    pub conv: usize,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "chunk")]
    pub chunk: usize,
}

fn four() -> usize {
    4
}

fn chunk() -> usize {
    64
}

/// The ε of q, k and of the output norm in Qwen3-Next.
const EPS: f64 = 1e-6;

impl GatedDeltaConfig {
    pub fn new(heads: usize) -> Self {
        Self { heads, k_heads: None, key_dim: None, value_dim: None, conv: four(), chunk: chunk() }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        divisible("heads", self.heads, "k_heads", positive("k_heads", self.k_heads())?)?;
        if self.key_dim.is_none() || self.value_dim.is_none() {
            divisible("d_model", d_model, "heads", self.heads)?;
        }
        positive("key_dim", self.key_dim(d_model))?;
        positive("value_dim", self.value_dim(d_model))?;
        positive("conv", self.conv)?;
        if !self.chunk.is_power_of_two() {
            let (value, expected) = (self.chunk.to_string(), "a power of two".into());
            return Err(ZooError::Invalid { name: "chunk", value, expected });
        }
        Ok(())
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
        // The uniform range of a depthwise convolution in PyTorch: ±1/√taps.
        let bound = (self.conv as f64).powf(-0.5);
        GatedDelta {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
            z_proj: Linear::new(d_model, v, init),
            b_proj: Linear::new(d_model, self.heads, init),
            a_proj: Linear::new(d_model, self.heads, init),
            conv: init.uniform([2 * qk + v, self.conv], -bound, bound),
            a_log: init.draw([self.heads], |rng| rng.random_range(1.0..16.0f64).ln()),
            dt_bias: init.draw([self.heads], |rng| {
                let dt = (rng.random_range(0.001f64.ln()..0.1f64.ln())).exp().max(1e-4);
                dt + (-(-dt).exp_m1()).ln() // softplus⁻¹(dt)
            }),
            norm: RmsNorm::new(self.value_dim(d_model), EPS, init),
            o_proj: Linear::residual(v, d_model, init),
            heads: self.heads,
            k_heads: self.k_heads(),
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
    #[module(skip)]
    chunk: usize,
}

impl GatedDelta {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, form: DeltaForm, tap: &mut dyn Tap) -> Tensor<3> {
        let past = cache.as_ref().and_then(|c| c.get("conv"));
        let state = cache.as_ref().and_then(|c| c.get("state"));

        let u = [&self.q_proj, &self.k_proj, &self.v_proj].map(|proj| proj.forward(x.clone()));
        let widths = u.each_ref().map(|part| part.dims()[2]);
        let (u, past) = short_conv(Tensor::cat(u.into(), 2), self.conv.val(), past);
        let mut parts = u.split_with_sizes(widths.to_vec(), 2).into_iter();
        let mut next = |heads| split_heads(parts.next().expect("three parts"), heads);
        let (q, k, v) = (next(self.k_heads), next(self.k_heads), next(self.heads));
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let q = tap.at("q", l2_norm(q, EPS) * scale);
        let k = tap.at("k", l2_norm(k, EPS));
        let v = tap.at("v", v);
        let (q, k) = (self.share(q), self.share(k));

        let by_head = |x: Tensor<3>| x.swap_dims(1, 2); // [batch, heads, time]
        let beta = tap.at("beta", activation::sigmoid(by_head(self.b_proj.forward(x.clone()))));
        let dt = self.a_proj.forward(x.clone()) + self.dt_bias.val().unsqueeze();
        let rate = self.a_log.val().exp().unsqueeze::<3>();
        let log_decay = by_head(softplus(dt) * rate).neg();
        let log_decay = match tap.wants("decay") {
            // A decay that underflowed is as good as none, and its logarithm must stay finite.
            true => tap.at("decay", log_decay.exp()).clamp_min(1e-30).log(),
            false => log_decay,
        };
        // The pattern describes a sequence from its beginning: a decoding step has only its state.
        let pattern = (tap.wants("pattern") && cache.is_none())
            .then(|| effective_pattern(q.clone(), k.clone(), beta.clone(), log_decay.clone()))
            .map(|pattern| tap.at("pattern", pattern).matmul(v.clone()));

        let (o, state) = gated_delta_rule(q, k, v, beta, log_decay, state, form);
        let o = pattern.unwrap_or(o);
        let state = tap.at("state", state);
        if let Some(cache) = cache {
            cache.set("conv", past);
            cache.set("state", state);
        }
        let gate = split_heads(activation::silu(self.z_proj.forward(x)), self.heads);
        let gate = tap.at("gate", gate.swap_dims(1, 2)).swap_dims(1, 2); // [batch, time, heads, d_v]
        tap.at("out", self.o_proj.forward(merge_heads(self.norm.forward(o) * gate)))
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

/// `log(1 + e^x)` without overflow for large `x` and without losing small results.
fn softplus(x: Tensor<3>) -> Tensor<3> {
    activation::relu(x.clone()) + x.abs().neg().exp().log1p()
}

impl Mixer for GatedDelta {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, DeltaForm::Chunked(self.chunk), tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), DeltaForm::Recurrent, tap)
    }
}
