//! Forgetting attention (FoX; Lin et al. 2025, arXiv 2503.02130): softmax attention whose past fades
//! at a rate that every token sets itself.
//!
//! ```text
//! f_t = σ(w_f·x_t + b_f)                 one gate per head and token
//! A = softmax(q kᵀ / √d + D)             D_ts = Σ_{l=s+1..t} log f_l  ≤ 0
//! out = concat_h(A v) W_oᵀ
//! ```
//! A key loses weight with every gate passed since: ALiBi with slopes that the data choose. With
//! all gates at 1 it is plain attention; with a constant gate `e^{−m}` it is ALiBi of slope `m`. The
//! gates tell the order of tokens, so there is no rotation unless [`ForgettingConfig::position`]
//! says so (the paper's default).
//!
//! With the prefix sums `c_t = Σ_{l≤t} log f_l`, `D_ts = c_t − c_s`; decoding keeps `c_s` with every
//! key. This is the paper's plain form ("LLaMA"); its "Pro" form adds an output gate, an output norm
//! and shifted keys and values.
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]`, `f [batch, heads, time]`.
//!
//! Parameters: those of softmax attention, and `D·H + H`.

use super::{Softmax, SoftmaxConfig, in_f32, merge_heads};
use crate::error::ZooError;
use crate::{Cache, Init, Linear, Mixer, Position, Tap};
use burn::module::{Module, Param};
use burn::tensor::{
    FloatDType, Tensor,
    activation::{log_sigmoid, sigmoid},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingConfig {
    pub heads: usize,
    /// Key and value heads; `heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Channels of a head; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries and keys are normed per head.
    #[serde(default = "yes")]
    pub qk_norm: bool,
    /// None unless said otherwise.
    #[serde(default = "no_position")]
    pub position: Position,
    /// Where `b_f` starts. At the published 0 a gate is about ½; at 5 a token halves in 100 steps.
    #[serde(default)]
    pub bias: f64,
}

fn yes() -> bool {
    true
}
fn no_position() -> Position {
    Position::None {}
}

impl ForgettingConfig {
    /// Multi-head attention with QK-norm, gates and no rotation.
    pub fn new(heads: usize) -> Self {
        Self { heads, kv_heads: None, head_dim: None, qk_norm: true, position: no_position(), bias: 0.0 }
    }

    /// The attention that forgets.
    pub fn attention(&self) -> SoftmaxConfig {
        SoftmaxConfig {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            qk_norm: self.qk_norm,
            position: self.position,
            ..SoftmaxConfig::new(self.heads)
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        if !self.bias.is_finite() {
            let (value, expected) = (self.bias.to_string(), "a finite number".into());
            return Err(ZooError::Invalid { name: "bias of the forget gate", value, expected });
        }
        self.attention().validate(d_model)
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.attention().parameters(d_model) + (d_model + 1) * self.heads
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Forgetting {
        Forgetting {
            attention: self.attention().init(d_model, init),
            forget_proj: Linear::new(d_model, self.heads, init),
            forget_bias: init.constant([self.heads], self.bias),
        }
    }
}

#[derive(Module, Debug)]
pub struct Forgetting {
    pub attention: Softmax,
    pub forget_proj: Linear,
    pub forget_bias: Param<Tensor<1>>,
}

impl Forgetting {
    /// `log f`, `[batch, heads, time, 1]`, in f32 where tokens have fewer bits: they are summed up.
    fn log_gate(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<4> {
        let logits = self.forget_proj.forward(x) + self.forget_bias.val().unsqueeze();
        let logits = in_f32(logits.swap_dims(1, 2));
        let log_gate = match tap.patched("forget", || sigmoid(logits.clone())) {
            // A patched gate may be 0, and the logarithm must stay finite.
            Some(patched) => patched.clamp_min(1e-30).log(),
            None => log_sigmoid(logits),
        };
        log_gate.unsqueeze_dim(3)
    }

    fn run(&self, x: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let mut own = prefix_sums(self.log_gate(x.clone(), tap)); // [batch, heads, time, 1]
        let mut all = own.clone();
        if let Some(cache) = cache.as_mut() {
            if let Some(past) = cache.get::<4>("forget") {
                own = own + past.clone().narrow(2, past.dims()[2] - 1, 1);
            }
            all = cache.append("forget", own.clone(), 2);
        }
        let decay = (own - all.transpose()).cast(FloatDType::from(x.dtype())); // [batch, heads, time, source]
        let heads = self.attention.attend_with(x, |_, _, _| Some(decay), cache, tap);
        tap.at("out", self.attention.o_proj.forward(merge_heads(heads)))
    }
}

/// Running sums along the third axis: a product with a triangle of ones, because burn's `cumsum`
/// differentiates slowly.
fn prefix_sums(x: Tensor<4>) -> Tensor<4> {
    let time = x.dims()[2];
    if time == 1 {
        return x;
    }
    Tensor::<4>::ones([1, 1, time, time], (&x.device(), x.dtype())).tril(0).matmul(x)
}

impl Mixer for Forgetting {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
