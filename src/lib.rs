//! Attention variants, taught, tried and compared.
//!
//! `use attention::prelude::*;` is all that a notebook or a program needs.

pub mod inspect;

pub use burn;
pub use cell_runtime;
pub use datasets;
pub use kernels;
pub use lab;
pub use lab::device;
pub use zoo;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use burn::tensor::{Bool, Int, Tensor};

/// Tensors as the last expression of a cell: values and shape, as `println!("{tensor}")` writes them.
pub trait ShowTensor {
    /// The method by which a notebook displays a value.
    fn evcxr_display(&self);
}

macro_rules! show_tensor {
    ($($kind:ty),*) => {$(
        impl<const D: usize> ShowTensor for Tensor<D, $kind> {
            fn evcxr_display(&self) {
                cell_runtime::display("text/plain", &self.to_string());
            }
        }
    )*};
}
show_tensor!(burn::tensor::Float, Int, Bool);

pub mod prelude {
    //! Tensors, mixers, training, probes and figures.
    pub use crate::ShowTensor;
    pub use burn;
    pub use burn::module::Module;
    pub use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData, activation};
    pub use cell_runtime::check_interrupt;
    pub use datasets::*;
    pub use kernels;
    pub use lab::plot::*;
    pub use lab::probe::*;
    pub use lab::train::cross_entropy;
    pub use lab::*;
    pub use zoo::*;
}
