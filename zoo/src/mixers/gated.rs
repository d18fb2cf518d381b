//! Gated attention (Qiu et al. 2025, arXiv 2505.06708, NeurIPS 2025): position G1, a sigmoid gate on
//! every head's output, computed from the same normed input as the queries.
//!
//! ```text
//! out = concat_h( (A v) ⊙ σ(x W_gᵀ) ) W_oᵀ
//! ```
//! The gate has one score per channel (`[batch, time, heads, d]`, elementwise) or one per head
//! (`[batch, time, heads, 1]`, headwise). Row `t` of `x` gates the output of query `t`: the gate is
//! query-dependent, which is what lets a head say "nothing" without parking its attention on the
//! first token. At the start the gate is about ½, and the branch half as large.
//!
//! Parameters: those of softmax attention and `D·H·d` (elementwise) or `D·H` (headwise).

use super::{Softmax, SoftmaxConfig, merge_heads};
use crate::error::ZooError;
use crate::{Cache, Init, Linear, Mixer, Tap};
use burn::module::Module;
use burn::tensor::{Tensor, activation::sigmoid};
use serde::{Deserialize, Serialize};

/// How many scores a head's gate has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// One per channel.
    #[default]
    Elementwise,
    /// One per head.
    Headwise,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedConfig {
    #[serde(default)]
    pub gate: Gate,
    /// What is gated.
    pub attention: SoftmaxConfig,
}

impl GatedConfig {
    pub fn new(heads: usize) -> Self {
        Self { gate: Gate::Elementwise, attention: SoftmaxConfig::new(heads) }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        self.attention.validate(d_model)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.attention.parameters(d_model) + d_model * self.scores(d_model)
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Gated {
        Gated {
            attention: self.attention.init(d_model, init),
            gate_proj: Linear::new(d_model, self.scores(d_model), init),
        }
    }

    /// Gate scores of one token.
    fn scores(&self, d_model: usize) -> usize {
        match self.gate {
            Gate::Elementwise => self.attention.heads * self.attention.head_dim(d_model),
            Gate::Headwise => self.attention.heads,
        }
    }
}

#[derive(Module, Debug)]
pub struct Gated {
    pub attention: Softmax,
    pub gate_proj: Linear,
}

impl Gated {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let heads = self.attention.attend(x.clone(), cache, tap); // [batch, heads, time, d]
        let [batch, count, time, _] = heads.dims();
        let scores = self.gate_proj.forward(x);
        let per_head = scores.dims()[2] / count;
        let gate = tap.at("gate", sigmoid(scores).reshape([batch, time, count, per_head]));
        let gated = merge_heads(heads * gate.swap_dims(1, 2));
        tap.at("out", self.attention.o_proj.forward(gated))
    }
}

impl Mixer for Gated {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
