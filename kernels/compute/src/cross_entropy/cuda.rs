//! The softmax of a chunk of logits on CUDA: a cube to a row reads it once for its largest logit and its sum, and once
//! more to leave the gradient in its place. The products around it (logits, and the gradients of both inputs from
//! theirs) are those of matrices. As on the CPU the gradients of both inputs are summed in the forward.

use super::cpu::CrossEntropy;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{row_max, row_total, vector};
use crate::cuda::source::{Source, element};
use crate::cuda::{Gpu, Program};
use crate::operator::Operator;
use burn::tensor::{DType, FloatDType, Slice, TensorData};
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
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
fn loss(rows: usize, vocab: usize, dtype: DType) -> Kernel {
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

/// The inputs are `hidden, weight`.
#[derive(Clone, Debug)]
pub struct GpuCrossEntropy(pub CrossEntropy);

/// Numbers in a chunk of logits, if that is not less than [`ROWS`] rows: 128 MiB in f32. Not measured.
const CHUNK: usize = 1 << 25;
const ROWS: usize = 1024;

impl<B: Gpu> Operator<B, 2> for GpuCrossEntropy {
    /// The gradients of both inputs, as if 1 arrived.
    type Saved = Option<[FloatTensor<B>; 2]>;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 2]) -> (FloatTensor<B>, Self::Saved) {
        let [hidden, weight] = inputs.map(|x| x.expect("tokens and an output matrix"));
        let CrossEntropy { gradients, chunk, .. } = self.0;
        let (dtype, device) = (FloatDType::from(hidden.dtype()), hidden.device());
        let ([tokens, d], [vocab, _]) = (hidden.shape().dims(), weight.shape().dims());
        let (counted, means) = self.0.counted();
        let count = counted.len();
        if count == 0 {
            let zeros = |rows| B::float_zeros([rows, d].into(), &device, dtype);
            let saved = gradients.then(|| [zeros(tokens), zeros(vocab)]);
            return (B::float_full([1].into(), f32::NAN.into(), &device, FloatDType::F32), saved);
        }
        let select = |x, rows: Vec<i32>| {
            let count = rows.len();
            B::float_select(x, 0, B::int_from_data(TensorData::new(rows, [count]), &device))
        };
        let rows = if count == tokens { hidden } else { select(hidden, counted.iter().map(|&t| t as i32).collect()) };
        let across = B::float_swap_dims(weight.clone(), 0, 1);
        let chunk = chunk.unwrap_or((CHUNK / vocab).max(ROWS));
        let (mut losses, mut row_grads, mut weight_grad) = (Vec::new(), Vec::new(), None);
        for start in (0..count).step_by(chunk) {
            let range = start..count.min(start + chunk);
            let these = B::float_slice(rows.clone(), &[Slice::from(range.clone()), Slice::from(..)]);
            let logits = B::float_matmul(these.clone(), across.clone());
            let targets = counted[range.clone()].iter().map(|&t| self.0.targets[t]);
            let [grad, loss] = softmax::<B>(logits, targets, means[range].iter().map(|&mean| mean as f32));
            losses.push(loss);
            if gradients {
                row_grads.push(B::float_matmul(grad.clone(), weight.clone()));
                let product = B::float_matmul(B::float_swap_dims(grad, 0, 1), these);
                // Chunks are added up in f32 whatever the inputs are.
                let product = B::float_cast(product, FloatDType::F32);
                weight_grad = Some(match weight_grad {
                    Some(sum) => B::float_add(sum, product),
                    None => product,
                });
            }
        }
        let saved = weight_grad.map(|weight_grad| {
            let mut row_grads = B::float_cat(row_grads, 0);
            if count < tokens {
                // Tokens that do not count have the row of zeros behind the others.
                let mut of = vec![count as i32; tokens];
                counted.iter().enumerate().for_each(|(row, &t)| of[t] = row as i32);
                let zeros = B::float_zeros([1, d].into(), &device, dtype);
                row_grads = select(B::float_cat(vec![row_grads, zeros], 0), of);
            }
            [row_grads, B::float_cast(weight_grad, dtype)]
        });
        (B::float_sum(B::float_cat(losses, 0)), saved)
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, wanted: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        let [hidden, weight] = saved.expect("gradients are asked for where they will be wanted");
        let factor = B::float_cast(B::float_reshape(gradient, [1, 1].into()), FloatDType::F32);
        let dtype = FloatDType::from(hidden.dtype());
        // In f32: a factor that bf16 does not hold would make all gradients wrong by one share.
        let scaled = |x, wanted: bool| {
            wanted.then(|| B::float_cast(B::float_mul(B::float_cast(x, FloatDType::F32), factor.clone()), dtype))
        };
        [scaled(hidden, wanted[0]), scaled(weight, wanted[1])]
    }
}

/// The gradient of a chunk of logits in their place, and the losses of its rows, in f32.
fn softmax<B: Gpu>(
    logits: FloatTensor<B>,
    targets: impl Iterator<Item = i32>,
    means: impl Iterator<Item = f32>,
) -> [FloatTensor<B>; 2] {
    let [rows, vocab] = logits.shape().dims();
    let kernel = loss(rows, vocab, logits.dtype());
    let mut program = Program::new("cross_entropy");
    let logits_ = program.input(&logits);
    let grad = program.changed(logits_);
    let losses = program.output([rows], DType::F32);
    let (targets, means) = (program.whole_constant(targets), program.constant(means));
    program.then(kernel, &[grad, targets, means, losses]);
    let outputs = B::execute(program, vec![logits]);
    outputs.try_into().unwrap_or_else(|_| unreachable!("two outputs were asked for"))
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    [DType::BF16, DType::F32].map(|dtype| loss(1, 4, dtype).source()).into()
}
