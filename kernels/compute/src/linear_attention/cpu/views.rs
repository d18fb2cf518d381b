//! The inputs as they lie, and how a chunk of them is loaded.

use super::chunk::{CHUNK, Chunk, Sizes};
use crate::cpu::{Real, Strided, padded};
use burn_dispatch::backends::flex::FlexTensor;
use std::ops::Range;

/// Chunks between two states that are kept.
pub const SPAN: usize = 4;

/// The inputs as they lie, and the sizes.
pub struct Views<'a, E> {
    pub q: Strided<'a, E, 4>,
    pub k: Strided<'a, E, 4>,
    pub v: Strided<'a, E, 4>,
    pub decay: Option<Strided<'a, E, 4>>,
    pub erase: Option<Strided<'a, E, 4>>,
    pub write: Option<Strided<'a, E, 4>>,
    pub batch: usize,
    pub heads: usize,
    pub time: usize,
    pub d_key: usize,
    pub d_value: usize,
}

impl<'a, E: Real> Views<'a, E> {
    pub fn of(inputs: &'a [Option<FlexTensor>]) -> Self {
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

    pub fn sizes(&self) -> Sizes {
        let key = padded(self.d_key);
        let by_channel = self.decay.is_some_and(|g| g.shape[3] > 1);
        Sizes {
            key,
            value: padded(self.d_value),
            decay: if by_channel { key } else { 1 },
            readers: if self.erase.is_some() { 2 * CHUNK } else { CHUNK },
        }
    }

    pub fn chunks(&self) -> usize {
        self.time.div_ceil(CHUNK)
    }

    pub fn spans(&self) -> usize {
        self.chunks().div_ceil(SPAN)
    }

    pub fn work(&self) -> usize {
        3 * self.batch * self.heads * self.time * self.d_key * self.d_value
    }

    /// The tokens of a chunk.
    pub fn tokens(&self, chunk: usize) -> Range<usize> {
        chunk * CHUNK..self.time.min((chunk + 1) * CHUNK)
    }

    /// Keys and decays of a chunk.
    #[inline(always)]
    pub fn load_keys(&self, [b, h]: [usize; 2], chunk: usize, to: &mut Chunk<'_, E>) {
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
    pub fn load(&self, [b, h]: [usize; 2], chunk: usize, to: &mut Chunk<'_, E>) {
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
    pub fn load_values(&self, [b, h]: [usize; 2], chunk: usize, to: &mut [E]) {
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
pub fn gated<E: Real>(to: &mut [E], from: &[E], gate: &[E], f: impl Fn(E, E) -> E) {
    if let [gate] = *gate {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = f(*x, gate));
    } else {
        to.iter_mut().zip(from).zip(gate).for_each(|((to, x), gate)| *to = f(*x, *gate));
    }
}

/// Rows of tokens, filled up with zeros to rows of `width` and to a whole chunk.
#[inline(always)]
pub fn load<E: Real>(from: Strided<'_, E, 4>, [b, h]: [usize; 2], tokens: Range<usize>, to: &mut [E], width: usize) {
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
pub fn load_state<E: Real>(from: Option<Strided<'_, E, 4>>, [b, h]: [usize; 2], to: &mut [E], width: usize) {
    to.fill(E::ZERO);
    if let Some(from) = from {
        for (c, row) in (0..from.shape[2]).zip(to.chunks_exact_mut(width)) {
            row[..from.shape[3]].copy_from_slice(from.row([b, h, c, 0]));
        }
    }
}

#[inline(always)]
pub fn store_state<E: Real>(from: &[E], width: usize, to: &mut [E], d_value: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(d_value)) {
        to.copy_from_slice(&from[..d_value]);
    }
}
