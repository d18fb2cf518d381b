//! The numbers in which a step is computed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use zoo::Decoder;

/// The numbers in which forward, backward and evaluation are computed. Weights, moments, the loss, the norm of the gradients and
/// the update are in f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    /// All weights, biases of rates too, are rounded to bf16 before each step, activations and their gradients are bf16; an operator sums in f32. What tensor
    /// cores multiply: the CUDA kernels of attention are for these numbers. No factor on the loss is needed, bf16 having the
    /// exponents of f32.
    Bf16,
}

impl Precision {
    /// `model` as a step computes with it. On a tape the gradients of what is made of it arrive at the weights of `model`, in
    /// their dtype.
    pub fn of(self, model: &Decoder) -> Decoder {
        struct Rounded;
        impl ModuleMapper for Rounded {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|weight| weight.cast(FloatDType::BF16))
            }
        }
        match self {
            Self::F32 => model.clone(),
            Self::Bf16 => model.clone().map(&mut Rounded),
        }
    }
}
