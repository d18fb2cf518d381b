//! The softmax of a chunk of logits on CUDA: a cube to a row reads it once for its largest logit and its sum, and once
//! more to leave the gradient in its place. The products around it (logits, and the gradients of both inputs from
//! theirs) are those of matrices.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{row_max, row_total, vector};
use crate::cuda::source::{Source, element};
use burn::tensor::DType;
use cubecl::prelude::*;

/// Planes of a cube.
pub const PLANES: u32 = 16;

/// `loss = mean · −log softmax(logits)[target]`, and the logits become their gradient, `mean · (softmax − one)` with one at the
/// target. A row whose `mean` is 0 is left out: its loss and its gradient are zero.
///
/// `logits [rows, vocab]`, the vocabulary in vectors; `targets, means, losses [rows]`. Cubes: `rows` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn softmax_loss<E: Float, N: Size>(
    logits: &mut [Vector<E, N>],
    targets: &[i32],
    means: &[f32],
    losses: &mut [f32],
    vocab: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));
    let vector = N::value() as u32;
    let row = CUBE_POS_X as usize;
    let start = CUBE_POS_X * vocab;
    let target = u32::cast_from(targets[row]);
    let mean = means[row];
    if mean == 0.0 {
        let mut c = UNIT_POS;
        while c < vocab {
            logits[(start + c) as usize] = Vector::cast_from(Vector::<f32, N>::new(0.0));
            c += CUBE_DIM;
        }
        if UNIT_POS == 0 {
            losses[row] = 0.0;
        }
    } else {
        // The largest so far and the sum below it, of this unit's logits.
        let mut largest = f32::min_value();
        let mut sum = 0.0f32;
        let mut chosen = 0.0f32;
        let mut c = UNIT_POS;
        while c < vocab {
            let numbers = Vector::<f32, N>::cast_from(logits[(start + c) as usize]);
            let mut top = largest;
            #[unroll]
            for i in 0..N::value() {
                top = max(top, numbers.extract(i));
                chosen += select(c * vector + i as u32 == target, numbers.extract(i), 0.0);
            }
            sum = sum * (largest - top).exp() + (numbers - Vector::new(top)).exp().vector_sum();
            largest = top;
            c += CUBE_DIM;
        }
        let top = row_max(largest, &mut between, PLANES);
        let total = row_total(sum * (largest - top).exp(), &mut between, PLANES);
        let chosen = row_total(chosen, &mut between, PLANES);
        let factor = mean / total;
        let mut c = UNIT_POS;
        while c < vocab {
            let numbers = Vector::<f32, N>::cast_from(logits[(start + c) as usize]);
            let mut grad = (numbers - Vector::new(top)).exp() * Vector::new(factor);
            #[unroll]
            for i in 0..N::value() {
                let one = select(c * vector + i as u32 == target, mean, 0.0);
                grad.insert(i, grad.extract(i) - one);
            }
            logits[(start + c) as usize] = Vector::cast_from(grad);
            c += CUBE_DIM;
        }
        if UNIT_POS == 0 {
            losses[row] = mean * (total.ln() - (chosen - top));
        }
    }
}

/// Of `[logits, targets, means, losses]`, of `dtype`, i32 and f32; the logits become their gradient.
pub fn loss(rows: usize, vocab: usize, dtype: DType) -> Kernel {
    let (element, suffix) = element(dtype);
    let vector = vector(vocab);
    kernel!(
        format!("softmax_loss by {vector}{suffix}"),
        [rows as u32, 1, 1],
        CubeDim::new_2d(32, PLANES),
        softmax_loss as SoftmaxLoss,
        [logits: rows * vocab => vector, targets: rows, means: rows, losses: rows],
        { vectors: u32 = (vocab / vector) as u32 },
        element,
        vector
    )
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    [DType::BF16, DType::F32].map(|dtype| loss(1, 4, dtype).source()).into()
}
