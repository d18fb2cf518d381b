//! Token after token, as the equation reads: for decoding. The state changes where it lies when nobody
//! else holds it.

use super::views::{Views, gated};
use crate::cpu::{Real, Shared, buffer, for_each, output_heads, vectorised, with_scratch};
use burn_dispatch::backends::flex::FlexTensor;

/// The output and the state after the last token.
pub fn run<E: Real>(inputs: &[Option<FlexTensor>; 6], state: Option<FlexTensor>) -> (FlexTensor, FlexTensor) {
    let x = Views::<E>::of(inputs);
    let Views { batch, heads, time, d_key, d_value, .. } = x;
    let of_head = d_key * d_value;
    let mut state = match state {
        None => FlexTensor::zeros([batch, heads, d_key, d_value].into(), E::dtype()),
        Some(state) if state.is_contiguous() => state,
        Some(state) => state.to_contiguous(),
    };
    let mut out = buffer::<E>(batch * time * heads * d_value);
    {
        let start = state.layout().start_offset();
        let states = Shared::new(&mut state.storage_mut::<E>()[start..]);
        let out = Shared::new(&mut out);
        for_each(batch * heads, x.work(), |unit| {
            let [b, h] = [unit / heads, unit % heads];
            // SAFETY: the state of this head is this unit's own.
            let state = unsafe { states.part(unit * of_head, of_head) };
            with_scratch(&[d_value], |mut scratch: Vec<&mut [E]>| {
                for t in 0..time {
                    // SAFETY: so are its rows of the output.
                    let out = unsafe { out.part(((b * time + t) * heads + h) * d_value, d_value) };
                    vectorised(
                        #[inline(always)]
                        || x.step([b, h, t], state, scratch[0], out),
                    );
                }
            });
        });
    }
    (output_heads(out, [batch, heads, time, d_value]), state)
}

impl<E: Real> Views<'_, E> {
    #[inline(always)]
    fn step(&self, [b, h, t]: [usize; 3], state: &mut [E], new: &mut [E], out: &mut [E]) {
        let at = [b, h, t, 0];
        let (q, k, v) = (self.q.row(at), self.k.row(at), self.v.row(at));
        match self.write.or(self.erase) {
            Some(gate) => gated(new, v, gate.row(at), |v, gate| v * gate),
            None => new.copy_from_slice(v),
        }
        if let Some(g) = self.decay.map(|g| g.row(at)) {
            for (c, s) in state.chunks_exact_mut(self.d_value).enumerate() {
                let decay = g[c % g.len()].exp();
                s.iter_mut().for_each(|s| *s *= decay);
            }
        }
        if let Some(gate) = self.erase.map(|gate| gate.row(at)) {
            for (c, s) in state.chunks_exact(self.d_value).enumerate() {
                let erased = gate[c % gate.len()] * k[c];
                new.iter_mut().zip(s).for_each(|(new, s)| *new -= erased * *s);
            }
        }
        out.fill(E::ZERO);
        for (c, s) in state.chunks_exact_mut(self.d_value).enumerate() {
            let (q, k) = (q[c], k[c]);
            for ((s, new), out) in s.iter_mut().zip(&*new).zip(&mut *out) {
                *s += k * *new;
                *out += q * *s;
            }
        }
    }
}
