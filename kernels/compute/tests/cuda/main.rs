//! The CUDA kernels without a GPU.

mod attention;
mod emulator;
mod table;
