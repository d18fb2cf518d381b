//! A matrix, stored the way checkpoints store it.

use crate::Init;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `y = x Wᵀ`, with `W` of shape `[out, in]` as in PyTorch and safetensors, without bias.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Param<Tensor<2>>,
}

impl Linear {
    pub fn new(d_in: usize, d_out: usize, init: &mut Init) -> Self {
        Self { weight: init.weight([d_out, d_in]) }
    }

    /// For a projection whose output is added to the residual stream.
    pub fn residual(d_in: usize, d_out: usize, init: &mut Init) -> Self {
        Self { weight: init.residual([d_out, d_in]) }
    }

    /// `[batch, time, in]` → `[batch, time, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, time, d_in] = x.dims();
        let [d_out, expected] = self.weight.dims();
        assert_eq!(d_in, expected, "expected [batch, time, {expected}], got [{batch}, {time}, {d_in}]");
        // One flat product: a broadcast batch of small ones is slower on every backend.
        x.reshape([batch * time, d_in]).matmul(self.weight.val().transpose()).reshape([batch, time, d_out])
    }
}
