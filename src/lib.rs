//! Attention variants, taught, tried and compared.
//!
//! `use attention::prelude::*;` is all that a notebook or a program needs.

pub mod inspect;

pub use burn;
pub use cell_runtime;
pub use datasets;
pub use kernels;
pub use lab;
pub use lab::{device, show};
pub use zoo;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod prelude {
    //! Tensors, mixers, training, probes and figures.
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
