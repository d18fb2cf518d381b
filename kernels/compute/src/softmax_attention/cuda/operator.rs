//! The operator on a GPU. Inputs in bf16: tensor cores would round others.

use super::launch::Call;
use super::plan::{Gate, Plan};
use crate::cuda::program::Id;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, TOO_LARGE};
use crate::softmax_attention::cpu;
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};

/// The inputs are `q, k, v, bias, sink, lambda, gate`, of which there is no bias; with a λ there are two maps.
#[derive(Clone, Debug)]
pub struct Attend(pub cpu::Attend);

#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// In f32.
    sinks: Option<FloatTensor<B>>,
    gate: Option<FloatTensor<B>>,
    /// Before the gate, `[batch, time, heads, d_value]`.
    out: FloatTensor<B>,
    log_sum: FloatTensor<B>,
    maps: Option<Maps<B>>,
}

/// What the gradient needs of two maps.
#[derive(Clone, Debug)]
struct Maps<B: Backend> {
    /// `[batch, heads, time, 1]`, in f32.
    lambda: FloatTensor<B>,
    /// As it was given.
    lambda_shape: Shape,
    /// What the second map gives alone, as the output.
    other: FloatTensor<B>,
}

/// Whether there are kernels for inputs of these shapes.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, options: &cpu::Attend, shapes: [Option<Shape>; 7]) -> Result<(), Because> {
    let plan = call(options, shapes)?.plan();
    if !plan.fits() {
        let widths = if plan.two_maps() {
            "these widths of heads; there is one for multiples of 4, keys up to 128 and values up to 256"
        } else {
            "these widths of heads; there is one for multiples of 4 up to 256"
        };
        return Err(Because::NoKernel(widths));
    }
    asked.on_tensor_cores(plan.shared())
}

const THERE: &str = "queries, keys and values are always there";

fn call(options: &cpu::Attend, shapes: [Option<Shape>; 7]) -> Result<Call, Because> {
    let no = |what| Err(Because::NoKernel(what));
    let [q, k, v, bias, sink, lambda, gate] = shapes.map(|shape| shape.map(|shape| shape.dims::<4>()));
    let ([batch, q_heads, time, width], [_, k_heads, source, _]) = (q.expect(THERE), k.expect(THERE));
    let [_, kv_heads, _, value_width] = v.expect(THERE);
    let maps = if lambda.is_some() { 2 } else { 1 };
    let heads = q_heads / maps;
    if bias.is_some() {
        return no("a bias");
    }
    if options.sigmoid {
        return no("sigmoid weights");
    }
    if sink.is_some_and(|sink| sink != [1, heads, 1, 1]) {
        return no("a sink for every query; there is one for a sink for every head");
    }
    if time == 0 || options.window == Some(0) {
        return no("no tokens");
    }
    let numbers = batch * heads * time * value_width;
    if batch >= 1 << 16 || heads >= 1 << 16 || numbers >= 1 << 31 {
        return Err(TOO_LARGE);
    }
    let gate = match gate {
        None => Gate::None,
        Some(shape) if shape == [batch, heads, time, value_width] => Gate::Channel,
        Some(shape) if shape == [batch, heads, time, 1] => Gate::Row,
        Some(_) => return no("a gate that tokens, heads or sequences share"),
    };
    Ok(Call {
        batch,
        heads,
        kv_heads,
        time,
        source,
        width,
        value_width,
        scale: options.scale,
        window: options.window,
        softcap: options.softcap,
        slopes: options.slopes.is_some(),
        sinks: sink.is_some(),
        gate,
        maps,
        key_maps: k_heads / kv_heads,
    })
}

/// The sum of what every row has in f32, onto the shape of an input that was broadcast to `[batch, heads, time, 1]`.
fn onto<B: Gpu>(shape: &Shape, rows: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    let [batch, heads, time] = rows.shape().dims();
    let by_row = B::float_reshape(rows, [batch, heads, time, 1].into());
    let shared: Vec<usize> = (0..3).filter(|&axis| shape.dims::<4>()[axis] == 1).collect();
    let sum = if shared.is_empty() { by_row } else { B::float_sum_dims(by_row, &shared) };
    B::float_cast(sum, dtype.into())
}

/// The shape in which kernels write what is shaped as `x`: `[batch, time, heads, ..]`, where projections take it without a copy.
fn across(x: &impl TensorMetadata) -> [usize; 4] {
    let [batch, heads, time, width] = x.shape().dims();
    [batch, time, heads, width]
}

/// As `[batch, heads, time, ..]`.
fn by_heads<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_swap_dims(x, 1, 2)
}

/// Queries, keys and values as inputs.
fn by_rows<B: Gpu>(program: &mut Program, inputs: [&FloatTensor<B>; 3]) -> [Id; 3] {
    inputs.map(|x| program.input_by_rows(x, Plan::vector(x.shape().dims::<4>()[3])))
}

impl Attend {
    fn call<B: Gpu>(&self, inputs: [Option<&FloatTensor<B>>; 7]) -> Call {
        let shapes = inputs.map(|x| x.map(TensorMetadata::shape));
        call(&self.0, shapes).unwrap_or_else(|because| unreachable!("`choose` lets no call through that has {because}"))
    }

    fn slopes(&self) -> impl IntoIterator<Item = f32> {
        self.0.slopes.iter().flatten().map(|&slope| slope as f32).collect::<Vec<_>>()
    }
}

impl<B: Gpu> Operator<B, 7> for Attend {
    type Saved = Saved<B>;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 7]) -> (FloatTensor<B>, Saved<B>) {
        let call = self.call::<B>(inputs.each_ref().map(Option::as_ref));
        let [q, k, v, _, sink, lambda, gate] = inputs;
        let [q, k, v] = [q, k, v].map(|x| x.expect(THERE));
        let in_f32 = |x| B::float_cast(x, FloatDType::F32);
        let sinks = sink.map(in_f32);
        let dtype = q.dtype();
        let Call { batch, heads, time, value_width, maps, .. } = call;
        let outs = [batch, time, heads, value_width];
        let lambda_shape = lambda.as_ref().map(TensorMetadata::shape);
        let lambda = lambda.map(|lambda| B::float_expand(in_f32(lambda), [batch, heads, time, 1].into()));

        let mut program = Program::new(if lambda.is_some() { "differential_attention" } else { "softmax_attention" });
        let [query, key, value] = by_rows::<B>(&mut program, [&q, &k, &v]);
        let sink = sinks.as_ref().map(|x| program.input(x));
        let factor = gate.as_ref().map(|x| program.input_by_rows(x, 1));
        let share = lambda.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let (out, log_sum) = (program.output(outs, dtype), program.output([batch, maps * heads, time], DType::F32));
        let gated = if gate.is_some() { program.output(outs, dtype) } else { nothing };
        let other = if lambda.is_some() { program.output(outs, dtype) } else { nothing };
        let [sink, factor, share] = [sink, factor, share].map(|x| x.unwrap_or(nothing));
        let strides = program.strides(&[query, key, value, factor]);
        let arguments = [query, key, value, strides, slopes, sink, factor, share, out, log_sum, gated, other];
        program.then_fastest(call.forward(), &arguments);

        let inputs = [q.clone(), k.clone(), v.clone()].into_iter().chain(sinks.clone()).chain(gate.clone());
        let inputs = inputs.chain(lambda.clone());
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = || outputs.next().expect("an output for every one that was asked for");
        let (out, log_sum) = (next(), next());
        let given = if gate.is_some() { next() } else { out.clone() };
        let maps = lambda.zip(lambda_shape).map(|(lambda, lambda_shape)| Maps { lambda, lambda_shape, other: next() });
        (by_heads::<B>(given), Saved { q, k, v, sinks, gate, out, log_sum, maps })
    }

    fn backward(&self, saved: Saved<B>, gradient: FloatTensor<B>, wanted: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        let Saved { q, k, v, sinks, gate, out, log_sum, maps } = saved;
        let lambda = maps.as_ref().map(|maps| &maps.lambda);
        let call = self.call::<B>([Some(&q), Some(&k), Some(&v), None, sinks.as_ref(), lambda, gate.as_ref()]);
        let dtype = q.dtype();
        assert_eq!(gradient.dtype(), dtype, "the gradient of attention's output");
        let Call { batch, heads, time, value_width, .. } = call;
        let rows = [batch, heads, time];

        let mut program = Program::new("attention's gradient");
        let [query, key, value] = by_rows::<B>(&mut program, [&q, &k, &v]);
        let [output, sums] = [&out, &log_sum].map(|x| program.input(x));
        let grad = program.input_by_rows(&gradient, Plan::vector(value_width));
        let sink = sinks.as_ref().map(|x| program.input(x));
        let factor = gate.as_ref().map(|x| program.input_by_rows(x, 1));
        let both = maps.as_ref().map(|maps| [&maps.lambda, &maps.other].map(|x| program.input(x)));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let delta = program.buffer(log_sum.shape(), DType::F32);
        // The gradient of the output before the gate.
        let inner = if gate.is_some() { program.buffer(gradient.shape(), dtype) } else { nothing };
        let sink_grad = sink.map(|_| program.output(rows, DType::F32)).unwrap_or(nothing);
        let gate_grad = gate.as_ref().map(|gate| program.output(across(gate), dtype)).unwrap_or(nothing);
        let share_grad = both.map(|_| program.output(rows, DType::F32)).unwrap_or(nothing);
        let [sink, factor] = [sink, factor].map(|x| x.unwrap_or(nothing));
        let [share, other] = both.unwrap_or([nothing; 2]);
        let strides = program.strides(&[grad, factor]);
        let arguments =
            [output, grad, factor, strides, sums, sink, other, share, delta, sink_grad, gate_grad, inner, share_grad];
        program.then(call.delta(), &arguments);
        let grad = if gate.is_some() { inner } else { grad };
        let strides = program.strides(&[query, key, value, grad]);
        let arguments = [query, key, value, strides, slopes, grad, sums, delta, share];
        if wanted[0] {
            let query_grad = program.output(across(&q), dtype);
            program.then_fastest(call.query_grad(), &[&arguments[..], &[query_grad]].concat());
        }
        if wanted[1] || wanted[2] {
            let grads = [&k, &v].map(|x| program.output(across(x), dtype));
            for kernels in call.key_value_grads() {
                program.then_fastest(kernels, &[&arguments[..], &grads].concat());
            }
        }

        let sink_shape = sinks.as_ref().map(|_| Shape::from([1, heads, 1, 1]));
        let lambda_shape = maps.as_ref().map(|maps| maps.lambda_shape.clone());
        let gate_there = gate.is_some();
        let inputs = [q, k, v, out, log_sum, gradient].into_iter().chain(sinks).chain(gate);
        let inputs = inputs.chain(maps.into_iter().flat_map(|maps| [maps.lambda, maps.other]));
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let sink_grad = next(sink_shape.is_some()).zip(sink_shape);
        let gate_grad = next(gate_there).map(by_heads::<B>);
        let lambda_grad = next(lambda_shape.is_some()).zip(lambda_shape);
        let [sink_grad, lambda_grad] =
            [sink_grad, lambda_grad].map(|x| x.map(|(rows, shape)| onto::<B>(&shape, rows, dtype)));
        let query_grad = next(wanted[0]).map(by_heads::<B>);
        let [key_grad, value_grad] = [(); 2].map(|()| next(wanted[1] || wanted[2]).map(by_heads::<B>));
        [query_grad, key_grad, value_grad, None, sink_grad, lambda_grad, gate_grad]
    }
}
