//! Linear attention on CUDA: token after token (`steps`), and in chunks on tensor cores, with one decay per head and
//! one β or none (`chunks`) or with a decay for every channel and any gates (`channels`); which kernels run on which
//! memory (`forward`); and the gradients of the whole family (`backward`), those of `chunks` on tensor cores too
//! (`chunk_grads`).

pub mod backward;
pub mod channels;
pub mod chunk_grads;
pub mod chunks;
mod forward;
pub mod steps;

use crate::cuda::program::Id;
use crate::cuda::source::{SHARED_LIMIT, Source};
use crate::cuda::tile::vector;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, Second, TOO_LARGE};
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
use chunks::{CHUNK, Chunks};
use forward::Call;
use steps::{Decay, Steps, Write};

/// How the kernels run through the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Steps(Steps),
    /// One decay per head.
    Chunks(Chunks),
    /// One for every channel of the keys.
    Channels(Chunks),
}

/// Which member of the family has these shapes of decays and gates, where one number a token is one channel.
fn family(decay: Option<[usize; 4]>, erase: Option<[usize; 4]>, write: Option<[usize; 4]>) -> Option<(Decay, Write)> {
    let decay = match decay {
        None => Decay::None,
        Some([.., 1]) => Decay::Head,
        Some(_) => Decay::Channel,
    };
    let gates = match (erase, write) {
        (None, None) => Write::Add,
        (Some([.., 1]), None) => Write::Beta,
        (Some(_), Some(_)) => Write::EraseWrite,
        _ => return None,
    };
    Some((decay, gates))
}

/// The form for inputs `q, k, v, decay, erase, write, state` of these shapes, where decay and erase gate have one channel or as
/// many as keys.
///
/// # Errors
/// What there is no kernel for.
pub fn form(asked: &Asked, shapes: [Option<Shape>; 7]) -> Result<Form, Because> {
    let no = |what| Err(Because::NoKernel(what));
    let [q, _, v, decay, erase, write, state] = shapes.map(|shape| shape.map(|shape| shape.dims::<4>()));
    let there = "queries, keys and values are always there";
    let ([batch, heads, time, width], [.., value_width]) = (q.expect(there), v.expect(there));
    asked.in_f32()?;
    if time == 0 {
        return no("no tokens");
    }
    if batch * heads >= 1 << 16 {
        return no("more than 65535 heads in a batch");
    }
    // Chunks are whole ones where they leave something to each other.
    let padded = time.next_multiple_of(CHUNK as usize);
    let numbers = [value_width * padded, width * padded, width * value_width].map(|each| batch * heads * each);
    if numbers.iter().any(|&count| count >= 1 << 31) {
        return Err(TOO_LARGE);
    }
    let Some((decay, gates)) = family(decay, erase, write) else {
        return no("these gates");
    };
    let start = state.is_some();
    if asked.tracked {
        let plan = backward::Plan { width, value_width, decay, write: gates, start, end_grad: true };
        if !plan.fits() {
            return no("the gradient of this width; there is one for multiples of 4 up to 256");
        }
        if asked.card.shared < SHARED_LIMIT {
            return no("the gradient on this GPU: its blocks have too little shared memory");
        }
        let call = backward::Call { heads: batch * heads, time, plan, dtype: asked.dtype };
        if call.scratch().iter().any(|&count| count >= 1 << 31) {
            return no("the gradient of so many states: more than 32-bit indices reach");
        }
    }
    let chunks = Chunks { width, value_width, write: gates, start, keep: false };
    let (form, shared) = match decay {
        Decay::Channel => (Form::Channels(chunks), channels::shared(&chunks)),
        Decay::None | Decay::Head => (Form::Chunks(chunks), chunks.shared()),
    };
    // A few tokens leave most of a chunk empty.
    let long = time >= CHUNK as usize / 4;
    let there_is_one = decay == Decay::Channel || gates != Write::EraseWrite;
    if long && there_is_one && chunks.fits() && asked.on_tensor_cores(shared).is_ok() {
        return Ok(form);
    }
    let steps = Steps { width, value_width, decay, write: gates, start };
    match steps.fits() {
        true => Ok(Form::Steps(steps)),
        false => no("this width of keys; there is one for multiples of 4 up to 256"),
    }
}

/// The inputs are `q, k, v, decay, erase, write, state`; the state is computed in f32 and given back in the dtype of the inputs.
#[derive(Clone, Debug)]
pub struct LinearAttention<B: Gpu> {
    pub form: Form,
    /// The state after the last token.
    pub end: Second<B>,
}

/// The inputs with a decay of nothing where there is none.
fn with_decay<B: Gpu>(mut inputs: [Option<FloatTensor<B>>; 7]) -> [Option<FloatTensor<B>>; 7] {
    if let ([Some(q), ..], None) = (&inputs[..1], &inputs[3]) {
        let [batch, heads, time, _] = q.shape().dims();
        inputs[3] = Some(B::float_zeros([batch, heads, time, 1].into(), &q.device(), FloatDType::F32));
    }
    inputs
}

/// The inputs, all but the state as they lie.
fn as_they_lie<B: Gpu>(program: &mut Program, inputs: &[Option<FloatTensor<B>>; 7]) -> [Option<Id>; 7] {
    let [q, k, v, decay, erase, write, state] = inputs.each_ref().map(Option::as_ref);
    let rows = [q, k, v].map(|x| x.map(|x| program.input_by_rows(x, vector(x.shape().dims::<4>()[3]))));
    let gates = [decay, erase, write].map(|x| {
        x.map(|x| {
            let [.., channels] = x.shape().dims::<4>();
            program.input_by_rows(x, if channels == 1 { 1 } else { vector(channels) })
        })
    });
    let ([q, k, v], [decay, erase, write]) = (rows, gates);
    [q, k, v, decay, erase, write, state.map(|x| program.input(x))]
}

/// What was written `[batch, time, heads, ..]` as `[batch, heads, time, ..]`.
fn by_heads<B: Gpu>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_swap_dims(x, 1, 2)
}

impl<B: Gpu> LinearAttention<B> {
    /// The backward on tensor cores.
    fn backward_in_tiles(
        &self,
        chunks: Chunks,
        saved: [Option<FloatTensor<B>>; 7],
        gradient: FloatTensor<B>,
        end_grad: Option<FloatTensor<B>>,
    ) -> [Option<FloatTensor<B>>; 7] {
        let there = saved.each_ref().map(Option::is_some);
        let saved = with_decay::<B>(saved);
        let [batch, heads, time, width] = saved[0].as_ref().expect("queries").shape().dims();
        let (dtype, value_width) = (gradient.dtype(), chunks.value_width);
        let all = batch * heads;
        let chunks = Chunks { keep: true, ..chunks };
        let walk = chunks.walk([batch, heads], time);
        let [back, tokens] = chunk_grads::kernels(&chunks, [batch, heads], time, end_grad.is_some());

        let mut program = Program::new("linear_attention gradient");
        let ids = as_they_lie::<B>(&mut program, &saved);
        let out_grad = program.input_by_rows(&gradient, vector(value_width));
        let end = end_grad.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let [q, k, v, g, beta, _, start] = ids.map(|id| id.unwrap_or(nothing));
        let end = end.unwrap_or(nothing);
        let number = time.div_ceil(CHUNK as usize);
        let across = |channels| [batch, time, heads, channels];
        let [states, state_grads] = [(); 2].map(|()| program.buffer([all, number, width, value_width], DType::F32));
        let [q_grad, k_grad] = [(); 2].map(|()| program.output(across(width), dtype));
        let v_grad = program.output(across(value_width), dtype);
        let g_grad = program.output(across(1), DType::F32);
        let [mut erased, mut inverses, mut written, mut beta_grad] = [nothing; 4];
        // Where values are written as they are, their gradient is that of what is written.
        let (mut new, mut new_grad, mut of_values) = (v, v_grad, nothing);
        if chunks.erases() {
            erased = program.buffer([batch, heads, time, width], dtype);
            inverses = program.buffer([all, number, (CHUNK * CHUNK) as usize], dtype);
            [new, new_grad, written] = [(); 3].map(|()| program.buffer([batch, heads, time, value_width], dtype));
            of_values = v_grad;
            beta_grad = program.output(across(1), dtype);
            let strides = program.strides(&[k, v, g, beta]);
            let prepare = chunks.prepare([batch, heads], time);
            program.then(prepare, &[k, v, g, beta, strides, new, erased, inverses]);
        }
        let start_grad = program.output([batch, heads, width, value_width], DType::F32);
        let strides = program.strides(&[q, k, g, new]);
        program.then(walk, &[q, k, g, strides, new, erased, start, written, states]);
        let strides = program.strides(&[q, k, g, out_grad]);
        program.then(back, &[q, k, g, out_grad, strides, erased, end, new_grad, state_grads, start_grad]);
        let of_tokens = [q, k, v, g, beta, out_grad];
        let strides = program.strides(&of_tokens);
        let kept = [strides, inverses, written, states, new_grad, state_grads];
        let grads = [q_grad, k_grad, of_values, g_grad, beta_grad];
        program.then(tokens, &[&of_tokens[..], &kept, &grads].concat());

        let inputs = saved.into_iter().flatten().chain([gradient]).chain(end_grad);
        let outputs = B::execute(program, inputs.collect());
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().expect("an output for every one that was asked for");
        let [q, k, v, g] = [(); 4].map(|()| by_heads::<B>(next()));
        let beta = chunks.erases().then(|| by_heads::<B>(next()));
        let rounded = |x: FloatTensor<B>, there: bool| there.then(|| B::float_cast(x, dtype.into()));
        [Some(q), Some(k), Some(v), rounded(g, there[3]), beta, None, rounded(next(), there[6])]
    }
}

impl<B: Gpu> Operator<B, 7> for LinearAttention<B> {
    /// The inputs, decays and state in f32.
    type Saved = [Option<FloatTensor<B>>; 7];

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 7]) -> (FloatTensor<B>, Self::Saved) {
        let [q, k, v, decay, erase, write, state] = inputs;
        let there = "queries, keys and values are always there";
        let [q, k, v] = [q, k, v].map(|x| x.expect(there));
        let ([batch, heads, time, width], [.., value_width]) = (q.shape().dims::<4>(), v.shape().dims::<4>());
        let dtype = q.dtype();
        let single = |x: FloatTensor<B>| B::float_cast(x, FloatDType::F32);
        let saved = [Some(q), Some(k), Some(v), decay.map(single), erase, write, state.map(single)];
        let inputs = match self.form {
            Form::Chunks(_) => with_decay::<B>(saved.clone()),
            Form::Steps(_) | Form::Channels(_) => saved.clone(),
        };

        let mut program = Program::new("linear_attention");
        let ids = as_they_lie::<B>(&mut program, &inputs);
        let nothing = program.nothing();
        let out = program.output([batch, time, heads, value_width], dtype);
        let end = program.output([batch, heads, width, value_width], DType::F32);
        let ids = ids.map(|id| id.unwrap_or(nothing));
        let call = Call { sizes: [batch, heads], time, dtype, inputs: ids, nothing, out, end };
        self.form.run(&mut program, &call);
        let outputs = B::execute(program, inputs.into_iter().flatten().collect());
        let [out, end] = <[_; 2]>::try_from(outputs).unwrap_or_else(|_| unreachable!("two outputs were asked for"));
        self.end.put(B::float_cast(end, dtype.into()));
        (by_heads::<B>(out), saved)
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, _: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        let shapes = saved.each_ref().map(|x| x.as_ref().map(|x| x.shape().dims::<4>()));
        let [Some([batch, heads, time, width]), _, Some([.., value_width]), decay, erase, write, _] = shapes else {
            unreachable!("queries, keys and values are always there")
        };
        let dtype = gradient.dtype();
        let end_grad = self.end.gradient().map(|x| B::float_cast(x, FloatDType::F32));
        if let Form::Chunks(chunks) = self.form
            && chunk_grads::fits(&chunks)
        {
            return self.backward_in_tiles(chunks, saved, gradient, end_grad);
        }
        let (decays, gates) = family(decay, erase, write).expect("a member that `form` let through");
        let plan = backward::Plan {
            width,
            value_width,
            decay: decays,
            write: gates,
            start: saved[6].is_some(),
            end_grad: end_grad.is_some(),
        };
        let call = backward::Call { heads: batch * heads, time, plan, dtype };

        let mut program = Program::new("linear_attention gradient");
        let ids = saved.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let out_grad = program.input(&gradient);
        let end = end_grad.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let there = ids.map(|id| id.is_some());
        let [q, k, v, g, erase_, write_, start] = ids.map(|id| id.unwrap_or(nothing));
        let end = end.unwrap_or(nothing);
        let kept = call.scratch().map(|count| program.buffer([count], DType::F32));
        let [gamma, weights, inverse, written, states, written_grad, state_grads] = kept;
        let by_token = |channels| [batch, heads, time, channels];
        let [q_grad, k_grad] = [(); 2].map(|()| program.output(by_token(width), dtype));
        let v_grad = program.output(by_token(value_width), dtype);
        let mut maybe = |shape: Option<[usize; 4]>, dtype| shape.map_or(nothing, |shape| program.output(shape, dtype));
        let g_grad = maybe(decay, DType::F32);
        let (erase_grad, write_grad) = (maybe(erase, dtype), maybe(write, dtype));
        let start_grad = program.output([batch, heads, width, value_width], DType::F32);
        program.then(call.prepare(), &[q, k, g, erase_, gamma, weights, inverse]);
        program.then(call.states(), &[k, v, erase_, write_, start, gamma, inverse, written, states]);
        let of_states = [q, k, erase_, out_grad, end, gamma, weights, inverse, written_grad, state_grads, start_grad];
        program.then(call.state_grads(), &of_states);
        let (of_chunks, of_tokens) = ([gamma, written, states, written_grad, state_grads], [q_grad, k_grad, v_grad]);
        let arguments = [q, k, v, erase_, write_, out_grad].into_iter().chain(of_chunks).chain(of_tokens);
        let arguments: Vec<_> = arguments.chain([g_grad, erase_grad, write_grad]).collect();
        program.then(call.token_grads(), &arguments);

        let inputs = saved.into_iter().flatten().chain([gradient]).chain(end_grad);
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let rounded = |x: FloatTensor<B>| B::float_cast(x, dtype.into());
        let [q, k, v] = [(); 3].map(|()| next(true));
        let g = next(there[3]).map(rounded);
        let (erase, write) = (next(there[4]), next(there[5]));
        let start = next(true).map(rounded).filter(|_| there[6]);
        [q, k, v, g, erase, write, start]
    }
}

/// What the table holds: the decode steps of Gated DeltaNet (in f32 as well) and Kimi, the largest state with
/// everything by channel, and chunks of Gated DeltaNet, of Mamba-2 and RetNet, of Kimi and of gated linear attention;
/// and the gradients that there are of those.
pub fn sources() -> Vec<Source> {
    let steps = |width, value_width, decay, write, dtype| {
        Steps { width, value_width, decay, write, start: true }.kernel([1, 1], 1, dtype).source()
    };
    let mut sources = vec![
        steps(128, 128, Decay::Head, Write::Beta, DType::BF16),
        steps(128, 128, Decay::Head, Write::Beta, DType::F32),
        steps(128, 128, Decay::Channel, Write::Beta, DType::BF16),
        steps(256, 256, Decay::Channel, Write::EraseWrite, DType::BF16),
    ];
    let chunks = |write| Chunks { width: 128, value_width: 128, write, start: true, keep: false };
    let written = [Write::Beta, Write::Add].map(chunks);
    let by_head = written.iter().flat_map(|plan| plan.kernels([1, 1], 1));
    // Every gate a channel's own, in the widest tiles that there are.
    let split = Chunks { value_width: 256, ..chunks(Write::EraseWrite) };
    let by_channel = written.iter().chain([&split]).flat_map(|plan| channels::kernels(plan, [1, 1], 1));
    sources.extend(by_head.chain(by_channel).map(|kernel| kernel.source()));
    for plan in written {
        let kept = Chunks { keep: true, ..plan };
        let tiles = kept.kernels([1, 1], 1).into_iter().chain(chunk_grads::kernels(&kept, [1, 1], 1, true));
        sources.extend(tiles.map(|kernel| kernel.source()));
    }
    let gradients = |width, decay, write, dtype| {
        let plan = backward::Plan { width, value_width: width, decay, write, start: true, end_grad: true };
        let call = backward::Call { heads: 1, time: 1, plan, dtype };
        [call.prepare(), call.states(), call.state_grads(), call.token_grads()]
    };
    let all = [
        gradients(128, Decay::Head, Write::Beta, DType::BF16),
        gradients(128, Decay::Head, Write::Beta, DType::F32),
        gradients(128, Decay::Channel, Write::Beta, DType::BF16),
        gradients(256, Decay::Channel, Write::EraseWrite, DType::BF16),
    ];
    sources.extend(all.into_iter().flatten().map(|kernel| kernel.source()));
    sources
}
