//! The short convolution on CUDA. Inputs in f32 or bf16; all sums are f32.

pub mod kernels;

use crate::cuda::source::Source;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::Operator;
use crate::trace::Because;
use burn::tensor::DType;
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
use kernels::{Call, Plan};

/// The inputs are `x, weight, bias, past`.
#[derive(Clone, Debug)]
pub struct ShortConv;

/// Whether there are kernels for kernels of so many taps.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, taps: usize) -> Result<(), Because> {
    // A unit for every tap and the bias in the gradient of the weights, in planes of 32.
    if taps > 31 {
        return Err(Because::NoKernel("more than 31 taps"));
    }
    asked.in_f32()
}

fn call<B: Gpu>([x, weight, bias, past]: [Option<&FloatTensor<B>>; 4]) -> Call {
    let x = x.expect("an input");
    let [batch, time, channels] = x.shape().dims();
    let [_, taps] = weight.expect("a kernel").shape().dims();
    let plan = Plan { taps: taps as u32, bias: bias.is_some(), past: past.is_some() };
    Call { batch, time, channels, plan, dtype: x.dtype() }
}

impl<B: Gpu> Operator<B, 4> for ShortConv {
    type Saved = [Option<FloatTensor<B>>; 4];

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 4]) -> (FloatTensor<B>, Self::Saved) {
        let call = call::<B>(inputs.each_ref().map(Option::as_ref));
        let mut program = Program::new("short_conv");
        let [x, weight, bias, past] = inputs.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let nothing = program.nothing();
        let [x, weight, bias, past] = [x, weight, bias, past].map(|id| id.unwrap_or(nothing));
        let y = program.output([call.batch, call.time, call.channels], call.dtype);
        program.then(call.forward(), &[x, weight, bias, past, y]);
        let output = B::execute(program, inputs.clone().into_iter().flatten().collect()).pop();
        (output.expect("an output"), inputs)
    }

    fn backward(&self, inputs: Self::Saved, gradient: FloatTensor<B>, _: [bool; 4]) -> Self::Saved {
        let call = call::<B>(inputs.each_ref().map(Option::as_ref));
        assert_eq!(gradient.dtype(), call.dtype, "the gradient of the convolution's output");
        let Call { batch, time, channels, plan: Plan { taps, .. }, dtype } = call;
        let taps = taps as usize;
        let mut program = Program::new("short_conv gradient");
        let [x, weight, bias, past] = inputs.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let y_grad = program.input(&gradient);
        let nothing = program.nothing();
        let there = [bias.is_some(), past.is_some()];
        let [x, weight, bias, past] = [x, weight, bias, past].map(|id| id.unwrap_or(nothing));
        let sum_grad = program.buffer([batch, time, channels], DType::F32);
        let x_grad = program.output([batch, time, channels], dtype);
        let weight_grad = program.output([channels, taps], DType::F32);
        let bias_grad = if there[0] { program.output([channels], DType::F32) } else { nothing };
        let past_grad = if there[1] { program.output([batch, taps - 1, channels], dtype) } else { nothing };
        program.then(call.sum_grad(), &[x, weight, bias, past, y_grad, sum_grad]);
        program.then(call.input_grad(), &[weight, sum_grad, x_grad, past_grad]);
        program.then(call.weight_grad(), &[x, past, sum_grad, weight_grad, bias_grad]);
        let inputs = inputs.into_iter().flatten().chain([gradient]);
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let rounded = |sums: FloatTensor<B>| B::float_cast(sums, dtype.into());
        let (x_grad, weight_grad) = (next(true), next(true).map(rounded));
        let (bias_grad, past_grad) = (next(there[0]).map(rounded), next(there[1]));
        [x_grad, weight_grad, bias_grad, past_grad]
    }
}

/// What the table holds: everything, in both precisions, and the barest.
pub fn sources() -> Vec<Source> {
    let call = |bias, past, dtype| Call { batch: 1, time: 1, channels: 1, plan: Plan { taps: 4, bias, past }, dtype };
    let calls = [call(true, true, DType::BF16), call(true, true, DType::F32), call(false, false, DType::BF16)];
    calls
        .iter()
        .flat_map(|call| [call.forward(), call.sum_grad(), call.input_grad(), call.weight_grad()])
        .map(|kernel| kernel.source())
        .collect()
}
