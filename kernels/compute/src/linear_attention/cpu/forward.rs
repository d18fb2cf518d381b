//! The forward: one head after the other on each thread, chunk after chunk.

use super::chunk::{CHUNK, Chunk};
use super::views::{SPAN, Views, load_state, store_state};
use crate::cpu::{Real, Shared, Strided, buffer, for_each, output, output_heads, vectorised, with_scratch};
use burn_dispatch::backends::flex::FlexTensor;

/// The output, the state at the end, and U and the states when `tracked`.
pub fn forward<E: Real>(
    inputs: &[Option<FlexTensor>; 7],
    tracked: bool,
) -> (FlexTensor, FlexTensor, Option<[FlexTensor; 2]>) {
    let x = Views::<E>::of(&inputs[..6]);
    let state = inputs[6].as_ref().map(Strided::<E, 4>::of);
    let Views { batch, heads, time, d_key, d_value, .. } = x;
    let (sizes, chunks, units) = (x.sizes(), x.chunks(), batch * heads);
    let written_of_head = chunks * CHUNK * sizes.value;
    let states_of_head = (x.spans() + 1) * sizes.state();
    let kept = |length: usize| buffer::<E>(if tracked { units * length } else { 0 });
    let (mut all_written, mut states) = (kept(written_of_head), kept(states_of_head));
    let mut out = buffer::<E>(batch * time * heads * d_value);
    let mut end = buffer::<E>(units * d_key * d_value);
    {
        let (all_written, states) = (Shared::new(&mut all_written), Shared::new(&mut states));
        let (out, end) = (Shared::new(&mut out), Shared::new(&mut end));
        for_each(units, x.work(), |unit| {
            let [b, h] = [unit / heads, unit % heads];
            let more = [sizes.state(), CHUNK * sizes.value, 2 * CHUNK * sizes.value];
            let lengths: Vec<usize> = sizes.lengths().into_iter().chain(more).collect();
            let run = |mut scratch: Vec<&mut [E]>| {
                let [s, u, y] = scratch.split_off(9).try_into().expect("three parts");
                let mut chunk = Chunk::new(sizes, scratch.try_into().expect("parts of a chunk"));
                vectorised(
                    #[inline(always)]
                    || {
                        load_state(state, [b, h], s, sizes.value);
                        for c in 0..chunks {
                            if tracked && c % SPAN == 0 {
                                // SAFETY: the states of this head are this unit's own.
                                let to = unsafe {
                                    states.part(unit * states_of_head + c / SPAN * sizes.state(), sizes.state())
                                };
                                to.copy_from_slice(s);
                            }
                            x.load([b, h], c, &mut chunk);
                            x.load_values([b, h], c, u);
                            chunk.forward(s, u, &mut y[..sizes.readers * sizes.value]);
                            if tracked {
                                // SAFETY: as above.
                                let to = unsafe { all_written.part(unit * written_of_head + c * u.len(), u.len()) };
                                to.copy_from_slice(u);
                            }
                            for (t, row) in x.tokens(c).zip(y.chunks_exact(sizes.value)) {
                                // SAFETY: the rows of this head are this unit's own.
                                let to = unsafe { out.part(((b * time + t) * heads + h) * d_value, d_value) };
                                to.copy_from_slice(&row[..d_value]);
                            }
                        }
                        if tracked {
                            // SAFETY: as above.
                            let last =
                                unsafe { states.part((unit + 1) * states_of_head - sizes.state(), sizes.state()) };
                            last.copy_from_slice(s);
                        }
                        // SAFETY: as above.
                        let end = unsafe { end.part(unit * d_key * d_value, d_key * d_value) };
                        store_state(s, sizes.value, end, d_value);
                    },
                );
            };
            with_scratch(&lengths, run);
        });
    }
    let kept =
        tracked.then(|| [output(all_written, [units, written_of_head]), output(states, [units, states_of_head])]);
    (output_heads(out, [batch, heads, time, d_value]), output(end, [batch, heads, d_key, d_value]), kept)
}
