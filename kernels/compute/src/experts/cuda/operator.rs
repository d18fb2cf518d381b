//! The kernels one after the other.

use super::products::Product;
use super::{Call, choose};
use crate::cuda::program::Memory;
use crate::cuda::{Gpu, Program};
use crate::operator::Operator;
use crate::swiglu::cuda::kernels::Call as SwiGlu;
use burn::tensor::DType;
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};

/// `shares [tokens, experts]` → `[tokens, per_token]`.
pub fn route<B: Gpu>(shares: Memory<B>, per_token: usize) -> IntTensor<B> {
    let shape: [usize; 2] = shares.shape().dims();
    let mut program = Program::new("route");
    let shares_ = program.input(&shares);
    let chosen = program.output([shape[0], per_token], DType::I32);
    program.then(choose(shape, per_token, shares.dtype()), &[shares_, chosen]);
    B::numbers(B::execute(program, vec![shares]).pop().expect("an output"))
}

/// The inputs are `x, weights`, and the gates, ups and downs of all experts.
#[derive(Clone, Debug)]
pub struct GpuExperts<B: Gpu> {
    pub call: Call,
    /// `[tokens, per_token]`, in i32.
    pub chosen: IntTensor<B>,
}

/// In bf16, but for whole numbers.
#[derive(Clone, Debug)]
pub struct Saved<B: Gpu> {
    inputs: [FloatTensor<B>; 5],
    /// Order, first rows, rows of places, and runs of rows.
    routed: [Memory<B>; 4],
    /// Of every row: the gate, the other half before their product, and the output.
    rows: [FloatTensor<B>; 3],
}

impl Call {
    fn swiglu(&self) -> SwiGlu {
        SwiGlu { rows: self.places(), width: self.width, stride: self.width, dtype: DType::BF16 }
    }
}

fn outputs<B: Gpu, const N: usize>(outputs: &mut impl Iterator<Item = Memory<B>>) -> [Memory<B>; N] {
    [(); N].map(|()| outputs.next().expect("as many outputs as were asked for"))
}

impl<B: Gpu> Operator<B, 5> for GpuExperts<B> {
    type Saved = Saved<B>;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 5]) -> (FloatTensor<B>, Saved<B>) {
        let inputs = inputs.map(|x| x.expect("tokens, weights and matrices"));
        let chosen = B::memory(self.chosen.clone());
        let call = self.call;
        let Call { tokens, experts, d, width, .. } = call;
        let places = call.places();
        let [to_width, to_d] = Product::forward(&call);

        let mut program = Program::new("experts");
        let [x, weights, gates, ups, downs] = inputs.each_ref().map(|x| program.input_of(DType::BF16, x));
        let chosen_ = program.input_of(DType::I32, &chosen);
        let out = program.output([tokens, d], DType::BF16);
        let [order, first, back, tiles] =
            [places, experts + 1, places, 2 * call.tiles()].map(|count| program.output([count], DType::U32));
        let [gate, up, worked] = [width, width, d].map(|width| program.output([places, width], DType::BF16));
        let hidden = program.buffer([places, width], DType::BF16);
        program.then(call.sort(), &[chosen_, order, first]);
        program.then(call.list(), &[order, first, back, tiles]);
        program.then(to_width.kernel(&call), &[x, gates, order, first, tiles, gate]);
        program.then(to_width.kernel(&call), &[x, ups, order, first, tiles, up]);
        program.then(call.swiglu().forward(), &[gate, up, hidden]);
        program.then(to_d.kernel(&call), &[hidden, downs, order, first, tiles, worked]);
        program.then(call.combine(true), &[worked, weights, back, out]);

        let given = inputs.iter().cloned().chain([chosen]).collect();
        let mut all = B::execute(program, given).into_iter();
        let [out] = outputs::<B, 1>(&mut all);
        (out, Saved { inputs, routed: outputs::<B, 4>(&mut all), rows: outputs::<B, 3>(&mut all) })
    }

    fn backward(&self, saved: Saved<B>, gradient: FloatTensor<B>, wanted: [bool; 5]) -> [Option<FloatTensor<B>>; 5] {
        let call = self.call;
        let Call { d, width, .. } = call;
        let places = call.places();
        let [to_hidden, to_rows, and_to_rows] = Product::backward(&call);
        let [of_width, of_d] = Product::weight_grads(&call);
        let Saved { inputs, routed, rows } = saved;

        let mut program = Program::new("experts gradient");
        let [x, weights, gates, ups, downs] = inputs.each_ref().map(|x| program.input_of(DType::BF16, x));
        let [order, first, back, tiles] = routed.each_ref().map(|x| program.input_of(DType::U32, x));
        let [gate, up, worked] = rows.each_ref().map(|x| program.input_of(DType::BF16, x));
        let out_grad = program.input_of(DType::BF16, &gradient);
        let [x_grad, weights_grad, gates_grad, ups_grad, downs_grad] = [0, 1, 2, 3, 4]
            .map(|input: usize| wanted[input].then(|| program.output(inputs[input].shape(), DType::BF16)));
        let worked_grad = program.buffer([places, d], DType::BF16);
        let [hidden_grad, gate_grad, up_grad] = [(); 3].map(|()| program.buffer([places, width], DType::BF16));
        program.then(call.spread(), &[out_grad, weights, order, worked_grad]);
        if let Some(weights_grad) = weights_grad {
            program.then(call.share_grads(), &[out_grad, worked, back, weights_grad]);
        }
        program.then(to_hidden.kernel(&call), &[worked_grad, downs, order, first, tiles, hidden_grad]);
        program.then(call.swiglu().backward(), &[gate, up, hidden_grad, gate_grad, up_grad]);
        if let Some(x_grad) = x_grad {
            let rows_grad = program.buffer([places, d], DType::BF16);
            program.then(to_rows.kernel(&call), &[gate_grad, gates, order, first, tiles, rows_grad]);
            program.then(and_to_rows.kernel(&call), &[up_grad, ups, order, first, tiles, rows_grad]);
            program.then(call.combine(false), &[rows_grad, weights, back, x_grad]);
        }
        for (left, out) in [(gate_grad, gates_grad), (up_grad, ups_grad)] {
            if let Some(out) = out {
                program.then(of_width.weight_grad(&call), &[left, x, order, first, out]);
            }
        }
        if let Some(out) = downs_grad {
            // Cheaper than to keep it.
            let hidden = program.buffer([places, width], DType::BF16);
            program.then(call.swiglu().forward(), &[gate, up, hidden]);
            program.then(of_d.weight_grad(&call), &[worked_grad, hidden, order, first, out]);
        }

        let given = inputs.into_iter().chain(routed).chain(rows).chain([gradient]).collect();
        let mut outputs = B::execute(program, given).into_iter();
        wanted.map(|wanted| wanted.then(|| outputs.next().expect("an output for every one that was asked for")))
    }
}
