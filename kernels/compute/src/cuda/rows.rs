//! What kernels over rows of numbers share: vectors, activations, and sums whose order is fixed.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// Units of a cube that has no need of planes.
pub const UNITS: u32 = 256;
/// Planes of a cube over rows.
pub const PLANES: u32 = 8;

/// Numbers that are read at once where rows have `width` of them: at most 16 bytes in f32.
pub const fn vector(width: usize) -> usize {
    match width % 4 {
        0 => 4,
        2 => 2,
        _ => 1,
    }
}

#[cube]
pub fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    Vector::new(1.0) / (Vector::new(1.0) + (-x).exp())
}

/// The derivative of `x σ(x)`, given `s = σ(x)`.
#[cube]
pub fn silu_slope<N: Size>(x: Vector<f32, N>, s: Vector<f32, N>) -> Vector<f32, N> {
    s + x * s * (Vector::new(1.0) - s)
}

/// The sum over the units of the `planes` neighbouring planes that share a row. `between` has a number for
/// every plane of the cube, all of which arrive here together.
#[cube]
pub fn row_total(x: f32, between: &mut [f32], #[comptime] planes: u32) -> f32 {
    let mut total = plane_sum(x);
    if comptime!(planes > 1) {
        // What stood here has been read.
        sync_cube();
        if UNIT_POS_X == 0 {
            between[UNIT_POS_Y as usize] = total;
        }
        sync_cube();
        let first = UNIT_POS_Y / planes * planes;
        total = 0.0;
        #[unroll]
        for plane in 0..planes {
            total += between[(first + plane) as usize];
        }
    }
    total
}

/// The largest in the place of the sum.
#[cube]
pub fn row_max(x: f32, between: &mut [f32], #[comptime] planes: u32) -> f32 {
    let mut largest = plane_max(x);
    if comptime!(planes > 1) {
        // What stood here has been read.
        sync_cube();
        if UNIT_POS_X == 0 {
            between[UNIT_POS_Y as usize] = largest;
        }
        sync_cube();
        let first = UNIT_POS_Y / planes * planes;
        largest = between[first as usize];
        #[unroll]
        for plane in 1..planes {
            largest = max(largest, between[(first + plane) as usize]);
        }
    }
    largest
}

/// The sum of every column: the second stage of sums over rows. Every sum has a fixed order.
///
/// `parts [rows, width]`, `sums [width]`. Cubes: `⌈width / 32⌉` of `(32, PLANES)`.
#[cube(launch_unchecked)]
pub fn column_sums<E: Float>(parts: &[f32], sums: &mut [E], rows: u32, width: u32, #[define(E)] _dtype: ElemType) {
    let mut of_planes = Shared::<[f32]>::new_slice(comptime!((32 * PLANES) as usize));
    let column = CUBE_POS_X * 32 + UNIT_POS_X;
    let mut sum = 0.0f32;
    if column < width {
        let mut row = UNIT_POS_Y;
        while row < rows {
            sum += parts[(row * width + column) as usize];
            row += PLANES;
        }
    }
    of_planes[UNIT_POS as usize] = sum;
    sync_cube();
    if UNIT_POS_Y == 0 && column < width {
        let mut total = 0.0f32;
        #[unroll]
        for plane in 0..PLANES {
            total += of_planes[(plane * 32 + UNIT_POS_X) as usize];
        }
        sums[column as usize] = E::cast_from(total);
    }
}

/// `parts [rows, width]`, f32 → `sums [width]` of `dtype`.
pub fn sum_columns(rows: usize, width: usize, dtype: DType) -> Kernel {
    let (element, suffix) = element(dtype);
    kernel!(
        format!("column_sums{suffix}"),
        [(width as u32).div_ceil(32), 1, 1],
        CubeDim::new_2d(32, PLANES),
        column_sums as ColumnSums,
        [parts: rows * width, sums: width],
        { rows: u32 = rows as u32, width: u32 = width as u32 },
        element
    )
}
