//! AdamW on CUDA: one pass over a weight, its gradient and its moments, in place. The clipping needs the size of all
//! gradients first: sums of squares in two stages, and one number from them, which stays on the device.

use super::Update;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{PLANES, UNITS, row_total, vector};
use crate::cuda::source::{Source, element};
use burn::tensor::DType;
use cubecl::prelude::*;

/// Parts in which the squares of one gradient are summed at most, so that the order of a sum is that of any card.
pub const PARTS: usize = 256;
/// Vectors of a part that a unit sums at least.
const EACH: usize = 8;

/// `Σ x²` in parts: every cube takes each [`PARTS`]-th run of vectors, or as many as there are cubes.
///
/// `x [count]`, in vectors; `parts [.., PARTS]`, of which this gradient's begin at `place`.
#[cube(launch_unchecked)]
pub fn squares_parts<E: Float, N: Size>(
    x: &[Vector<E, N>],
    parts: &mut [f32],
    count: u32,
    place: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));
    let mut sum = 0.0f32;
    let mut at = CUBE_POS_X * UNITS + UNIT_POS;
    while at < count {
        let number = Vector::<f32, N>::cast_from(x[at as usize]);
        sum += (number * number).vector_sum();
        at += CUBE_COUNT_X * UNITS;
    }
    let sum = row_total(sum, &mut between, PLANES);
    if UNIT_POS == 0 {
        parts[(place + CUBE_POS_X) as usize] = sum;
    }
}

/// The sum of the parts of every gradient, by a plane each.
///
/// `parts [gradients, PARTS]`, `many, squares [gradients]`, where a gradient has `many` parts.
#[cube(launch_unchecked)]
pub fn squares_sums(parts: &[f32], many: &[u32], squares: &mut [f32]) {
    let gradient = CUBE_POS_X;
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X;
    while at < many[gradient as usize] {
        sum += parts[(gradient * comptime!(PARTS as u32) + at) as usize];
        at += 32;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 {
        squares[gradient as usize] = sum;
    }
}

/// What gradients of these squares are multiplied by so that their norm is at most `limit`.
#[cube(launch_unchecked)]
pub fn clip_scale(squares: &[f32], scale: &mut [f32], gradients: u32, limit: f32) {
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X;
    while at < gradients {
        sum += squares[at as usize];
        at += 32;
    }
    let norm = plane_sum(sum).sqrt();
    if UNIT_POS_X == 0 {
        // Not a minimum of two: a norm that is NaN stays one.
        scale[0usize] = select(norm <= limit, 1.0f32, limit / norm);
    }
}

/// One [`Update`], whose `scale` lies on the device, of a weight and its moments in place.
///
/// `weight, gradient, first, second [count]`, in vectors. A unit has one.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn adamw_step<G: Float, N: Size>(
    weight: &mut [Vector<f32, N>],
    gradient: &[Vector<G, N>],
    first: &mut [Vector<f32, N>],
    second: &mut [Vector<f32, N>],
    scale: &[f32],
    count: u32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    keep: f32,
    size: f32,
    spread: f32,
    epsilon: f32,
    #[define(G)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let at = (CUBE_POS_X * UNITS + UNIT_POS_X) as usize;
    if at < count as usize {
        let g = Vector::<f32, N>::cast_from(gradient[at]) * Vector::new(scale[0usize]);
        let m = first[at] * Vector::new(beta1) + g * Vector::new(new1);
        let v = second[at] * Vector::new(beta2) + g * g * Vector::new(new2);
        first[at] = m;
        second[at] = v;
        let root = v.sqrt() * Vector::new(spread) + Vector::new(epsilon);
        weight[at] = weight[at] * Vector::new(keep) - m * Vector::new(size) / root;
    }
}

/// Cubes that sum `count` squares, which is the number of parts.
pub fn parts(count: usize) -> usize {
    (count / vector(count)).div_ceil(UNITS as usize * EACH).clamp(1, PARTS)
}

/// `Σ x²` of gradient number `place` of `all`, of `[x, parts]`: the parts of every gradient have room for [`PARTS`].
pub fn sum_squares(count: usize, place: usize, all: usize, dtype: DType) -> Kernel {
    let (element, suffix) = element(dtype);
    let vector = vector(count);
    kernel!(
        format!("squares_parts by {vector}{suffix}"),
        [parts(count) as u32, 1, 1],
        CubeDim::new_2d(32, PLANES),
        squares_parts as SquaresParts,
        [x: count => vector, parts: all * PARTS],
        { count: u32 = (count / vector) as u32, place: u32 = (place * PARTS) as u32 },
        element,
        vector
    )
}

/// Of `[parts, many, squares]`, where `many` holds the number of [`parts`] of every gradient in u32.
pub fn join_squares(all: usize) -> Kernel {
    kernel!(
        "squares_sums".to_string(),
        [all as u32, 1, 1],
        CubeDim::new_1d(32),
        squares_sums as SquaresSums,
        [parts: all * PARTS, many: all, squares: all],
        {}
    )
}

/// Of `[squares, scale]`.
pub fn clip(all: usize, limit: f64) -> Kernel {
    kernel!(
        "clip_scale".to_string(),
        [1, 1, 1],
        CubeDim::new_1d(32),
        clip_scale as ClipScale,
        [squares: all, scale: 1],
        { gradients: u32 = all as u32, limit: f32 = limit as f32 }
    )
}

/// Of `[weight, gradient, first, second, scale]`, f32 but for a gradient of `dtype`; weight and moments change in place. The
/// update's own scale is not looked at: it is the number in `scale`.
pub fn step(count: usize, update: &Update, dtype: DType) -> Kernel {
    let (element, suffix) = element(dtype);
    let vector = vector(count);
    let Update { betas, keep, size, spread, epsilon, .. } = *update;
    let [old, new] = [betas, betas.map(|beta| 1.0 - beta)].map(|x| x.map(|x| x as f32));
    kernel!(
        format!("adamw_step by {vector}{suffix}"),
        [((count / vector) as u32).div_ceil(UNITS), 1, 1],
        CubeDim::new_1d(UNITS),
        adamw_step as AdamwStep,
        [weight: count => vector, gradient: count => vector, first: count => vector, second: count => vector, scale: 1],
        {
            vectors: u32 = (count / vector) as u32, beta1: f32 = old[0], new1: f32 = new[0], beta2: f32 = old[1],
            new2: f32 = new[1], keep: f32 = keep as f32, size: f32 = size as f32, spread: f32 = spread as f32,
            epsilon: f32 = epsilon as f32
        },
        element,
        vector
    )
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    let update = Update { betas: [0.9, 0.95], scale: 1.0, keep: 1.0, size: 1.0, spread: 1.0, epsilon: 1e-8 };
    let squares = |dtype| sum_squares(4, 0, 1, dtype);
    let step = |dtype| step(4, &update, dtype);
    [squares(DType::BF16), squares(DType::F32), join_squares(1), clip(1, 1.0), step(DType::BF16), step(DType::F32)]
        .map(|kernel| kernel.source())
        .into()
}
