//! Operators of attention and of linear attention.
//!
//! One folder per operator: `reference.rs` is the definition in plain tensor operations, which
//! runs and differentiates on every device (linear attention has two forms of it, `recurrent.rs` and
//! `chunked.rs`); `cpu.rs` is the fast form on the CPU with a backward of its own (`operator`, `cpu/`);
//! `mod.rs` is the public function, which chooses, and the cases on which [`selftest`] compares the two.
//! [`trace`] tells which one ran.

mod cpu;
pub mod differential_attention;
pub mod linear_attention;
mod operator;
pub mod product_attention;
pub mod selftest;
pub mod short_conv;
pub mod softmax_attention;
mod trace;

pub use differential_attention::differential_attention;
pub use linear_attention::{Gates, LogDecay, linear_attention};
pub use product_attention::{ProductCodes, product_attention};
pub use short_conv::short_conv;
pub use softmax_attention::{AttentionOptions, Normaliser, softmax_attention};
pub use trace::{Implementation, Ran, by_reference, trace};
