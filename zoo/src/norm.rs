//! Root-mean-square normalisation (Zhang and Sennrich 2019).

use crate::Init;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `y = x / √(mean(x²) + ε) · w`, over the last axis; `w` starts at 1.
#[derive(Module, Debug)]
pub struct RmsNorm {
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    pub fn new(size: usize, eps: f64, init: &mut Init) -> Self {
        Self { weight: init.constant([size], 1.0), eps }
    }

    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let scale = (x.clone().square().mean_dim(D - 1) + self.eps).sqrt().recip();
        x * scale * self.weight.val().unsqueeze()
    }
}

/// `x / √(Σx² + ε)` over the last axis, without a weight (queries and keys of the delta rule).
pub fn l2_norm<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let scale = (x.clone().square().sum_dim(D - 1) + eps).sqrt().recip();
    x * scale
}
