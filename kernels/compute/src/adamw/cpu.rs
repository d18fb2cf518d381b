//! One pass over a parameter, its gradient and its moments; one over all gradients.

use super::Update;
use crate::cpu::{Real, Shared, buffer, dot, for_each, output, vectorised, with_real};
use burn_dispatch::backends::flex::FlexTensor;

/// Numbers that a thread takes at a time.
const PART: usize = 16_384;

pub fn adamw(
    weight: FlexTensor,
    gradient: FlexTensor,
    moments: Option<[FlexTensor; 2]>,
    update: Update,
) -> (FlexTensor, [FlexTensor; 2]) {
    with_real!(weight.dtype(), E => run::<E>(weight, gradient, moments, update))
}

/// In order; as before the only holder of its memory if it was.
fn in_order(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

fn run<E: Real>(
    weight: FlexTensor,
    gradient: FlexTensor,
    moments: Option<[FlexTensor; 2]>,
    update: Update,
) -> (FlexTensor, [FlexTensor; 2]) {
    let (mut weight, gradient) = (in_order(weight), in_order(gradient));
    let g: &[E] = gradient.storage();
    let count = g.len();
    let zeros = || output(vec![E::ZERO; count], [count]);
    let [mut first, mut second] = moments.map_or_else(|| [zeros(), zeros()], |moments| moments.map(in_order));
    {
        // Copies what somebody else holds.
        let [w, m, v] = [&mut weight, &mut first, &mut second].map(|x| Shared::new(x.storage_mut::<E>()));
        for_each(count.div_ceil(PART), 8 * count, |part| {
            let (start, length) = (part * PART, PART.min(count - part * PART));
            // SAFETY: every part is one unit's own.
            let [w, m, v] = [w, m, v].map(|x| unsafe { x.part(start, length) });
            vectorised(
                #[inline(always)]
                || step(w, &g[start..start + length], m, v, update),
            );
        });
    }
    (weight, [first, second])
}

#[inline(always)]
fn step<E: Real>(w: &mut [E], g: &[E], m: &mut [E], v: &mut [E], update: Update) {
    let Update { betas: [beta1, beta2], scale, keep, size, spread, epsilon } = update;
    let [old1, new1, old2, new2] = [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(E::of);
    let [scale, keep, size, spread, epsilon] = [scale, keep, size, spread, epsilon].map(E::of);
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = *g * scale;
        *m = old1 * *m + new1 * g;
        *v = old2 * *v + new2 * g * g;
        *w = keep * *w - size * *m / (spread * v.sqrt() + epsilon);
    }
}

pub fn squares(tensors: Vec<FlexTensor>) -> FlexTensor {
    let tensors: Vec<_> = tensors.into_iter().map(in_order).collect();
    with_real!(tensors[0].dtype(), E => sums::<E>(&tensors))
}

fn sums<E: Real>(tensors: &[FlexTensor]) -> FlexTensor {
    let all: Vec<&[E]> = tensors.iter().map(|x| x.storage()).collect();
    let parts: Vec<(usize, &[E])> =
        all.iter().enumerate().flat_map(|(i, x)| x.chunks(PART).map(move |part| (i, part))).collect();
    let mut of_parts = buffer::<E>(parts.len());
    {
        let of_parts = Shared::new(&mut of_parts);
        let work = all.iter().map(|x| x.len()).sum();
        for_each(parts.len(), work, |unit| {
            let (_, part) = parts[unit];
            // SAFETY: the sum of this unit.
            let sum = unsafe { &mut of_parts.part(unit, 1)[0] };
            vectorised(
                #[inline(always)]
                || *sum = dot(part, part),
            );
        });
    }
    let mut totals = vec![0.0; all.len()];
    parts.iter().zip(of_parts).for_each(|((tensor, _), sum)| totals[*tensor] += sum.to_f64());
    output(totals.into_iter().map(E::of).collect(), [all.len()])
}
