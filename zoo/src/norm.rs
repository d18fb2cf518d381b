//! Root-mean-square normalisation (Zhang and Sennrich 2019).

use crate::Init;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `y = x / √(mean(x²) + ε) · w`, over the last axis; `w` starts at 1.
///
/// Zero-centred (Gemma, Qwen3-Next), it multiplies by `1 + w` and `w` starts at 0: the same function,
/// but weight decay pulls the factor to 1 instead of to 0.
#[derive(Module, Debug)]
pub struct RmsNorm {
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    zero_centred: bool,
}

impl RmsNorm {
    pub fn new(size: usize, eps: f64, init: &mut Init) -> Self {
        Self { weight: init.constant([size], 1.0), eps, zero_centred: false }
    }

    pub fn zero_centred(size: usize, eps: f64, init: &mut Init) -> Self {
        Self { weight: init.constant([size], 0.0), eps, zero_centred: true }
    }

    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let scale = (x.clone().square().mean_dim(D - 1) + self.eps).sqrt().recip();
        let weight = self.weight.val();
        let weight = if self.zero_centred { weight + 1.0 } else { weight };
        x * scale * weight.unsqueeze()
    }
}

/// `x / √(Σx² + ε)` over the last axis, without a weight (queries and keys of the delta rule).
pub fn l2_norm<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let scale = (x.clone().square().sum_dim(D - 1) + eps).sqrt().recip();
    x * scale
}
