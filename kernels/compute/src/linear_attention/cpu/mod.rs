//! Gated linear attention on the CPU: one head after the other on each thread, chunk after chunk, all of
//! a chunk in cache ([`chunk`]); a few tokens without a tape one by one ([`step`]).
//!
//! The backward runs through the chunks in reverse. Of the forward it has what was written into the
//! state, U, and the states at the start of every [`SPAN`], between which it makes them again.

mod chunk;
mod step;

use crate::cpu::{
    Real, Shared, Strided, buffer, dot, for_each, forwards, output, output_heads, padded, vectorised, with_real,
    with_scratch, zip,
};
use crate::operator::{Operator, Second};
use burn_backend::TensorMetadata;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;
use chunk::{CHUNK, Chunk, Gradients, Sizes};

/// Chunks between two states that are kept.
const SPAN: usize = 4;
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
            let (out, end, kept) = forward::<E>(&inputs, self.tracked);
            self.end.put(end);
            (out, kept.map(|[written, states]| Saved { inputs, written, states }))
        })
    }

    fn backward(&self, saved: Option<Saved>, gradient: FlexTensor, _wanted: [bool; 7]) -> [Option<FlexTensor>; 7] {
        let saved = saved.expect("a forward that knew of its backward");
        let gradient = forwards(gradient);
        let d_end = self.end.gradient().map(forwards);
        with_real!(gradient.dtype(), E => backward::<E>(&saved, &gradient, d_end.as_ref()))
    }
}

/// The inputs as they lie, and the sizes.
struct Views<'a, E> {
    q: Strided<'a, E, 4>,
    k: Strided<'a, E, 4>,
    v: Strided<'a, E, 4>,
    decay: Option<Strided<'a, E, 4>>,
    erase: Option<Strided<'a, E, 4>>,
    write: Option<Strided<'a, E, 4>>,
    batch: usize,
    heads: usize,
    time: usize,
    d_key: usize,
    d_value: usize,
}

impl<'a, E: Real> Views<'a, E> {
    fn of(inputs: &'a [Option<FlexTensor>]) -> Self {
        let view = |i: usize| inputs[i].as_ref().map(Strided::<E, 4>::of);
        let (q, v) = (view(0).expect("queries"), view(2).expect("values"));
        let [batch, heads, time, d_key] = q.shape;
        Self {
            k: view(1).expect("keys"),
            decay: view(3),
            erase: view(4),
            write: view(5),
            batch,
            heads,
            time,
            d_key,
            d_value: v.shape[3],
            q,
            v,
        }
    }

    fn sizes(&self) -> Sizes {
        let key = padded(self.d_key);
        let by_channel = self.decay.is_some_and(|g| g.shape[3] > 1);
        Sizes {
            key,
            value: padded(self.d_value),
            decay: if by_channel { key } else { 1 },
            readers: if self.erase.is_some() { 2 * CHUNK } else { CHUNK },
        }
    }

    fn chunks(&self) -> usize {
        self.time.div_ceil(CHUNK)
    }

    fn spans(&self) -> usize {
        self.chunks().div_ceil(SPAN)
    }

    fn work(&self) -> usize {
        3 * self.batch * self.heads * self.time * self.d_key * self.d_value
    }

    /// The tokens of a chunk.
    fn tokens(&self, chunk: usize) -> std::ops::Range<usize> {
        chunk * CHUNK..self.time.min((chunk + 1) * CHUNK)
    }

    /// Keys and decays of a chunk.
    #[inline(always)]
    fn load_keys(&self, [b, h]: [usize; 2], chunk: usize, to: &mut Chunk<'_, E>) {
        let Sizes { key, decay, .. } = self.sizes();
        load(self.k, [b, h], self.tokens(chunk), to.keys, key);
        to.decays.fill(E::ONE);
        if let Some(g) = self.decay {
            for (t, row) in self.tokens(chunk).zip(to.decays.chunks_exact_mut(decay)) {
                let g = g.row([b, h, t, 0]);
                row.iter_mut().zip(g).for_each(|(decay, g)| *decay = g.exp());
            }
        }
        to.keep();
    }

    /// Keys, decays and readers.
    #[inline(always)]
    fn load(&self, [b, h]: [usize; 2], chunk: usize, to: &mut Chunk<'_, E>) {
        self.load_keys([b, h], chunk, to);
        let Sizes { key, .. } = self.sizes();
        let (queries, erased) = to.readers.split_at_mut(CHUNK * key);
        load(self.q, [b, h], self.tokens(chunk), queries, key);
        if let Some(gate) = self.erase {
            erased.fill(E::ZERO);
            let rows = erased.chunks_exact_mut(key).zip(to.keys.chunks_exact(key));
            for (t, (row, k)) in self.tokens(chunk).zip(rows) {
                let gate = gate.row([b, h, t, 0]);
                gated(&mut row[..self.d_key], &k[..self.d_key], gate, |k, gate| -(k * gate));
            }
        }
        to.meet();
    }

    /// `w ⊙ V`.
    #[inline(always)]
    fn load_values(&self, [b, h]: [usize; 2], chunk: usize, to: &mut [E]) {
        let Sizes { value, .. } = self.sizes();
        load(self.v, [b, h], self.tokens(chunk), to, value);
        if let Some(gate) = self.write.or(self.erase) {
            for (t, row) in self.tokens(chunk).zip(to.chunks_exact_mut(value)) {
                let v = self.v.row([b, h, t, 0]);
                gated(&mut row[..self.d_value], v, gate.row([b, h, t, 0]), |v, gate| v * gate);
            }
        }
    }
}

/// `f` of every number of `from` and its gate, or the one that all have.
#[inline(always)]
fn gated<E: Real>(to: &mut [E], from: &[E], gate: &[E], f: impl Fn(E, E) -> E) {
    if let [gate] = *gate {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = f(*x, gate));
    } else {
        to.iter_mut().zip(from).zip(gate).for_each(|((to, x), gate)| *to = f(*x, *gate));
    }
}

/// Rows of tokens, filled up with zeros to rows of `width` and to a whole chunk.
#[inline(always)]
fn load<E: Real>(
    from: Strided<'_, E, 4>,
    [b, h]: [usize; 2],
    tokens: std::ops::Range<usize>,
    to: &mut [E],
    width: usize,
) {
    let d = from.shape[3];
    let whole = tokens.len() * width;
    for (t, row) in tokens.zip(to.chunks_exact_mut(width)) {
        row[..d].copy_from_slice(from.row([b, h, t, 0]));
        row[d..].fill(E::ZERO);
    }
    to[whole..].fill(E::ZERO);
}

/// A state `[batch, heads, d_key, d_value]`, zeros when absent.
#[inline(always)]
fn load_state<E: Real>(from: Option<Strided<'_, E, 4>>, [b, h]: [usize; 2], to: &mut [E], width: usize) {
    to.fill(E::ZERO);
    if let Some(from) = from {
        for (c, row) in (0..from.shape[2]).zip(to.chunks_exact_mut(width)) {
            row[..from.shape[3]].copy_from_slice(from.row([b, h, c, 0]));
        }
    }
}

#[inline(always)]
fn store_state<E: Real>(from: &[E], width: usize, to: &mut [E], d_value: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(d_value)) {
        to.copy_from_slice(&from[..d_value]);
    }
}

/// The output, the state at the end, and U and the states when `tracked`.
fn forward<E: Real>(
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

/// Gradients of what every token brings, `[batch, time, heads, width]`; nothing of what there is not.
struct TokenGradients<'a, E> {
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
        let Sizes { key, value, decay, .. } = x.sizes();
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
            row(&self.q, d_key).copy_from_slice(&d_q[..d_key]);

            let v = x.v.row([b, h, t, 0]);
            let d_u = &from.rows[(CHUNK + i) * value..][..d_value];
            let gate = x.write.or(x.erase).map(|gate| gate.row([b, h, t, 0]));
            gated(row(&self.v, d_value), d_u, gate.unwrap_or(&[E::ONE]), |d, gate| d * gate);
            if let Some(gate) = x.write {
                through_gate(row(&self.write, gate.shape[3]), d_u, v, E::ONE);
            }
            if let Some(gate) = x.erase {
                let d_erased = &from.readers[erased.clone()];
                fades(fading, &chunk.readers[erased], d_erased, E::ONE);
                let (d_gate, gate) = (row(&self.erase, gate.shape[3]), gate.row([b, h, t, 0]));
                through_gate(d_gate, &d_erased[..d_key], &k[..d_key], -E::ONE);
                if x.write.is_none() {
                    d_gate[0] += dot(d_u, v);
                }
                match gate {
                    [gate] => zip(d_k, d_erased, |d_k, d| d_k - *gate * d),
                    _ => d_k.iter_mut().zip(d_erased).zip(gate).for_each(|((d_k, d), gate)| *d_k -= *gate * *d),
                }
            }
            row(&self.k, d_key).copy_from_slice(&d_k[..d_key]);
            if x.decay.is_some() {
                let width = if decay == 1 { 1 } else { d_key };
                row(&self.decay, width).copy_from_slice(&fading[..width]);
            }
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

fn backward<E: Real>(saved: &Saved, gradient: &FlexTensor, d_end: Option<&FlexTensor>) -> [Option<FlexTensor>; 7] {
    let x = Views::<E>::of(&saved.inputs[..6]);
    let (d_out, d_end) = (Strided::<E, 4>::of(gradient), d_end.map(Strided::<E, 4>::of));
    let Views { batch, heads, time, d_key, d_value, .. } = x;
    let (sizes, chunks, units) = (x.sizes(), x.chunks(), batch * heads);
    let Sizes { key, value, decay, readers } = sizes;
    let (written, states): (&[E], &[E]) = (saved.written.storage(), saved.states.storage());
    let (chunk_rows, state) = (CHUNK * value, sizes.state());
    let width = |x: Option<Strided<'_, E, 4>>| x.map_or(0, |x| x.shape[3]);
    let widths = [d_key, d_key, d_value, width(x.decay), width(x.erase), width(x.write)];
    let mut of_tokens = widths.map(|width| buffer::<E>(batch * heads * time * width));
    let mut d_state = buffer::<E>(units * d_key * d_value);
    {
        let [q, k, v, decays, erase, write] = of_tokens.each_mut().map(|x| Shared::new(x));
        let (to, d_state) = (TokenGradients { q, k, v, decay: decays, erase, write }, Shared::new(&mut d_state));
        for_each(units, 3 * x.work(), |unit| {
            let [b, h] = [unit / heads, unit % heads];
            let written = &written[unit * chunks * chunk_rows..][..chunks * chunk_rows];
            let states = &states[unit * (x.spans() + 1) * state..][..(x.spans() + 1) * state];
            let more = [SPAN * state, state, 2 * chunk_rows, readers * key, CHUNK * key, readers * CHUNK, decay];
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
                        let d_state = unsafe { d_state.part(unit * d_key * d_value, d_key * d_value) };
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
    let of_state = output(d_state, [batch, heads, d_key, d_value]);
    [next(), next(), next(), next(), next(), next(), Some(of_state)]
}
