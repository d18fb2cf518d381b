//! The forward as a program: which kernels run on which memory.

use super::chunks::{CHUNK, Chunks};
use super::{Form, channels};
use crate::cuda::Program;
use crate::cuda::program::Id;
use burn::tensor::DType;

/// Sizes of a call and its memory.
pub struct Call {
    /// `[batch, heads]`.
    pub sizes: [usize; 2],
    pub time: usize,
    /// Of all but decays and states, which are f32.
    pub dtype: DType,
    /// `q, k, v, decay, erase, write, state`, each `nothing` where it is not there.
    pub inputs: [Id; 7],
    pub nothing: Id,
    pub out: Id,
    pub end: Id,
}

impl Form {
    /// Runs its kernels on the memory of `call`.
    pub fn run(self, program: &mut Program, call: &Call) {
        let &Call { sizes, time, dtype, inputs, out, end, .. } = call;
        match self {
            Self::Steps(steps) => {
                let [q, k, v, decay, erase, write, start] = inputs;
                let strides = program.strides(&[q, k, v, decay, erase, write]);
                let kernel = steps.kernel(sizes, time, dtype);
                program.then(kernel, &[q, k, v, decay, erase, write, strides, start, out, end]);
            }
            Self::Chunks(chunks) => by_head(&chunks, program, call),
            Self::Channels(chunks) => by_channel(&chunks, program, call),
        }
    }
}

/// `U` and `E` of every token; where nothing is erased they are the values, as they lie, and nothing.
fn prepared(chunks: &Chunks, program: &mut Program, call: &Call) -> [Id; 2] {
    let ([batch, heads], time) = (call.sizes, call.time);
    match chunks.erases() {
        true => [chunks.value_width, chunks.width]
            .map(|channels| program.buffer([batch, heads, time, channels], call.dtype)),
        false => [call.inputs[2], call.nothing],
    }
}

fn by_head(chunks: &Chunks, program: &mut Program, call: &Call) {
    let &Call { sizes, time, inputs: [q, k, v, decay, beta, _, start], nothing, out, end, .. } = call;
    let [new, erased] = prepared(chunks, program, call);
    if chunks.erases() {
        let strides = program.strides(&[k, v, decay, beta]);
        program.then(chunks.prepare(sizes, time), &[k, v, decay, beta, strides, new, erased, nothing]);
    }
    let strides = program.strides(&[q, k, decay, new]);
    program.then(chunks.walk(sizes, time), &[q, k, decay, strides, new, erased, start, out, end]);
}

fn by_channel(chunks: &Chunks, program: &mut Program, call: &Call) {
    let &Call { sizes, time, dtype, inputs: [q, k, v, decay, erase, write, start], nothing, out, end } = call;
    let ([batch, heads], width, number) = (sizes, chunks.width, time.div_ceil(CHUNK as usize));
    let [seen, kept] = [(); 2].map(|()| program.buffer([batch, heads, time, width], dtype));
    let keep = program.buffer([batch, heads, number, width], DType::F32);
    let weights = program.buffer([batch, heads, number, (CHUNK * CHUNK) as usize], dtype);
    let [new, erased] = prepared(chunks, program, call);
    // Values that are written as they are need no preparing.
    let written = if chunks.erases() { [new, erased] } else { [nothing; 2] };
    let [prepare, walk] = channels::kernels(chunks, sizes, time);
    let inputs = [q, k, v, decay, erase, write];
    let strides = program.strides(&inputs);
    let outputs = [seen, kept, keep, weights];
    program.then(prepare, &[&inputs[..], &[strides], &outputs, &written].concat());
    let strides = program.strides(&[new]);
    program.then(walk, &[seen, kept, keep, weights, strides, new, erased, start, out, end]);
}
