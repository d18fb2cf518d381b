//! The feed-forward half of a block.

use crate::{Init, Linear, MixtureOfExperts, ModelConfig, Tap};
use burn::module::Module;
use burn::tensor::Tensor;

/// What works on each token by itself: one network, or a few chosen of many.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per block, and burn's derive takes no boxes
pub enum FeedForward {
    Dense(SwiGlu),
    Experts(MixtureOfExperts),
}

impl FeedForward {
    /// That of block `layer` of the model.
    pub fn new(config: &ModelConfig, layer: usize, init: &mut Init) -> Self {
        match config.experts_of(layer) {
            Some(experts) => Self::Experts(experts.init(config.d_model, init)),
            None => Self::Dense(SwiGlu::new(config.d_model, config.d_ff, init)),
        }
    }

    /// `[batch, time, d_model]` → the same.
    pub fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        match self {
            Self::Dense(network) => network.forward(x),
            Self::Experts(experts) => experts.forward(x, tap),
        }
    }
}

/// SwiGLU (Shazeer 2020): `W_down( silu(W_gate x) ⊙ W_up x )`. Parameters: `3 · d_model · d_ff`.
#[derive(Module, Debug)]
pub struct SwiGlu {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl SwiGlu {
    pub fn new(d_model: usize, d_ff: usize, init: &mut Init) -> Self {
        Self {
            gate_proj: Linear::new(d_model, d_ff, init),
            up_proj: Linear::new(d_model, d_ff, init),
            down_proj: Linear::residual(d_ff, d_model, init),
        }
    }

    /// `[batch, time, d_model]` → the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [gate, up] = Linear::all([&self.gate_proj, &self.up_proj], x);
        self.down_proj.forward(kernels::swiglu(gate, up))
    }
}
