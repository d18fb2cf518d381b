//! A matrix, stored the way checkpoints store it.

use crate::Init;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `y = x Wᵀ`, with `W` of shape `[out, in]` as in PyTorch and safetensors; plus a bias where one is asked for.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    pub fn new(d_in: usize, d_out: usize, init: &mut Init) -> Self {
        Self { weight: init.weight([d_out, d_in]), bias: None }
    }

    /// For a projection whose output is added to the residual stream.
    pub fn residual(d_in: usize, d_out: usize, init: &mut Init) -> Self {
        Self { weight: init.residual([d_out, d_in]), bias: None }
    }

    /// The same with a bias, which starts at 0.
    pub fn biased(self, init: &mut Init) -> Self {
        let [d_out, _] = self.weight.dims();
        Self { bias: Some(init.constant([d_out], 0.0)), ..self }
    }

    /// `[batch, time, in]` → `[batch, time, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// Several on the same tokens: `[batch, time, in]` → `[batch, time, out]` of each.
    pub fn all<const N: usize>(linears: [&Self; N], x: Tensor<3>) -> [Tensor<3>; N] {
        if linears.iter().any(|linear| linear.bias.is_some()) {
            return linears.map(|linear| linear.forward(x.clone()));
        }
        kernels::linears(x, linears.map(|linear| linear.weight.val()))
    }
}
