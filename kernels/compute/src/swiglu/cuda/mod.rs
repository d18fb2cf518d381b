//! SwiGLU on CUDA, in f32 or bf16.

pub mod kernels;

use crate::cuda::source::Source;
use crate::cuda::{Gpu, Program};
use crate::operator::Operator;
use burn::tensor::DType;
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
use kernels::Call;

/// The inputs are `gate, up`.
#[derive(Clone, Debug)]
pub struct GpuSwiGlu;

fn call<B: Gpu>(gate: &FloatTensor<B>) -> Call {
    let shape = gate.shape();
    let width = shape[shape.num_dims() - 1];
    Call { rows: shape.num_elements() / width.max(1), width, stride: width, dtype: gate.dtype() }
}

impl<B: Gpu> Operator<B, 2> for GpuSwiGlu {
    type Saved = [FloatTensor<B>; 2];

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 2]) -> (FloatTensor<B>, Self::Saved) {
        let inputs = inputs.map(|x| x.expect("both factors"));
        let call = call::<B>(&inputs[0]);
        let mut program = Program::new("swiglu");
        let [gate, up] = inputs.each_ref().map(|x| program.input(x));
        let out = program.output(inputs[0].shape(), call.dtype);
        program.then(call.forward(), &[gate, up, out]);
        (B::execute(program, inputs.clone().into()).pop().expect("an output"), inputs)
    }

    fn backward(&self, inputs: Self::Saved, gradient: FloatTensor<B>, _: [bool; 2]) -> [Option<FloatTensor<B>>; 2] {
        let call = call::<B>(&inputs[0]);
        assert_eq!(gradient.dtype(), call.dtype, "the gradient of SwiGLU");
        let shape = gradient.shape();
        let [gate, up] = inputs;
        let mut program = Program::new("swiglu gradient");
        let [gate_, up_, out_grad] = [&gate, &up, &gradient].map(|x| program.input(x));
        let [gate_grad, up_grad] = [(); 2].map(|()| program.output(shape.clone(), call.dtype));
        program.then(call.backward(), &[gate_, up_, out_grad, gate_grad, up_grad]);
        let outputs = B::execute(program, vec![gate, up, gradient]);
        <[_; 2]>::try_from(outputs).unwrap_or_else(|_| unreachable!("two outputs were asked for")).map(Some)
    }
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    [DType::BF16, DType::F32]
        .iter()
        .map(|&dtype| Call { rows: 1, width: 4, stride: 4, dtype })
        .flat_map(|call| [call.forward(), call.backward()])
        .map(|kernel| kernel.source())
        .collect()
}
