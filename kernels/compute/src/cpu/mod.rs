//! What the operators' CPU forms are made of: reals, vector loops, products of matrices, strided
//! views of tensors, and work shared out among threads.

mod matrix;
mod real;
mod rows;
mod scratch;
mod simd;
mod tensor;
mod threads;

pub use matrix::{Mat, MatMut, product, wide_product};
pub use real::Real;
pub use rows::Rows;
pub use scratch::with_scratch;
pub use simd::{dot, maximum, sum, vectorised};
pub use tensor::{Strided, as_rows, buffer, forwards, output, output_heads, output_like};
pub use threads::{Shared, for_each, in_pool, threads_for};

/// Runs `$body` with `$E` the real type of `$dtype`.
macro_rules! with_real {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            burn::tensor::DType::F32 => {
                type $E = f32;
                $body
            }
            burn::tensor::DType::F64 => {
                type $E = f64;
                $body
            }
            other => unreachable!("`choose` lets f32 and f64 through, this is {other:?}"),
        }
    };
}
pub(crate) use with_real;
