//! The operator on a GPU. Inputs in bf16: tensor cores would round others.

use super::launch::Call;
use super::plan::Gate;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::Operator;
use crate::softmax_attention::cpu;
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};

/// One map: the inputs are `q, k, v, bias, sink, lambda, gate`, of which there is no bias and no λ.
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
    /// Before the gate.
    out: FloatTensor<B>,
    log_sum: FloatTensor<B>,
}

/// Whether there are kernels for inputs of these shapes.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, options: &cpu::Attend, shapes: [Option<Shape>; 7]) -> Result<(), Because> {
    let plan = call(options, of_one_map(shapes))?.plan();
    if !plan.fits() {
        return Err(Because::NoKernel("these widths of heads; there is one for multiples of 4 up to 256"));
    }
    asked.on_tensor_cores(plan.shared())
}

/// With a λ there are two maps, which are attended to one after the other, and what is gated is their difference.
fn of_one_map(shapes: [Option<Shape>; 7]) -> [Option<Shape>; 7] {
    let [q, k, v, bias, sink, Some(_), _] = shapes else { return shapes };
    let heads = |shape: &Option<Shape>| shape.as_ref().expect(THERE)[1];
    let half = |shape: Option<Shape>| {
        let [batch, heads, time, width] = shape.expect(THERE).dims();
        Some([batch, heads / 2, time, width].into())
    };
    let k = if heads(&k) == heads(&v) { k } else { half(k) };
    [half(q), k, v, bias, sink, None, None]
}

const THERE: &str = "queries, keys and values are always there";

fn call(options: &cpu::Attend, shapes: [Option<Shape>; 7]) -> Result<Call, Because> {
    let no = |what| Err(Because::NoKernel(what));
    let [q, k, v, bias, sink, _, gate] = shapes.map(|shape| shape.map(|shape| shape.dims::<4>()));
    let ([batch, heads, time, width], [_, kv_heads, source, _]) = (q.expect(THERE), k.expect(THERE));
    let [.., value_width] = v.expect(THERE);
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
    })
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
        let [q, k, v, _, sink, _, gate] = inputs;
        let [q, k, v] = [q, k, v].map(|x| x.expect(THERE));
        let sinks = sink.map(|sink| B::float_cast(sink, FloatDType::F32));
        let dtype = q.dtype();
        let Call { batch, heads, time, value_width, .. } = call;
        let outs = [batch, heads, time, value_width];

        let mut program = Program::new("softmax_attention");
        let [query, key, value] = [&q, &k, &v].map(|x| program.input(x));
        let sink = sinks.as_ref().map(|x| program.input(x));
        let factor = gate.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let (out, log_sum) = (program.output(outs, dtype), program.output([batch, heads, time], DType::F32));
        let gated = if gate.is_some() { program.output(outs, dtype) } else { nothing };
        let (sink, factor) = (sink.unwrap_or(nothing), factor.unwrap_or(nothing));
        program.then_fastest(call.forward(), &[query, key, value, slopes, sink, factor, out, log_sum, gated]);

        let inputs = [q.clone(), k.clone(), v.clone()].into_iter().chain(sinks.clone()).chain(gate.clone());
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = || outputs.next().expect("an output for every one that was asked for");
        let (out, log_sum) = (next(), next());
        let given = if gate.is_some() { next() } else { out.clone() };
        (given, Saved { q, k, v, sinks, gate, out, log_sum })
    }

    fn backward(&self, saved: Saved<B>, gradient: FloatTensor<B>, wanted: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        let Saved { q, k, v, sinks, gate, out, log_sum } = saved;
        let call = self.call::<B>([Some(&q), Some(&k), Some(&v), None, sinks.as_ref(), None, gate.as_ref()]);
        let dtype = q.dtype();
        assert_eq!(gradient.dtype(), dtype, "the gradient of attention's output");
        let Call { batch, heads, time, .. } = call;
        let rows = [batch, heads, time];

        let mut program = Program::new("softmax_attention gradient");
        let [query, key, value, output, sums, grad] = [&q, &k, &v, &out, &log_sum, &gradient].map(|x| program.input(x));
        let sink = sinks.as_ref().map(|x| program.input(x));
        let factor = gate.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let slopes = if call.slopes { program.constant(self.slopes()) } else { nothing };
        let delta = program.buffer(rows, DType::F32);
        // The gradient of the output before the gate.
        let inner = if gate.is_some() { program.buffer(gradient.shape(), dtype) } else { nothing };
        let sink_grad = sink.map(|_| program.output(rows, DType::F32)).unwrap_or(nothing);
        let gate_grad = gate.as_ref().map(|gate| program.output(gate.shape(), dtype)).unwrap_or(nothing);
        let (sink, factor) = (sink.unwrap_or(nothing), factor.unwrap_or(nothing));
        program.then(call.delta(), &[output, grad, factor, sums, sink, delta, sink_grad, gate_grad, inner]);
        let grad = if gate.is_some() { inner } else { grad };
        if wanted[0] {
            let query_grad = program.output(q.shape(), dtype);
            program.then_fastest(call.query_grad(), &[query, key, value, slopes, grad, sums, delta, query_grad]);
        }
        if wanted[1] || wanted[2] {
            let (key_grad, value_grad) = (program.output(k.shape(), dtype), program.output(v.shape(), dtype));
            for kernels in call.key_value_grads() {
                program.then_fastest(kernels, &[query, key, value, slopes, grad, sums, delta, key_grad, value_grad]);
            }
        }

        let (sinks_there, gate_there) = (sinks.is_some(), gate.is_some());
        let inputs = [q, k, v, out, log_sum, gradient].into_iter().chain(sinks).chain(gate);
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let sink_grad = next(sinks_there).map(|rows| {
            let by_row = B::float_reshape(rows, [batch, heads, time, 1].into());
            B::float_cast(B::float_sum_dims(by_row, &[0, 2]), dtype.into())
        });
        let gate_grad = next(gate_there);
        let query_grad = next(wanted[0]);
        let [key_grad, value_grad] = [(); 2].map(|()| next(wanted[1] || wanted[2]));
        [query_grad, key_grad, value_grad, None, sink_grad, None, gate_grad]
    }
}
