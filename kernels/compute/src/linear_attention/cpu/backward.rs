//! The backward: through the chunks in reverse.

use super::Saved;
use super::chunk::{CHUNK, Chunk, Gradients, Sizes};
use super::views::{SPAN, Views, gated, load, load_state, store_state};
use crate::cpu::{Real, Shared, Strided, buffer, dot, for_each, output, output_heads, vectorised, with_scratch, zip};
use burn_dispatch::backends::flex::FlexTensor;

/// Gradients of what every token brings, `[batch, time, heads, width]`.
struct TokenGradients<'a, E> {
    /// Of their rows, in the order below; 0 where the input is absent or its gradient is not wanted.
    widths: [usize; 6],
    q: Shared<'a, E>,
    k: Shared<'a, E>,
    v: Shared<'a, E>,
    decay: Shared<'a, E>,
    erase: Shared<'a, E>,
    write: Shared<'a, E>,
}

/// Those of a chunk, in whole rows: of readers, keys, and the output with what is written below it.
struct ChunkGradients<'a, E> {
    readers: &'a [E],
    keys: &'a mut [E],
    rows: &'a [E],
}

impl<'a, E: Real> TokenGradients<'a, E> {
    /// From the last token to the first; `fading` is the gradient of the logarithm of the decay after it.
    #[inline(always)]
    fn store(
        &self,
        x: &Views<'_, E>,
        [b, h]: [usize; 2],
        c: usize,
        chunk: &Chunk<'_, E>,
        from: ChunkGradients<'_, E>,
        fading: &mut [E],
    ) {
        let Views { heads, time, d_key, d_value, .. } = *x;
        let Sizes { key, value, .. } = x.sizes();
        let [of_q, of_k, of_v, of_decay, of_erase, of_write] = self.widths;
        for (i, t) in x.tokens(c).enumerate().rev() {
            let place = (b * time + t) * heads + h;
            // SAFETY: the rows of this head are its thread's own.
            let row = |all: &Shared<'a, E>, width: usize| unsafe { all.part(place * width, width) };
            let (own, erased) = (i * key..(i + 1) * key, (CHUNK + i) * key..(CHUNK + i + 1) * key);
            let (q, d_q, k, d_k) = (
                &chunk.readers[own.clone()],
                &from.readers[own.clone()],
                &chunk.keys[own.clone()],
                &mut from.keys[own],
            );
            fades(fading, q, d_q, E::ONE);
            fades(fading, k, d_k, -E::ONE);
            row(&self.q, of_q).copy_from_slice(&d_q[..of_q]);

            let v = x.v.row([b, h, t, 0]);
            let d_u = &from.rows[(CHUNK + i) * value..][..d_value];
            let gate = x.write.or(x.erase).map(|gate| gate.row([b, h, t, 0]));
            gated(row(&self.v, of_v), d_u, gate.unwrap_or(&[E::ONE]), |d, gate| d * gate);
            through_gate(row(&self.write, of_write), d_u, v, E::ONE);
            if let Some(gate) = x.erase {
                let d_erased = &from.readers[erased.clone()];
                fades(fading, &chunk.readers[erased], d_erased, E::ONE);
                let d_gate = row(&self.erase, of_erase);
                through_gate(d_gate, &d_erased[..d_key], &k[..d_key], -E::ONE);
                if let ([d_gate], None) = (d_gate, x.write) {
                    *d_gate += dot(d_u, v);
                }
                match gate.row([b, h, t, 0]) {
                    [gate] => zip(d_k, d_erased, |d_k, d| d_k - *gate * d),
                    gate => d_k.iter_mut().zip(d_erased).zip(gate).for_each(|((d_k, d), gate)| *d_k -= *gate * *d),
                }
            }
            row(&self.k, of_k).copy_from_slice(&d_k[..of_k]);
            row(&self.decay, of_decay).copy_from_slice(&fading[..of_decay]);
        }
    }
}

/// What a token adds to the gradient of the decay before it.
#[inline(always)]
fn fades<E: Real>(fading: &mut [E], x: &[E], d_x: &[E], sign: E) {
    match fading {
        [fading] => *fading += sign * dot(x, d_x),
        _ => fading.iter_mut().zip(x).zip(d_x).for_each(|((f, x), d)| *f += sign * *x * *d),
    }
}

/// The gradient of a gate on `x`, one number where all channels share it.
#[inline(always)]
fn through_gate<E: Real>(to: &mut [E], d: &[E], x: &[E], sign: E) {
    if let [to] = to {
        *to = sign * dot(d, x);
    } else {
        to.iter_mut().zip(d).zip(x).for_each(|((to, d), x)| *to = sign * *d * *x);
    }
}

pub fn backward<E: Real>(
    saved: &Saved,
    gradient: &FlexTensor,
    d_end: Option<&FlexTensor>,
    wanted: [bool; 7],
) -> [Option<FlexTensor>; 7] {
    let x = Views::<E>::of(&saved.inputs[..6]);
    let (d_out, d_end) = (Strided::<E, 4>::of(gradient), d_end.map(Strided::<E, 4>::of));
    let Views { batch, heads, time, d_key, d_value, .. } = x;
    let (sizes, chunks, units) = (x.sizes(), x.chunks(), batch * heads);
    let Sizes { key, value, decay, readers } = sizes;
    let (written, states): (&[E], &[E]) = (saved.written.storage(), saved.states.storage());
    let (chunk_rows, state) = (CHUNK * value, sizes.state());
    let width = |x: Option<Strided<'_, E, 4>>| x.map_or(0, |x| x.shape[3]);
    let mut widths = [d_key, d_key, d_value, width(x.decay), width(x.erase), width(x.write)];
    widths.iter_mut().zip(wanted).for_each(|(width, wanted)| *width *= usize::from(wanted));
    let faded = if widths[3] > 0 { decay } else { 0 };
    let mut of_tokens = widths.map(|width| buffer::<E>(batch * heads * time * width));
    let of_state = if wanted[6] { d_key * d_value } else { 0 };
    let mut d_state = buffer::<E>(units * of_state);
    {
        let [q, k, v, decays, erase, write] = of_tokens.each_mut().map(|x| Shared::new(x));
        let (to, d_state) =
            (TokenGradients { widths, q, k, v, decay: decays, erase, write }, Shared::new(&mut d_state));
        for_each(units, 3 * x.work(), |unit| {
            let [b, h] = [unit / heads, unit % heads];
            let written = &written[unit * chunks * chunk_rows..][..chunks * chunk_rows];
            let states = &states[unit * (x.spans() + 1) * state..][..(x.spans() + 1) * state];
            let more = [SPAN * state, state, 2 * chunk_rows, readers * key, CHUNK * key, readers * CHUNK, faded];
            let lengths: Vec<usize> = sizes.lengths().into_iter().chain(more).collect();
            with_scratch(&lengths, |mut scratch: Vec<&mut [E]>| {
                let [starts, d_s, rows, d_readers, d_keys, d_weights, fading] =
                    scratch.split_off(9).try_into().expect("seven parts");
                let mut chunk = Chunk::new(sizes, scratch.try_into().expect("parts of a chunk"));
                vectorised(
                    #[inline(always)]
                    || {
                        load_state(d_end, [b, h], d_s, value);
                        for span in (0..x.spans()).rev() {
                            let (first, last) = (span * SPAN, chunks.min((span + 1) * SPAN));
                            let (start, end) = states[span * state..][..2 * state].split_at(state);
                            starts[..state].copy_from_slice(start);
                            for c in first..last - 1 {
                                let (before, after) = starts.split_at_mut((c - first + 1) * state);
                                after[..state].copy_from_slice(&before[(c - first) * state..]);
                                x.load_keys([b, h], c, &mut chunk);
                                chunk.advance(&mut after[..state], &written[c * chunk_rows..][..chunk_rows]);
                            }
                            // The gradient of the decay is anchored anew, so that no error of a sum adds up.
                            let rows_of = end.chunks_exact(value).zip(d_s.chunks_exact(value));
                            match &mut *fading {
                                [fading] => *fading = dot(end, d_s),
                                _ => fading.iter_mut().zip(rows_of).for_each(|(f, (s, d_s))| *f = dot(s, d_s)),
                            }
                            for c in (first..last).rev() {
                                x.load([b, h], c, &mut chunk);
                                load(d_out, [b, h], x.tokens(c), &mut rows[..chunk_rows], value);
                                let before = &starts[(c - first) * state..][..state];
                                let u = &written[c * chunk_rows..][..chunk_rows];
                                let gradients = Gradients { readers: d_readers, keys: d_keys, weights: d_weights };
                                chunk.backward(before, u, rows, d_s, gradients);
                                let from = ChunkGradients { readers: d_readers, keys: d_keys, rows };
                                to.store(&x, [b, h], c, &chunk, from, fading);
                            }
                        }
                        // SAFETY: the state of this head is this unit's own.
                        let d_state = unsafe { d_state.part(unit * of_state, of_state) };
                        store_state(d_s, value, d_state, d_value);
                    },
                );
            });
        });
    }
    let mut gradients = of_tokens
        .into_iter()
        .zip(widths)
        .map(|(values, width)| (width > 0).then(|| output_heads(values, [batch, heads, time, width])));
    let mut next = || gradients.next().expect("six gradients");
    let of_state = wanted[6].then(|| output(d_state, [batch, heads, d_key, d_value]));
    [next(), next(), next(), next(), next(), next(), of_state]
}
