//! Root-mean-square normalisation (Zhang and Sennrich 2019).

use crate::Init;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kernels::rms_norm::{Activation, GatePlace, NormOptions};
use kernels::{add_rms_norm, gated_rms_norm, rms_norm};

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
        rms_norm(x, self.weight.val(), self.options())
    }

    /// The norm times `factor`, which multiplies the weight and so costs nothing.
    pub fn scaled<const D: usize>(&self, x: Tensor<D>, factor: f64) -> Tensor<D> {
        let weight = self.weight.val();
        let weight = if self.zero_centred { weight + 1.0 } else { weight };
        rms_norm(x, weight * factor, self.eps)
    }

    /// `[norm of x + more, x + more]`.
    pub fn after<const D: usize>(&self, x: Tensor<D>, more: Tensor<D>) -> [Tensor<D>; 2] {
        add_rms_norm(x, more, self.weight.val(), self.options())
    }

    /// The norm times `φ(z)`, or the norm of `x ⊙ φ(z)`.
    pub fn gated<const D: usize>(
        &self,
        x: Tensor<D>,
        z: Tensor<D>,
        activation: Activation,
        place: GatePlace,
    ) -> Tensor<D> {
        gated_rms_norm(x, z, self.weight.val(), activation, place, self.options())
    }

    fn options(&self) -> NormOptions {
        NormOptions { eps: self.eps, zero_centred: self.zero_centred }
    }
}
