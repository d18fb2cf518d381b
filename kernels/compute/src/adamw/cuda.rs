//! AdamW on CUDA, in f32: one pass over a weight, its gradient and its moments, in place. The sizes of all gradients
//! are sums of squares in two stages, and stay on the device.

use super::Update;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::program::Memory;
use crate::cuda::rows::{PLANES, UNITS, row_total, vector};
use crate::cuda::source::Source;
use crate::cuda::{Gpu, Program};
use burn::tensor::{DType, FloatDType};
use burn_backend::TensorMetadata;
use cubecl::prelude::*;

/// Parts in which the squares of one gradient are summed at most, so that the order of a sum is that of any card.
const PARTS: usize = 256;
/// Vectors of a part that a unit sums at least.
const EACH: usize = 8;

/// `Σ x²` in parts: every cube takes each [`PARTS`]-th run of vectors, or as many as there are cubes.
///
/// `x [count]`, in vectors; `parts [.., PARTS]`, of which this gradient's begin at `place`.
#[cube(launch_unchecked)]
pub fn squares_parts<N: Size>(
    x: &[Vector<f32, N>],
    parts: &mut [f32],
    count: u32,
    place: u32,
    #[define(N)] _vector: usize,
) {
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));
    let mut sum = 0.0f32;
    let mut at = CUBE_POS_X * UNITS + UNIT_POS;
    while at < count {
        let number = x[at as usize];
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
pub fn squares_sums(parts: &[f32], many: &[i32], squares: &mut [f32]) {
    let gradient = CUBE_POS_X;
    let many = u32::cast_from(many[gradient as usize]);
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X;
    while at < many {
        sum += parts[(gradient * comptime!(PARTS as u32) + at) as usize];
        at += 32;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 {
        squares[gradient as usize] = sum;
    }
}

/// One [`Update`] of a weight and its moments in place.
///
/// `weight, gradient, first, second [count]`, in vectors. A unit has one.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn adamw_step<N: Size>(
    weight: &mut [Vector<f32, N>],
    gradient: &[Vector<f32, N>],
    first: &mut [Vector<f32, N>],
    second: &mut [Vector<f32, N>],
    count: u32,
    scale: f32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    keep: f32,
    size: f32,
    spread: f32,
    epsilon: f32,
    #[define(N)] _vector: usize,
) {
    let at = (CUBE_POS_X * UNITS + UNIT_POS_X) as usize;
    if at < count as usize {
        let g = gradient[at] * Vector::new(scale);
        let m = first[at] * Vector::new(beta1) + g * Vector::new(new1);
        let v = second[at] * Vector::new(beta2) + g * g * Vector::new(new2);
        first[at] = m;
        second[at] = v;
        let root = v.sqrt() * Vector::new(spread) + Vector::new(epsilon);
        weight[at] = weight[at] * Vector::new(keep) - m * Vector::new(size) / root;
    }
}

/// Cubes that sum `count` squares, which is the number of parts.
fn parts(count: usize) -> usize {
    (count / vector(count)).div_ceil(UNITS as usize * EACH).clamp(1, PARTS)
}

/// `Σ x²` of gradient number `place` of `all`, of `[x, parts]`: the parts of every gradient have room for [`PARTS`].
fn sum_squares(count: usize, place: usize, all: usize) -> Kernel {
    let vector = vector(count);
    kernel!(
        format!("squares_parts by {vector}"),
        [parts(count) as u32, 1, 1],
        CubeDim::new_2d(32, PLANES),
        squares_parts as SquaresParts,
        [x: count => vector, parts: all * PARTS],
        { count: u32 = (count / vector) as u32, place: u32 = (place * PARTS) as u32 },
        vector
    )
}

/// Of `[parts, many, squares]`, where `many` holds the number of [`parts`] of every gradient.
fn join_squares(all: usize) -> Kernel {
    kernel!(
        "squares_sums".to_string(),
        [all as u32, 1, 1],
        CubeDim::new_1d(32),
        squares_sums as SquaresSums,
        [parts: all * PARTS, many: all, squares: all],
        {}
    )
}

/// Of `[weight, gradient, first, second]`; all but the gradient change in place.
fn step(count: usize, update: &Update) -> Kernel {
    let vector = vector(count);
    let Update { betas, scale, keep, size, spread, epsilon } = *update;
    let [old, new] = [betas, betas.map(|beta| 1.0 - beta)].map(|x| x.map(|x| x as f32));
    kernel!(
        format!("adamw_step by {vector}"),
        [((count / vector) as u32).div_ceil(UNITS), 1, 1],
        CubeDim::new_1d(UNITS),
        adamw_step as AdamwStep,
        [weight: count => vector, gradient: count => vector, first: count => vector, second: count => vector],
        {
            vectors: u32 = (count / vector) as u32, scale: f32 = scale as f32, beta1: f32 = old[0], new1: f32 = new[0],
            beta2: f32 = old[1], new2: f32 = new[1], keep: f32 = keep as f32, size: f32 = size as f32,
            spread: f32 = spread as f32, epsilon: f32 = epsilon as f32
        },
        vector
    )
}

/// The weight and its moments after the update, in their own memory where nobody else holds it.
pub fn adamw<B: Gpu>(
    weight: Memory<B>,
    gradient: Memory<B>,
    moments: Option<[Memory<B>; 2]>,
    update: &Update,
) -> (Memory<B>, [Memory<B>; 2]) {
    let count = weight.shape().num_elements();
    let zeros = || B::float_zeros([count].into(), &weight.device(), FloatDType::F32);
    let [first, second] = moments.unwrap_or_else(|| [zeros(), zeros()]);
    let inputs = [weight, gradient, first, second];
    let mut program = Program::new("adamw");
    let [weight, gradient, first, second] = inputs.each_ref().map(|x| program.input_of(DType::F32, x));
    let [weight, first, second] = [weight, first, second].map(|x| program.changed(x));
    program.then(step(count, update), &[weight, gradient, first, second]);
    let mut outputs = B::execute(program, inputs.into()).into_iter();
    let [weight, first, second] = [(); 3].map(|()| outputs.next().expect("three outputs were asked for"));
    (weight, [first, second])
}

/// `Σ x²` of each.
pub fn squares<B: Gpu>(tensors: Vec<Memory<B>>) -> Memory<B> {
    let all = tensors.len();
    let counts: Vec<usize> = tensors.iter().map(|x| x.shape().num_elements()).collect();
    let mut program = Program::new("squares");
    let inputs: Vec<_> = tensors.iter().map(|x| program.input_of(DType::F32, x)).collect();
    let squares = program.output([all], DType::F32);
    let parts_ = program.buffer([all, PARTS], DType::F32);
    let many = program.whole_constant(counts.iter().map(|&count| parts(count) as i32));
    for (place, (&input, &count)) in inputs.iter().zip(&counts).enumerate() {
        program.then(sum_squares(count, place, all), &[input, parts_]);
    }
    program.then(join_squares(all), &[parts_, many, squares]);
    B::execute(program, tensors).pop().expect("an output")
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    let update = Update { betas: [0.9, 0.95], scale: 1.0, keep: 1.0, size: 1.0, spread: 1.0, epsilon: 1e-8 };
    vec![step(4, &update).source()]
}

pub fn squares_sources() -> Vec<Source> {
    vec![sum_squares(4, 0, 1).source(), join_squares(1).source()]
}
