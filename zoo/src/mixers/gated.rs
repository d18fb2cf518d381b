//! Gated attention (Qiu et al. 2025, arXiv 2505.06708, NeurIPS 2025): softmax attention with a gate,
//! computed from the same normed input as the queries, at one of five places.
//!
//! ```text
//! q = G4(x W_qᵀ), k = G3(x W_kᵀ), v = G2(x W_vᵀ)       A = softmax(q kᵀ / √d + causal mask)
//! out = G5( concat_h( G1(A v) ) W_oᵀ )
//!
//! G(y) = y ⊙ σ(x W_gᵀ)   or   y + σ(x W_gᵀ)            at one place; y at the others
//! ```
//! The paper's choice, and the default, is a sigmoid that multiplies at G1. The gate has one score per
//! channel or one per head ([`Gate`]). Row `t` of `x` gates the output of query `t` there: the gate is
//! query-dependent, which is what lets a head say "nothing" without parking its attention on the
//! first token. At the start the gate is about ½, and the branch half as large.
//!
//! - [`GatePosition`]: keys and queries are gated after QK-norm and before rotation (a headwise gate
//!   before an RMSNorm would do nothing; the paper does not say). On a query, a headwise gate is a
//!   temperature of its softmax. Keys and values are cached gated.
//! - `shared`: all heads get the mean of their gates, so that the parameters stay the same.
//! - [`GateCombine`] and [`GateActivation`]: what the sigmoid and the product are exchanged for.
//! - [`Gate`] also names a gate without input, and the controls without a gate.
//!
//! [`tables::gated_attention`](crate::tables::gated_attention) lists the paper's tables as
//! configurations.
//!
//! Shapes: `q`, `A v` `[batch, heads, time, d]`, `k`, `v` `[batch, kv_heads, time, d]`; the gate
//! `[batch, time, heads, d]` with `kv_heads` at G2 and G3, with one head of `D` channels at G5.
//!
//! Parameters: those of softmax attention and, elementwise, `D·H·d` (G1, G4), `D·Hk·d` (G2, G3), `D²`
//! (G5); headwise `D·H` or `D·Hk`; without input the same without the `D·`; head norm `d`, SiLU none.

use super::{Softmax, SoftmaxConfig, merge_heads, split_heads};
use crate::error::ZooError;
use crate::{Cache, Init, Linear, Mixer, RmsNorm, Tap};
use burn::module::{Module, Param};
use burn::tensor::{
    Tensor,
    activation::{sigmoid, silu},
};
use serde::{Deserialize, Serialize};

/// What stands at the gate's place: a gate, or a control that the paper puts there instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// One score per channel, from the input.
    #[default]
    Elementwise,
    /// One score per head, from the input.
    Headwise,
    /// One score per channel, learned and the same for every token. It starts at σ(0).
    InputIndependent,
    /// No gate: an RMSNorm per head of the heads' outputs, its weight shared by the heads.
    HeadNorm,
    /// No gate: SiLU of the heads' outputs.
    Silu,
}

impl Gate {
    /// Scores that the input gives a head of `channels`; none where it gives none.
    pub fn scores(self, channels: usize) -> Option<usize> {
        match self {
            Self::Elementwise => Some(channels),
            Self::Headwise => Some(1),
            Self::InputIndependent | Self::HeadNorm | Self::Silu => None,
        }
    }
}

/// What is gated, in the paper's numbering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatePosition {
    /// G1: every head's output.
    #[default]
    Output,
    /// G2: values.
    Value,
    /// G3: keys, after QK-norm and before rotation.
    Key,
    /// G4: queries, after QK-norm and before rotation.
    Query,
    /// G5: what `o_proj` returns, seen as one head of `d_model` channels.
    Dense,
}

/// How the gate meets what is gated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateCombine {
    #[default]
    Multiply,
    Add,
}

/// From the projection `z` to the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateActivation {
    /// `σ(z)`, in (0, 1).
    #[default]
    Sigmoid,
    /// `z σ(z)`.
    Silu,
    /// `½ + ½ σ(z)`, in (½, 1): a gate that never closes (the paper's NS-sigmoid).
    NonSparseSigmoid,
    /// `z`, for gates that add.
    Identity,
}

impl GateActivation {
    fn apply(self, z: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Sigmoid => sigmoid(z),
            Self::Silu => silu(z),
            Self::NonSparseSigmoid => sigmoid(z) * 0.5 + 0.5,
            Self::Identity => z,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedConfig {
    #[serde(default)]
    pub gate: Gate,
    #[serde(default, skip_serializing_if = "is_default")]
    pub position: GatePosition,
    /// Whether all heads get the mean of their gates.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub combine: GateCombine,
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: GateActivation,
    /// What is gated.
    pub attention: SoftmaxConfig,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl GatedConfig {
    pub fn new(heads: usize) -> Self {
        Self::of(SoftmaxConfig::new(heads))
    }

    /// `attention` with an elementwise sigmoid gate at G1.
    pub fn of(attention: SoftmaxConfig) -> Self {
        Self {
            gate: Gate::default(),
            position: GatePosition::default(),
            shared: false,
            combine: GateCombine::default(),
            activation: GateActivation::default(),
            attention,
        }
    }

    /// # Errors
    /// What the attention refuses, and what has no meaning or is not the paper's: heads at G5 (there
    /// are none), a mean over heads of gates without input (one head's would do), a product with the
    /// bare projection, and a control (it has no gate) with a gate's settings.
    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        self.attention.validate(d_model)?;
        let refuse = |name, value: &str, expected: &str| {
            Err(ZooError::Invalid { name, value: value.into(), expected: expected.into() })
        };
        if let Gate::HeadNorm | Gate::Silu = self.gate
            && *self != (Self { gate: self.gate, ..Self::of(self.attention.clone()) })
        {
            let control = if self.gate == Gate::Silu { "silu" } else { "head_norm" };
            let name = "gate beside position, shared, combine or activation";
            return refuse(name, control, "elementwise, headwise or input_independent");
        }
        if self.position == GatePosition::Dense && self.gate == Gate::Headwise {
            let expected = "elementwise or input_independent (no heads there)";
            return refuse("gate at position dense", "headwise", expected);
        }
        if self.shared && self.position == GatePosition::Dense {
            return refuse("shared at position dense", "true", "false (no heads there)");
        }
        if self.shared && self.gate == Gate::InputIndependent {
            return refuse("shared for a gate without input", "true", "false");
        }
        if (self.combine, self.activation) == (GateCombine::Multiply, GateActivation::Identity) {
            return refuse("activation of a gate that multiplies", "identity", "sigmoid, silu or non_sparse_sigmoid");
        }
        Ok(())
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let (heads, channels) = self.gated(d_model);
        self.attention.parameters(d_model)
            + match self.gate {
                Gate::Elementwise => d_model * heads * channels,
                Gate::Headwise => d_model * heads,
                Gate::InputIndependent => heads * channels,
                Gate::HeadNorm => channels,
                Gate::Silu => 0,
            }
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Gated {
        let (heads, channels) = self.gated(d_model);
        Gated {
            attention: self.attention.init(d_model, init),
            gate_proj: self.gate.scores(channels).map(|scores| Linear::new(d_model, heads * scores, init)),
            gate_logits: (self.gate == Gate::InputIndependent).then(|| init.constant([heads, channels], 0.0)),
            head_norm: (self.gate == Gate::HeadNorm).then(|| RmsNorm::new(channels, self.attention.norm_eps, init)),
            config: self.clone(),
        }
    }

    /// Heads and channels of what is gated.
    fn gated(&self, d_model: usize) -> (usize, usize) {
        let d = self.attention.head_dim(d_model);
        match self.position {
            GatePosition::Output | GatePosition::Query => (self.attention.heads, d),
            GatePosition::Value | GatePosition::Key => (self.attention.kv_heads(), d),
            GatePosition::Dense => (1, d_model),
        }
    }
}

#[derive(Module, Debug)]
pub struct Gated {
    pub attention: Softmax,
    pub gate_proj: Option<Linear>,
    /// `[heads, channels]`, of a gate without input.
    pub gate_logits: Option<Param<Tensor<2>>>,
    pub head_norm: Option<RmsNorm>,
    #[module(skip)]
    config: GatedConfig,
}

impl Gated {
    fn run(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let [q, k, v] = self.attention.inputs(x.clone());
        let q = self.at(GatePosition::Query, q, &x, tap);
        let k = self.at(GatePosition::Key, k, &x, tap);
        let v = self.at(GatePosition::Value, v, &x, tap);
        // A gate that multiplies the output is a part of the operator.
        let GatedConfig { position, combine, .. } = self.config;
        let fused = (position, combine) == (GatePosition::Output, GateCombine::Multiply);
        let gate = if fused { self.gate(q.dims()[1], &x, tap) } else { None };
        let done = gate.is_some();
        let heads = self.attention.attend_from([q, k, v], |_, _, _| None, gate, cache, tap);
        let heads = if done { heads } else { self.at(GatePosition::Output, heads, &x, tap) };
        let out = self.attention.o_proj.forward(merge_heads(heads));
        let out = self.at(GatePosition::Dense, split_heads(out, 1), &x, tap);
        tap.at("out", merge_heads(out))
    }

    /// `y [batch, heads, time, channels]`, gated if this is the gate's place.
    fn at(&self, position: GatePosition, y: Tensor<4>, x: &Tensor<3>, tap: &mut dyn Tap) -> Tensor<4> {
        if position != self.config.position {
            return y;
        }
        match (self.gate(y.dims()[1], x, tap), &self.head_norm) {
            (Some(gate), _) => match self.config.combine {
                GateCombine::Multiply => y * gate,
                GateCombine::Add => y + gate,
            },
            (None, Some(norm)) => norm.forward(y),
            (None, None) => silu(y),
        }
    }

    /// The gate, broadcast to `[batch, heads, time, channels]`; none where a norm or SiLU stands in its place.
    fn gate(&self, heads: usize, x: &Tensor<3>, tap: &mut dyn Tap) -> Option<Tensor<4>> {
        let GatedConfig { shared, activation, .. } = self.config;
        let [batch, time, _] = x.dims();
        let logits = match (&self.gate_proj, &self.gate_logits) {
            (Some(proj), _) => {
                let logits = proj.forward(x.clone());
                let scores = logits.dims()[2] / heads;
                logits.reshape([batch, time, heads, scores])
            }
            (None, Some(logits)) => logits.val().unsqueeze(),
            (None, None) => return None,
        };
        let gate = activation.apply(logits); // [batch, time, heads, channels]
        let gate = if shared { gate.mean_dim(2) } else { gate };
        Some(tap.at("gate", gate).swap_dims(1, 2))
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
