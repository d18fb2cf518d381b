//! Attention variants, taught, tried and compared.
//!
//! `use attention::prelude::*;` is all that a notebook or a program needs.

pub use burn;
pub use cell_runtime;
pub use datasets;
pub use kernels;
pub use lab;
pub use lab::device;
pub use zoo;

pub mod prelude {
    //! Tensors, mixers, training, probes and figures.
    pub use burn;
    pub use burn::module::Module;
    pub use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
    pub use datasets::*;
    pub use lab::*;
    pub use zoo::*;
}
