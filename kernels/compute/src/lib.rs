//! Operators of attention and of linear attention.
//!
//! One folder per operator: `reference.rs` is the definition in plain tensor operations, which
//! runs and differentiates on every device (linear attention has two forms of it, `recurrent.rs` and
//! `chunked.rs`); `cpu.rs` is the fast form on the CPU with a backward of its own (`operator`, `cpu/`), `cuda` the one on a GPU,
//! which runs where it is permitted ([`cuda::permit`]);
//! `mod.rs` is the public function, which chooses, and the cases on which [`selftest`] compares the two.
//! [`trace`] tells which one ran.

pub mod adamw;
mod cpu;
pub mod cross_entropy;
pub mod cuda;
pub mod differential_attention;
pub mod embedding;
pub mod experts;
pub mod linear;
pub mod linear_attention;
mod operator;
pub mod product_attention;
pub mod random;
pub mod rms_norm;
mod room;
pub mod rope;
pub mod selftest;
pub mod short_conv;
pub mod softmax_attention;
pub mod swiglu;
mod trace;

pub use adamw::{adamw, squares};
pub use cpu::in_pool;
pub use cross_entropy::cross_entropy;
pub use differential_attention::differential_attention;
pub use embedding::embedding;
pub use experts::{ExpertMatrices, experts, route};
pub use linear::{linear, linears};
pub use linear_attention::{Gates, LinearForm, LogDecay, linear_attention};
pub use product_attention::{ProductCodes, product_attention};
pub use rms_norm::{add_rms_norm, gated_rms_norm, l2_norm, rms_norm};
pub use room::Room;
pub use rope::rope;
pub use short_conv::short_conv;
pub use softmax_attention::{AttentionOptions, Normaliser, softmax_attention};
pub use swiglu::swiglu;
pub use trace::{Because, Implementation, Ran, by_reference, trace};
