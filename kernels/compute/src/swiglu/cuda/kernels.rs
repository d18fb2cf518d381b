//! One unit for a vector.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{UNITS, sigmoid, silu_slope, vector};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// `out = silu(gate) ∘ up`.
///
/// `out [rows, width]`, all sizes in vectors; rows of `gate` and `up` begin `stride` apart, so that they may be halves of
/// one projection.
#[cube(launch_unchecked)]
pub fn swiglu_forward<E: Float, N: Size>(
    gate: &[Vector<E, N>],
    up: &[Vector<E, N>],
    out: &mut [Vector<E, N>],
    rows: u32,
    width: u32,
    stride: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < rows * width {
        let from = (at / width * stride + at % width) as usize;
        let g = Vector::<f32, N>::cast_from(gate[from]);
        let u = Vector::<f32, N>::cast_from(up[from]);
        out[at as usize] = Vector::cast_from(g * sigmoid(g) * u);
    }
}

/// The gradients of both factors, `[rows, width]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn swiglu_backward<E: Float, N: Size>(
    gate: &[Vector<E, N>],
    up: &[Vector<E, N>],
    out_grad: &[Vector<E, N>],
    gate_grad: &mut [Vector<E, N>],
    up_grad: &mut [Vector<E, N>],
    rows: u32,
    width: u32,
    stride: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < rows * width {
        let from = (at / width * stride + at % width) as usize;
        let g = Vector::<f32, N>::cast_from(gate[from]);
        let u = Vector::<f32, N>::cast_from(up[from]);
        let d = Vector::<f32, N>::cast_from(out_grad[at as usize]);
        let s = sigmoid(g);
        gate_grad[at as usize] = Vector::cast_from(d * u * silu_slope(g, s));
        up_grad[at as usize] = Vector::cast_from(d * g * s);
    }
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub rows: usize,
    pub width: usize,
    /// From one row of a factor to the next; the width where they are contiguous.
    pub stride: usize,
    pub dtype: DType,
}

impl Call {
    /// Numbers that a unit works on.
    const fn vector(&self) -> usize {
        vector(self.width | self.stride)
    }

    /// Sizes in vectors.
    fn sizes(&self) -> [u32; 3] {
        [self.rows, self.width / self.vector(), self.stride / self.vector()].map(|x| x as u32)
    }

    fn cubes(&self) -> [u32; 3] {
        let [rows, width, _] = self.sizes();
        [(rows * width).div_ceil(UNITS), 1, 1]
    }

    /// Numbers of an output, and from the first of a factor to its last.
    fn counts(&self) -> [usize; 2] {
        assert!(self.stride >= self.width, "not rows of two factors: {self:?}");
        let reach = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.width };
        [self.rows * self.width, reach]
    }

    /// Of `[gate, up, out]`.
    pub fn forward(&self) -> Kernel {
        let ([count, reach], [rows, width, stride], vector) = (self.counts(), self.sizes(), self.vector());
        let (element, suffix) = element(self.dtype);
        kernel!(
            format!("swiglu_forward by {vector}{suffix}"),
            self.cubes(),
            CubeDim::new_1d(UNITS),
            swiglu_forward as SwigluForward,
            [gate: reach => vector, up: reach => vector, out: count => vector],
            { rows: u32 = rows, width: u32 = width, stride: u32 = stride },
            element,
            vector
        )
    }

    /// Of `[gate, up, out_grad, gate_grad, up_grad]`.
    pub fn backward(&self) -> Kernel {
        let ([count, reach], [rows, width, stride], vector) = (self.counts(), self.sizes(), self.vector());
        let (element, suffix) = element(self.dtype);
        kernel!(
            format!("swiglu_backward by {vector}{suffix}"),
            self.cubes(),
            CubeDim::new_1d(UNITS),
            swiglu_backward as SwigluBackward,
            [
                gate: reach => vector, up: reach => vector, out_grad: count => vector, gate_grad: count => vector,
                up_grad: count => vector
            ],
            { rows: u32 = rows, width: u32 = width, stride: u32 = stride },
            element,
            vector
        )
    }
}
