//! Operators of attention and of linear attention.
//!
//! One folder per operator: `reference.rs` is the definition in plain tensor operations, which
//! runs and differentiates on every device (linear attention has two forms of it, `recurrent.rs` and
//! `chunked.rs`); `mod.rs` is the public function and chooses the implementation. [`trace`] tells which one ran.

pub mod cuda;
pub mod linear_attention;
pub mod product_attention;
pub mod short_conv;
pub mod softmax_attention;
mod trace;

pub use linear_attention::{Gates, LinearForm, LogDecay, linear_attention};
pub use product_attention::{ProductCodes, product_attention};
pub use short_conv::short_conv;
pub use softmax_attention::{AttentionOptions, Normaliser, softmax_attention};
pub use trace::{Implementation, Ran, trace};
