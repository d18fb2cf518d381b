//! The operator on a GPU. Inputs in bf16: tensor cores would round others.

use super::launch::Call;
use super::plan::Gate;
use crate::cuda::program::Id;
use crate::cuda::tile::vector;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, TOO_LARGE};
use crate::softmax_attention::cpu;
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};

/// The inputs are `q, k, v, bias, sink, lambda, gate`; with a λ there are two maps, and no bias.
#[derive(Clone, Debug)]
pub struct Attend(pub cpu::Attend);

#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    sinks: Option<Rows<B>>,
    gate: Option<FloatTensor<B>>,
    /// Before the gate, `[batch, time, heads, d_value]`.
    out: FloatTensor<B>,
    log_sum: FloatTensor<B>,
    maps: Option<Maps<B>>,
}

/// One number for every row.
#[derive(Clone, Debug)]
struct Rows<B: Backend> {
    /// `[batch, heads, time, 1]`, in f32.
    numbers: FloatTensor<B>,
    /// Before it was broadcast.
    given: Shape,
}

impl<B: Gpu> Rows<B> {
    fn of(given: FloatTensor<B>, [batch, heads, time]: [usize; 3]) -> Self {
        let numbers = B::float_expand(B::float_cast(given.clone(), FloatDType::F32), [batch, heads, time, 1].into());
        Self { numbers, given: given.shape() }
    }
}

/// What the gradient needs of two maps.
#[derive(Clone, Debug)]
struct Maps<B: Backend> {
    lambda: Rows<B>,
    /// What the second map gives alone, as the output.
    other: FloatTensor<B>,
}

/// Whether there are kernels for inputs of these shapes.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, options: &cpu::Attend, shapes: [Option<Shape>; 7]) -> Result<(), Because> {
    let call = call(options, shapes)?;
    // What a gradient of the bias has. Whether it is asked for is not known here.
    if asked.tracked && call.bias.is_some() && call.batch * call.heads * call.time * call.source >= 1 << 31 {
        return Err(TOO_LARGE);
    }
    let plan = call.plan();
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
    if bias.is_some() && maps == 2 {
        return no("a bias of two maps");
    }
    if bias.is_some_and(|[.., keys]| keys != source) {
        return no("a bias that keys share");
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
        bias,
        bias_grad: false,
        sinks: sink.is_some(),
        sigmoid: options.sigmoid,
        gate,
        maps,
        key_maps: k_heads / kv_heads,
    })
}

/// The sum of gradients `[batch, heads, time, ..]` onto the shape of an input that was broadcast to theirs.
fn onto<B: Gpu>(shape: &Shape, grads: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    let (from, to) = (grads.shape().dims::<4>(), shape.dims::<4>());
    let shared: Vec<usize> = (0..4).filter(|&axis| from[axis] != to[axis]).collect();
    let sum = match shared.is_empty() {
        true => grads,
        false => B::float_sum_dims(B::float_cast(grads, FloatDType::F32), &shared),
    };
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
    inputs.map(|x| program.input_by_rows(x, vector(x.shape().dims::<4>()[3])))
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
        let [q, k, v, bias, sink, lambda, gate] = inputs;
        let [q, k, v] = [q, k, v].map(|x| x.expect(THERE));
        let dtype = q.dtype();
        let Call { batch, heads, time, value_width, maps, .. } = call;
        let outs = [batch, time, heads, value_width];
        let [sinks, lambda] = [sink, lambda].map(|x| x.map(|x| Rows::<B>::of(x, [batch, heads, time])));
        let by_row = [&sinks, &lambda].map(|x| x.as_ref().map(|x| x.numbers.clone()));

        let mut program = Program::new(if lambda.is_some() { "differential_attention" } else { "softmax_attention" });
        let [query, key, value] = by_rows::<B>(&mut program, [&q, &k, &v]);
        let [added, factor] = [&bias, &gate].map(|x| x.as_ref().map(|x| program.input_by_rows(x, 1)));
        let [sink, share] = by_row.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let (out, log_sum) = (program.output(outs, dtype), program.output([batch, maps * heads, time], DType::F32));
        let gated = if gate.is_some() { program.output(outs, dtype) } else { nothing };
        let other = if lambda.is_some() { program.output(outs, dtype) } else { nothing };
        let [added, factor, sink, share] = [added, factor, sink, share].map(|x| x.unwrap_or(nothing));
        let strides = program.strides(&[query, key, value, factor, added]);
        let arguments = [query, key, value, strides, added, slopes, sink, factor, share, out, log_sum, gated, other];
        program.then_fastest(call.forward(), &arguments);

        let inputs = [Some(q.clone()), Some(k.clone()), Some(v.clone()), bias.clone(), gate.clone()];
        let inputs = inputs.into_iter().chain(by_row).flatten();
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = || outputs.next().expect("an output for every one that was asked for");
        let (out, log_sum) = (next(), next());
        let given = if gate.is_some() { next() } else { out.clone() };
        let maps = lambda.map(|lambda| Maps { lambda, other: next() });
        (by_heads::<B>(given), Saved { q, k, v, bias, sinks, gate, out, log_sum, maps })
    }

    fn backward(&self, saved: Saved<B>, gradient: FloatTensor<B>, wanted: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        let Saved { q, k, v, bias, sinks, gate, out, log_sum, maps } = saved;
        let [sink_rows, lambda] = [sinks.as_ref(), maps.as_ref().map(|maps| &maps.lambda)];
        let by_row = [sink_rows, lambda].map(|x| x.map(|x| x.numbers.clone()));
        let [sink_rows, lambda_rows] = by_row.each_ref().map(Option::as_ref);
        let call = self.call::<B>([Some(&q), Some(&k), Some(&v), bias.as_ref(), sink_rows, lambda_rows, gate.as_ref()]);
        let call = Call { bias_grad: bias.is_some() && wanted[3], ..call };
        let dtype = q.dtype();
        assert_eq!(gradient.dtype(), dtype, "the gradient of attention's output");
        let Call { batch, heads, time, source, value_width, bias_grad, .. } = call;
        let rows = [batch, heads, time, 1];

        let mut program = Program::new("attention's gradient");
        let [query, key, value] = by_rows::<B>(&mut program, [&q, &k, &v]);
        let [output, sums] = [&out, &log_sum].map(|x| program.input(x));
        let grad = program.input_by_rows(&gradient, vector(value_width));
        let [added, factor] = [&bias, &gate].map(|x| x.as_ref().map(|x| program.input_by_rows(x, 1)));
        let [sink, share] = by_row.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let other = maps.as_ref().map(|maps| program.input(&maps.other));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let delta = program.buffer(log_sum.shape(), DType::F32);
        // The gradient of the output before the gate.
        let inner = if gate.is_some() { program.buffer(gradient.shape(), dtype) } else { nothing };
        let sink_grad = sink.map(|_| program.output(rows, DType::F32)).unwrap_or(nothing);
        let gate_grad = gate.as_ref().map(|gate| program.output(across(gate), dtype)).unwrap_or(nothing);
        let share_grad = share.map(|_| program.output(rows, DType::F32)).unwrap_or(nothing);
        let [added, factor, sink, share, other] = [added, factor, sink, share, other].map(|x| x.unwrap_or(nothing));
        let strides = program.strides(&[grad, factor]);
        let arguments =
            [output, grad, factor, strides, sums, sink, other, share, delta, sink_grad, gate_grad, inner, share_grad];
        program.then(call.delta(), &arguments);
        let grad = if gate.is_some() { inner } else { grad };
        let strides = program.strides(&[query, key, value, grad, added]);
        let arguments = [query, key, value, strides, added, slopes, grad, sums, delta, share];
        let by_query = wanted[0] || bias_grad;
        if by_query {
            let query_grad = program.output(across(&q), dtype);
            let scores = [batch, heads, time, source];
            let score_grad = if bias_grad { program.output(scores, dtype) } else { nothing };
            program.then_fastest(call.query_grad(), &[&arguments[..], &[query_grad, score_grad]].concat());
        }
        if wanted[1] || wanted[2] {
            let grads = [&k, &v].map(|x| program.output(across(x), dtype));
            for kernels in call.key_value_grads() {
                program.then_fastest(kernels, &[&arguments[..], &grads].concat());
            }
        }

        let other = maps.as_ref().map(|maps| maps.other.clone());
        let inputs = [Some(q), Some(k), Some(v), Some(out), Some(log_sum), Some(gradient), bias.clone(), gate.clone()];
        let inputs = inputs.into_iter().chain(by_row).chain([other]).flatten();
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let summed = |grads: Option<FloatTensor<B>>, given: Option<&Shape>| {
            grads.zip(given).map(|(grads, given)| onto::<B>(given, grads, dtype))
        };
        let sink_grad = summed(next(sinks.is_some()), sinks.as_ref().map(|sinks| &sinks.given));
        let gate_grad = next(gate.is_some()).map(by_heads::<B>);
        let lambda_grad = summed(next(maps.is_some()), maps.as_ref().map(|maps| &maps.lambda.given));
        let query_grad = next(by_query).map(by_heads::<B>);
        let bias_grad = summed(next(bias_grad), bias.map(|bias| bias.shape()).as_ref());
        let [key_grad, value_grad] = [(); 2].map(|()| next(wanted[1] || wanted[2]).map(by_heads::<B>));
        [query_grad, key_grad, value_grad, bias_grad, sink_grad, lambda_grad, gate_grad]
    }
}
