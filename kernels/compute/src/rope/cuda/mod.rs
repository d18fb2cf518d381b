//! Rotation on CUDA, in f32 or bf16.

pub mod kernels;

use super::Pairs;
use crate::cuda::source::Source;
use crate::cuda::{Gpu, Program};
use crate::operator::Operator;
use burn::tensor::DType;
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
use kernels::{Call, Plan};

/// The inputs are `x, cos, sin`.
#[derive(Clone, Debug)]
pub struct GpuRotate {
    pub pairs: Pairs,
}

impl GpuRotate {
    fn rotate<B: Gpu>(&self, x: FloatTensor<B>, [cos, sin]: [FloatTensor<B>; 2], back: bool) -> FloatTensor<B> {
        let ([batch, heads, time, width], [_, half]) = (x.shape().dims::<4>(), cos.shape().dims::<2>());
        let plan = Plan { width, half, pairs: self.pairs };
        let call = Call { batch, heads, time, plan, dtype: x.dtype() };
        let mut program = Program::new("rope");
        let from = program.input_by_rows(&x, plan.vector());
        let [cos_, sin_] = [&cos, &sin].map(|x| program.input(x));
        let strides = program.strides(&[from]);
        let to = program.output([batch, time, heads, width], call.dtype);
        program.then(call.rotate(back), &[from, strides, cos_, sin_, to]);
        let turned = B::execute(program, vec![x, cos, sin]).pop().expect("an output");
        B::float_swap_dims(turned, 1, 2)
    }
}

impl<B: Gpu> Operator<B, 3> for GpuRotate {
    /// The tables.
    type Saved = [FloatTensor<B>; 2];

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let [x, cos, sin] = inputs.map(|x| x.expect("an input and its tables"));
        let tables = [cos, sin];
        (self.rotate::<B>(x, tables.clone(), false), tables)
    }

    fn backward(&self, tables: Self::Saved, gradient: FloatTensor<B>, _: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        [Some(self.rotate::<B>(gradient, tables, true)), None, None]
    }
}

/// What the table holds: whole heads, a quarter of wide ones (Qwen3-Next), and interleaved pairs.
pub fn sources() -> Vec<Source> {
    let plan = |width, half, pairs| Plan { width, half, pairs };
    let whole = plan(128, 64, Pairs::HalfSplit);
    let plans = [
        (whole, DType::BF16),
        (whole, DType::F32),
        (plan(256, 32, Pairs::HalfSplit), DType::BF16),
        (plan(64, 32, Pairs::Interleaved), DType::BF16),
    ];
    plans.map(|(plan, dtype)| Call { batch: 1, heads: 1, time: 1, plan, dtype }.rotate(false).source()).into()
}
