//! Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236): the exponential of the softmax
//! replaced by a product of features, so that the sum over the past is a state.
//!
//! ```text
//! q = φ(x W_qᵀ)    k = φ(x W_kᵀ)    v = x W_vᵀ
//! S_t = S_{t−1} + k_t v_tᵀ    z_t = z_{t−1} + k_t        o_t = S_tᵀ q_t / (q_t · z_t + ε)
//! out = concat_h(o) W_oᵀ
//! ```
//! Shapes: `q, k [batch, heads, time, features]`, `v, o [batch, heads, time, d_v]`. The normaliser `z` is one more value
//! channel that is always 1, and there are as many of it as make the channels a multiple of 4, which kernels read at once:
//! the state is `[batch, heads, features, 4 ⌊d_v / 4⌋ + 4]`. Without the normaliser it is the plain sum that RetNet, GLA
//! and DeltaNet start from. There is no position but the causal sum itself.
//!
//! Parameters: `H·(2·D·dk + 2·D·dv)`.

use super::{attend, check_chunk, check_share, default_chunk, offered, run_state};
use crate::error::{ZooError, positive};
use crate::mixers::{merge_heads, split_heads};
use crate::{Cache, Init, Linear, Mixer, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, activation};
use kernels::linear_attention::effective_pattern;
use kernels::{Gates, LogDecay};
use serde::{Deserialize, Serialize};

/// What a query and a key are seen through; a pair's weight is `φ(q) · φ(k)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// `elu(x) + 1`: `x + 1` above zero, `e^x` below.
    #[default]
    EluPlusOne,
    /// `[1, x/d^¼, (x ⊗ x)/√(2d)]`, whose products are `1 + s + s²/2` with `s = q·k/√d`: the exponential
    /// to second order (Arora et al. 2024, arXiv 2402.18668). `1 + d + d²` features.
    Taylor,
    /// `x`.
    Identity,
}

impl FeatureMap {
    /// `[batch, heads, time, d]` → `[batch, heads, time, features]`.
    pub fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Identity => x,
            Self::EluPlusOne => activation::relu(x.clone()) + activation::relu(x.neg()).neg().exp(),
            Self::Taylor => {
                let [batch, heads, time, d] = x.dims();
                let x = x * (d as f64).powf(-0.25);
                let square = x.clone().unsqueeze_dim::<5>(4) * x.clone().unsqueeze_dim::<5>(3);
                let square = square.reshape([batch, heads, time, d * d]) * 0.5f64.sqrt();
                Tensor::cat(vec![x.clone().narrow(3, 0, 1).ones_like(), x, square], 3)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearAttentionConfig {
    pub heads: usize,
    /// Channels of a query and a key before `φ`; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_dim: Option<usize>,
    /// Channels of a value; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    #[serde(default)]
    pub feature_map: FeatureMap,
    /// Whether the output is divided by `q · z`.
    #[serde(default = "yes")]
    pub normalised: bool,
    /// Tokens per chunk in `forward`, a power of two.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
}

fn yes() -> bool {
    true
}

/// The ε of the original implementation.
const EPS: f64 = 1e-6;

impl LinearAttentionConfig {
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            key_dim: None,
            value_dim: None,
            feature_map: FeatureMap::default(),
            normalised: true,
            chunk: default_chunk(),
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        check_share("key_dim", self.key_dim, ("d_model", d_model), self.heads)?;
        check_share("value_dim", self.value_dim, ("d_model", d_model), self.heads)?;
        if self.normalised && self.feature_map == FeatureMap::Identity {
            let expected = "elu_plus_one or taylor where the output is normalised: the sum of weights must be positive";
            let (value, expected) = ("identity".into(), expected.into());
            return Err(ZooError::Invalid { name: "feature_map", value, expected });
        }
        check_chunk(self.chunk)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.heads * 2 * d_model * (self.key_dim(d_model) + self.value_dim(d_model))
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> LinearAttention {
        let (qk, v) = (self.heads * self.key_dim(d_model), self.heads * self.value_dim(d_model));
        LinearAttention {
            q_proj: Linear::new(d_model, qk, init),
            k_proj: Linear::new(d_model, qk, init),
            v_proj: Linear::new(d_model, v, init),
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
pub struct LinearAttention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    #[module(skip)]
    config: LinearAttentionConfig,
}

impl LinearAttention {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let LinearAttentionConfig { heads, feature_map, chunk, .. } = self.config;
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| split_heads(p.forward(x.clone()), heads));
        let q = tap.at("q", feature_map.apply(q));
        let k = tap.at("k", feature_map.apply(k));
        let v = tap.at("v", v);
        let o = match self.config.normalised {
            true => normalised([q, k, v], chunk, cache, tap),
            false => attend([q, k, v], &LogDecay::None, &Gates::Add, chunk, cache, tap),
        };
        tap.at("out", self.o_proj.forward(merge_heads(o)))
    }
}

fn normalised([q, k, v]: [Tensor<4>; 3], chunk: usize, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<4> {
    let pattern = || {
        let weights = effective_pattern(q.clone(), k.clone(), &LogDecay::None, &Gates::Add);
        weights.clone() / (weights.sum_dim(3) + EPS)
    };
    let changed = offered(cache.is_none(), pattern, tap).map(|pattern| pattern.matmul(v.clone()));
    let d_value = v.dims()[3];
    let ones = v.clone().narrow(3, 0, 1).ones_like().repeat_dim(3, 4 - d_value % 4);
    let with_ones = Tensor::cat(vec![v, ones], 3);
    let sums = run_state([q, k, with_ones], &LogDecay::None, &Gates::Add, chunk, cache, tap);
    let o = sums.clone().narrow(3, 0, d_value) / (sums.narrow(3, d_value, 1) + EPS);
    changed.unwrap_or(o)
}

impl Mixer for LinearAttention {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
