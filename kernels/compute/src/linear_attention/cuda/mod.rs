//! Linear attention on CUDA, forward: token after token (`steps`), and the gated delta rule in chunks on tensor cores
//! (`chunks`).

pub mod chunks;
pub mod steps;

use crate::cuda::source::Source;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, Second};
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::TensorMetadata;
use burn_backend::tensor::FloatTensor;
use chunks::{CHUNK, Chunks};
use steps::{Decay, Steps, Write};

/// How the kernels run through the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Steps(Steps),
    Chunks(Chunks),
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
    if asked.tracked {
        return no("the gradient");
    }
    asked.in_f32()?;
    if time == 0 {
        return no("no tokens");
    }
    if batch * heads >= 1 << 16 {
        return no("more than 65535 heads in a batch");
    }
    let decay = match decay {
        None => Decay::None,
        Some([.., 1]) => Decay::Head,
        Some(_) => Decay::Channel,
    };
    let gates = match (erase, write) {
        (None, None) => Write::Add,
        (Some([.., 1]), None) => Write::Beta,
        (Some(_), Some(_)) => Write::EraseWrite,
        _ => return no("these gates"),
    };
    let start = state.is_some();
    let chunks = Chunks { width, value_width, start };
    // A few tokens leave most of a chunk empty.
    let long = time >= CHUNK as usize / 4;
    let one_gate = gates == Write::Beta && decay != Decay::Channel;
    if long && one_gate && chunks.fits() && asked.on_tensor_cores(chunks.shared()).is_ok() {
        return Ok(Form::Chunks(chunks));
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

impl<B: Gpu> Operator<B, 7> for LinearAttention<B> {
    type Saved = ();

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 7]) -> (FloatTensor<B>, ()) {
        let [q, k, v, decay, erase, write, state] = inputs;
        let there = "queries, keys and values are always there";
        let [q, k, v] = [q, k, v].map(|x| x.expect(there));
        let ([batch, heads, time, width], [.., value_width]) = (q.shape().dims::<4>(), v.shape().dims::<4>());
        let dtype = q.dtype();
        let single = |x: FloatTensor<B>| B::float_cast(x, FloatDType::F32);
        let mut decay = decay.map(single);
        if decay.is_none() && matches!(self.form, Form::Chunks(_)) {
            decay = Some(B::float_zeros([batch, heads, time, 1].into(), &q.device(), FloatDType::F32));
        }
        let inputs = [Some(q), Some(k), Some(v), decay, erase, write, state.map(single)];

        let mut program = Program::new("linear_attention");
        let ids = inputs.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let nothing = program.nothing();
        let [q, k, v, decay, erase, write, start] = ids.map(|id| id.unwrap_or(nothing));
        let out = program.output([batch, heads, time, value_width], dtype);
        let end = program.output([batch, heads, width, value_width], DType::F32);
        match self.form {
            Form::Steps(steps) => {
                let kernel = steps.kernel(batch * heads, time, dtype);
                program.then(kernel, &[q, k, v, decay, erase, write, start, out, end]);
            }
            Form::Chunks(chunks) => {
                let [prepare, walk] = chunks.kernels(batch * heads, time);
                let new = program.buffer([batch, heads, time, value_width], dtype);
                let erased = program.buffer([batch, heads, time, width], dtype);
                program.then(prepare, &[k, v, decay, erase, new, erased]);
                program.then(walk, &[q, k, decay, new, erased, start, out, end]);
            }
        }
        let outputs = B::execute(program, inputs.into_iter().flatten().collect());
        let [out, end] = <[_; 2]>::try_from(outputs).unwrap_or_else(|_| unreachable!("two outputs were asked for"));
        self.end.put(B::float_cast(end, dtype.into()));
        (out, ())
    }

    fn backward(&self, (): (), _: FloatTensor<B>, _: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        unreachable!("`form` lets no tracked inputs through")
    }
}

/// What the table holds: the decode steps of Gated DeltaNet (in f32 as well) and Kimi, the largest state with everything by channel,
/// and chunks of Gated DeltaNet.
pub fn sources() -> Vec<Source> {
    let steps = |width, value_width, decay, write, dtype| {
        Steps { width, value_width, decay, write, start: true }.kernel(1, 1, dtype).source()
    };
    let mut sources = vec![
        steps(128, 128, Decay::Head, Write::Beta, DType::BF16),
        steps(128, 128, Decay::Head, Write::Beta, DType::F32),
        steps(128, 128, Decay::Channel, Write::Beta, DType::BF16),
        steps(256, 256, Decay::Channel, Write::EraseWrite, DType::BF16),
    ];
    sources.extend(Chunks { width: 128, value_width: 128, start: true }.kernels(1, 1).map(|kernel| kernel.source()));
    sources
}
