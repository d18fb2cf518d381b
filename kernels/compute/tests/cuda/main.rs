//! The CUDA kernels without a GPU.

mod attention;
mod emulator;
mod linear_attention;
mod numbers;
mod selftest;
mod short_conv;
mod table;
