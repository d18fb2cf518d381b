//! Gated linear attention on the CPU: one head after the other on each thread, chunk after chunk, all of
//! a chunk in cache ([`chunk`]); a few tokens without a tape one by one ([`step`]).
//!
//! The backward runs through the chunks in reverse. Of the forward it has what was written into the
//! state, U, and the states at the start of every [`SPAN`](views::SPAN), between which it makes them again.

mod backward;
mod chunk;
mod forward;
mod step;
mod views;

use crate::cpu::{forwards, with_real};
use crate::operator::{Operator, Second};
use burn_backend::TensorMetadata;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// As few tokens as are faster one by one.
const FEW: usize = 4;

/// The inputs are `q, k, v, decay, erase, write, state`. The logarithm of the decay and the erase gate
/// have one channel or as many as keys; without `write` what is erased is written.
#[derive(Clone, Debug)]
pub struct LinearAttention {
    /// Whether there may be a backward.
    pub tracked: bool,
    /// The state after the last token.
    pub end: Second<Flex>,
}

#[derive(Clone, Debug)]
pub struct Saved {
    inputs: [Option<FlexTensor>; 7],
    /// U of every head, in whole chunks and rows.
    written: FlexTensor,
    /// Every head's states at the start of its spans and at the end.
    states: FlexTensor,
}

impl Operator<Flex, 7> for LinearAttention {
    type Saved = Option<Saved>;

    fn forward(&self, inputs: [Option<FlexTensor>; 7]) -> (FlexTensor, Option<Saved>) {
        let [q, k, v, decay, erase, write, state] = inputs;
        let [q, k, v, decay, erase, write] = [q, k, v, decay, erase, write].map(|x| x.map(forwards));
        let q_shape = q.as_ref().expect("queries").shape();
        let dtype = q.as_ref().expect("queries").dtype();
        let few = !self.tracked && q_shape[2] <= FEW;
        let inputs = [q, k, v, decay, erase, write];
        with_real!(dtype, E => {
            if few {
                let (out, end) = step::run::<E>(&inputs, state);
                self.end.put(end);
                return (out, None);
            }
            let [q, k, v, decay, erase, write] = inputs;
            let inputs = [q, k, v, decay, erase, write, state.map(forwards)];
            let (out, end, kept) = forward::forward::<E>(&inputs, self.tracked);
            self.end.put(end);
            (out, kept.map(|[written, states]| Saved { inputs, written, states }))
        })
    }

    fn backward(&self, saved: Option<Saved>, gradient: FlexTensor, wanted: [bool; 7]) -> [Option<FlexTensor>; 7] {
        let saved = saved.expect("a forward that knew of its backward");
        let gradient = forwards(gradient);
        let d_end = self.end.gradient().map(forwards);
        with_real!(gradient.dtype(), E => backward::backward::<E>(&saved, &gradient, d_end.as_ref(), wanted))
    }
}
