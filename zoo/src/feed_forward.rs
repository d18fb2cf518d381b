//! The feed-forward half of a block.

use crate::{Init, Linear};
use burn::module::Module;
use burn::tensor::{Tensor, activation::silu};

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
        self.down_proj.forward(silu(self.gate_proj.forward(x.clone())) * self.up_proj.forward(x))
    }
}
