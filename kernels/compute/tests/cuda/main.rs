//! The CUDA kernels without a GPU.

mod adamw;
mod attention;
mod cross_entropy;
mod embedding;
mod emulator;
mod experts;
mod linear_attention;
mod linear_backward;
mod numbers;
mod product_attention;
mod rows;
mod selftest;
mod short_conv;
mod table;
