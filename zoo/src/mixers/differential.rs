//! Differential attention: the difference of two softmax patterns, so that what both see (noise)
//! cancels.
//!
//! **V1** (Ye et al. 2024, arXiv 2410.05258), with `h` heads of two patterns and values of width `2d`:
//! ```text
//! λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init       λ_init(l) = 0.8 − 0.6 e^{−0.3 l}, l from 0
//! O = ( softmax(Q₁K₁ᵀ/√d) − λ softmax(Q₂K₂ᵀ/√d) ) V
//! out = concat_i( (1 − λ_init) RMSNorm(O_i) ) W_oᵀ
//! ```
//! λ is one number per layer, from four vectors of `d` that start as N(0, 0.1²).
//! Parameters: `4·D·h·2d` with `kv_heads = h`, `4·d` for λ, `2·d` for the norm.
//!
//! **V2** (Microsoft, January 2026; code in unilm): `2h` query heads on common keys and values,
//! ```text
//! out_j = attn_{2j} − σ(x W_λᵀ)_j attn_{2j+1}
//! ```
//! λ differs by token and head; no norm, no λ_init. Heads `2j` and `2j+1` share a key head.
//! Parameters: `D·2h·d + 2·D·Hk·d + D·h + h·d·D`.
//!
//! Pairs are neighbours, as in unilm: softmax map `2i` with `2i + 1`.

use super::{merge_heads, split_heads};
use crate::cache::KeyValues;
use crate::error::{ZooError, divisible, positive, positive_number};
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation::sigmoid};
use kernels::differential_attention::patterns;
use kernels::softmax_attention::apply;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferentialVersion {
    #[default]
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DifferentialConfig {
    #[serde(default)]
    pub version: DifferentialVersion,
    /// Differential heads: pairs of patterns.
    pub heads: usize,
    /// Groups of keys; `heads` when absent. A group holds two key heads and one value head of width
    /// `2d` in V1, one key and one value head of width `d` in V2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Channels `d` of one query; by default `d_model / (2 · heads)` in V1, `d_model / heads` in V2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// ε of the norm of V1's heads.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    #[serde(default)]
    pub position: Position,
}

/// As in unilm.
fn eps() -> f64 {
    1e-5
}

/// λ_init of block `layer`, counted from 0.
pub fn lambda_init(layer: usize) -> f64 {
    0.8 - 0.6 * (-0.3 * layer as f64).exp()
}

impl DifferentialConfig {
    pub fn new(version: DifferentialVersion, heads: usize) -> Self {
        Self { version, heads, kv_heads: None, head_dim: None, norm_eps: eps(), position: Position::default() }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        positive("heads", self.heads)?;
        divisible("heads", self.heads, "kv_heads", positive("kv_heads", self.kv_heads())?)?;
        let head_dim = match (self.head_dim, self.version) {
            (Some(d), _) => positive("head_dim", d)?,
            (None, DifferentialVersion::V1) => divisible("d_model", d_model, "2 · heads =", 2 * self.heads)?,
            (None, DifferentialVersion::V2) => divisible("d_model", d_model, "heads", self.heads)?,
        };
        positive_number("norm_eps", self.norm_eps)?;
        self.position.validate(head_dim)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (d, h, kv) = (self.head_dim(d_model), self.heads, self.kv_heads());
        match self.version {
            DifferentialVersion::V1 => d_model * 2 * d * (2 * h + 2 * kv) + 4 * d + 2 * d,
            DifferentialVersion::V2 => d_model * d * (3 * h + 2 * kv) + d_model * h,
        }
    }

    /// The mixer of block `layer`, counted from 0.
    pub fn init(&self, d_model: usize, layer: usize, init: &mut Init) -> Differential {
        let (d, heads, kv_heads) = (self.head_dim(d_model), self.heads, self.kv_heads());
        let wide = match self.version {
            DifferentialVersion::V1 => 2 * d,
            DifferentialVersion::V2 => d,
        };
        Differential {
            q_proj: Linear::new(d_model, heads * 2 * d, init),
            k_proj: Linear::new(d_model, kv_heads * wide, init),
            v_proj: Linear::new(d_model, kv_heads * wide, init),
            o_proj: Linear::residual(heads * wide, d_model, init),
            lambda: match self.version {
                DifferentialVersion::V1 => Lambda::Layer(LayerLambda::new(d, lambda_init(layer), self.norm_eps, init)),
                DifferentialVersion::V2 => Lambda::Token(Linear::new(d_model, heads, init)),
            },
            heads,
            kv_heads,
            position: self.position,
        }
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    pub fn head_dim(&self, d_model: usize) -> usize {
        self.head_dim.unwrap_or(match self.version {
            DifferentialVersion::V1 => d_model / (2 * self.heads),
            DifferentialVersion::V2 => d_model / self.heads,
        })
    }
}

#[derive(Module, Debug)]
pub struct Differential {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub lambda: Lambda,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    position: Position,
}

/// Where λ comes from.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Lambda {
    /// V1: one number per layer, with the norm that goes with it.
    Layer(LayerLambda),
    /// V2: one number per token and head.
    Token(Linear),
}

#[derive(Module, Debug)]
pub struct LayerLambda {
    pub q1: Param<Tensor<1>>,
    pub k1: Param<Tensor<1>>,
    pub q2: Param<Tensor<1>>,
    pub k2: Param<Tensor<1>>,
    pub norm: RmsNorm,
    #[module(skip)]
    init: f64,
}

impl LayerLambda {
    fn new(d: usize, lambda_init: f64, norm_eps: f64, init: &mut Init) -> Self {
        Self {
            q1: init.normal([d], 0.1),
            k1: init.normal([d], 0.1),
            q2: init.normal([d], 0.1),
            k2: init.normal([d], 0.1),
            norm: RmsNorm::new(2 * d, norm_eps, init),
            init: lambda_init,
        }
    }

    /// λ, `[1]`.
    pub fn value(&self) -> Tensor<1> {
        let exp = |q: &Param<Tensor<1>>, k: &Param<Tensor<1>>| (q.val() * k.val()).sum().exp();
        exp(&self.q1, &self.k1) - exp(&self.q2, &self.k2) + self.init
    }
}

impl Differential {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let start = cache.as_ref().map_or(0, |c| c.position());
        let key_heads = match &self.lambda {
            Lambda::Layer(_) => 2 * self.kv_heads,
            Lambda::Token(_) => self.kv_heads,
        };
        let [q, k, v] = Linear::all([&self.q_proj, &self.k_proj, &self.v_proj], x.clone());
        let q = tap.at("q", self.position.rotate(split_heads(q, 2 * self.heads), start));
        let k = tap.at("k", self.position.rotate(split_heads(k, key_heads), start));
        let v = tap.at("v", split_heads(v, self.kv_heads));
        let past = KeyValues::of(k, v, cache, None);
        let heads = match &self.lambda {
            Lambda::Layer(lambda) => {
                let value = tap.at("lambda", lambda.value()).reshape([1, 1, 1, 1]);
                // In the order of tokens, in which heads lie.
                let heads = self.subtract(q, past, value, tap).swap_dims(1, 2);
                lambda.norm.scaled(heads, 1.0 - lambda.init).swap_dims(1, 2)
            }
            Lambda::Token(lambda) => {
                let value = tap.at("lambda", sigmoid(lambda.forward(x))); // [batch, time, heads]
                self.subtract(q, past, value.swap_dims(1, 2).unsqueeze_dim(3), tap)
            }
        };
        tap.at("out", self.o_proj.forward(merge_heads(heads)))
    }

    /// Head `i` subtracts the pattern of query `2i + 1` from that of `2i`. `lambda` is broadcast to
    /// `[batch, heads, time, 1]`.
    fn subtract(&self, q: Tensor<4>, past: KeyValues, lambda: Tensor<4>, tap: &mut dyn Tap) -> Tensor<4> {
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let names = ["pattern_positive", "pattern_negative", "pattern"];
        let changed = names.iter().any(|name| tap.changes(name));
        if changed || names.iter().any(|name| tap.wants(name)) {
            let (positive, negative) = patterns(q.clone(), past.keys(), self.kv_heads, scale);
            let positive = tap.at("pattern_positive", positive);
            let negative = tap.at("pattern_negative", negative);
            let difference = tap.at("pattern", positive - negative * lambda.clone());
            if changed {
                return apply(difference, past.values());
            }
        }
        past.attend_differential(q, lambda, scale)
    }
}

impl Mixer for Differential {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
