//! Attention in tiles of a few query rows against all the keys they see. A tile's weights live in
//! cache; the backward makes them again from the saved logarithm of every row's sum.
//!
//! Differential attention is the same with two maps: `A = A₁ − λ A₂` in the tile, then one product
//! with the values.

use super::rows::{Head, Tile};
use crate::cpu::{
    Mat, MatMut, Real, Shared, Strided, buffer, dot, for_each, forwards, output, output_heads, product, vectorised,
    with_real, with_scratch,
};
use crate::operator::Operator;
use burn_backend::TensorMetadata;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// Options that are not tensors. The inputs are `q, k, v, bias, sink, lambda, gate`; there are two
/// maps where there is a λ.
#[derive(Clone, Debug)]
pub struct Attend {
    pub scale: f64,
    pub window: Option<usize>,
    pub softcap: Option<f64>,
    pub slopes: Option<Vec<f64>>,
    pub sigmoid: bool,
}

#[derive(Clone, Debug)]
pub struct Saved {
    inputs: [Option<FlexTensor>; 7],
    /// `[batch, maps · heads, time]`.
    lse: FlexTensor,
    /// The output before the gate, where there is one.
    ungated: Option<FlexTensor>,
}

impl Operator<Flex, 7> for Attend {
    type Saved = Saved;

    fn forward(&self, inputs: [Option<FlexTensor>; 7]) -> (FlexTensor, Saved) {
        let inputs = inputs.map(|x| x.map(forwards));
        let dtype = inputs[0].as_ref().expect("queries").dtype();
        with_real!(dtype, E => forward::<E>(self, inputs))
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, wanted: [bool; 7]) -> [Option<FlexTensor>; 7] {
        let gradient = forwards(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(self, &saved, &gradient, wanted))
    }
}

/// The inputs as they lie, and the sizes.
struct Views<'a, E> {
    q: Strided<'a, E, 4>,
    k: Strided<'a, E, 4>,
    v: Strided<'a, E, 4>,
    bias: Option<Strided<'a, E, 4>>,
    sink: Option<Strided<'a, E, 4>>,
    lambda: Option<Strided<'a, E, 4>>,
    gate: Option<Strided<'a, E, 4>>,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    maps: usize,
    time: usize,
    source: usize,
    d: usize,
    d_value: usize,
}

impl<'a, E: Real> Views<'a, E> {
    fn of(inputs: &'a [Option<FlexTensor>; 7]) -> Self {
        let [q, k, v, bias, sink, lambda, gate] = inputs.each_ref().map(|x| x.as_ref().map(Strided::<E, 4>::of));
        let (q, k, v) = (q.expect("queries"), k.expect("keys"), v.expect("values"));
        let [batch, q_heads, time, d] = q.shape;
        let [_, kv_heads, source, d_value] = v.shape;
        let maps = if lambda.is_some() { 2 } else { 1 };
        let heads = q_heads / maps;
        let to = |x: Option<Strided<'a, E, 4>>, last: usize| x.map(|x| x.broadcast([batch, heads, time, last]));
        Self {
            bias: to(bias, source),
            sink: to(sink, 1),
            lambda: to(lambda, 1),
            gate: to(gate, d_value),
            q,
            k,
            v,
            batch,
            heads,
            kv_heads,
            maps,
            time,
            source,
            d,
            d_value,
        }
    }

    fn key_head(&self, head: usize, map: usize) -> usize {
        let key_maps = self.k.shape[1] / self.kv_heads;
        self.group(head) * key_maps + map % key_maps
    }

    /// The key and value head of a query head.
    fn group(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    fn head(&self, options: &Attend, batch: usize, head: usize) -> Head<'a, E> {
        Head {
            softcap: options.softcap.map(E::of),
            bias: self.bias.map(|bias| (bias, [batch, head])),
            slope: options.slopes.as_ref().map(|slopes| E::of(slopes[head])),
            sigmoid: options.sigmoid,
        }
    }

    fn tile(&self, options: &Attend, block: usize) -> Tile {
        let (first, offset) = (block * self.block(), self.source - self.time);
        let rows = self.block().min(self.time - first);
        let from = options.window.map_or(0, |window| (offset + first + 1).saturating_sub(window));
        Tile { first, rows, keys: (from, offset + first + rows), offset, window: options.window }
    }

    /// Rows of a tile: as many as keep it in cache.
    fn block(&self) -> usize {
        (131_072 / self.source.max(1)).clamp(16, 64)
    }

    fn blocks(&self) -> usize {
        self.time.div_ceil(self.block())
    }

    fn work(&self) -> usize {
        self.batch * self.heads * self.time * self.source * (self.d + self.d_value)
    }

    /// `q kᵀ · scale` of a tile.
    fn products(&self, options: &Attend, tile: &Tile, [b, h, map]: [usize; 3], scores: &mut [E]) {
        let q = self.q.matrix([b, h * self.maps + map, tile.first, 0]).rows(0, tile.rows);
        let k = self.k.matrix([b, self.key_head(h, map), tile.keys.0, 0]).rows(0, tile.width());
        product(MatMut::dense(scores, tile.rows, tile.width()), E::ZERO, E::of(options.scale), q, k.transposed());
    }

    fn values(&self, tile: &Tile, b: usize, h: usize) -> Mat<'a, E> {
        self.v.matrix([b, self.group(h), tile.keys.0, 0]).rows(0, tile.width())
    }
}

fn forward<E: Real>(options: &Attend, inputs: [Option<FlexTensor>; 7]) -> (FlexTensor, Saved) {
    let x = Views::<E>::of(&inputs);
    let Views { batch, heads, maps, time, d_value, .. } = x;
    let mut out = buffer::<E>(batch * time * heads * d_value);
    let mut ungated = x.gate.map(|_| buffer::<E>(out.len()));
    let mut lse = buffer::<E>(batch * maps * heads * time);
    if options.sigmoid {
        lse.fill(E::ZERO);
    }
    {
        let (out, lse) = (Shared::new(&mut out), Shared::new(&mut lse));
        let ungated = ungated.as_mut().map(|ungated| Shared::new(ungated));
        let blocks = x.blocks();
        for_each(batch * heads * blocks, x.work(), |unit| {
            // The long rows first, so that no thread is left with one at the end.
            let (b, h, block) = (unit / blocks / heads, unit / blocks % heads, blocks - 1 - unit % blocks);
            let tile = x.tile(options, block);
            let (size, rows) = (tile.rows * tile.width(), tile.rows);
            with_scratch::<E, _>(&[size, if maps == 2 { size } else { 0 }, rows, rows], |mut scratch| {
                let [scores, second, inverse, inverse2] = &mut scratch[..] else { unreachable!() };
                let head = x.head(options, b, h);
                let sink = |t| x.sink.map(|sink| sink.at([b, h, t, 0]));
                for map in 0..maps {
                    let (scores, inverse) =
                        if map == 0 { (&mut *scores, &mut *inverse) } else { (&mut *second, &mut *inverse2) };
                    x.products(options, &tile, [b, h, map], scores);
                    // SAFETY: the rows of this tile of this map are this unit's own.
                    let lse = unsafe { lse.part(((b * heads + h) * maps + map) * time + tile.first, rows) };
                    vectorised(
                        #[inline(always)]
                        || tile.weights(&head, scores, sink, lse, inverse),
                    );
                }
                if let Some(lambda) = x.lambda {
                    let lambda = |i: usize| lambda.at([b, h, tile.first + i, 0]);
                    vectorised(
                        #[inline(always)]
                        || {
                            let width = tile.width();
                            let second = second.chunks_exact(width).zip(&**inverse2);
                            for (i, (row, (row2, inverse2))) in scores.chunks_exact_mut(width).zip(second).enumerate() {
                                let (one, two) = (inverse[i], lambda(i) * *inverse2);
                                row.iter_mut().zip(row2).for_each(|(a, b)| *a = one * *a - two * *b);
                                inverse[i] = E::ONE;
                            }
                        },
                    );
                }
                let weights = Mat::dense(scores, rows, tile.width());
                let start = ((b * time + tile.first) * heads + h) * d_value;
                let place = |memory: &Shared<'_, E>| {
                    // SAFETY: rows of one head, which are this unit's own and end before the memory does.
                    unsafe { MatMut::from_raw(memory.at(start), [rows, d_value], [heads * d_value, 1]) }
                };
                let mut plain = place(ungated.as_ref().unwrap_or(&out));
                product(plain.reborrow(), E::ZERO, E::ONE, weights, x.values(&tile, b, h));
                let mut gated = x.gate.map(|gate| (gate, place(&out)));
                vectorised(
                    #[inline(always)]
                    || {
                        for i in 0..rows {
                            let inverse = inverse[i];
                            let row = plain.row(i);
                            row.iter_mut().for_each(|o| *o *= inverse);
                            if let Some((gate, gated)) = &mut gated {
                                let t = tile.first + i;
                                gate_row(*gate, [b, h, t], row, gated.row(i));
                            }
                        }
                    },
                );
            });
        });
    }
    let shape = [batch, heads, time, d_value];
    let saved = Saved {
        lse: output(lse, [batch, maps * heads, time]),
        ungated: ungated.map(|ungated| output_heads(ungated, shape)),
        inputs,
    };
    (output_heads(out, shape), saved)
}

/// `to = gate ∘ from`.
#[inline(always)]
fn gate_row<E: Real>(gate: Strided<'_, E, 4>, [b, h, t]: [usize; 3], from: &[E], to: &mut [E]) {
    if gate.strides[3] == 1 {
        let gate = gate.run([b, h, t, 0], from.len());
        to.iter_mut().zip(from).zip(gate).for_each(|((to, from), gate)| *to = *from * *gate);
    } else {
        let gate = gate.at([b, h, t, 0]);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from * gate);
    }
}

fn backward<E: Real>(
    options: &Attend,
    saved: &Saved,
    gradient: &FlexTensor,
    wanted: [bool; 7],
) -> [Option<FlexTensor>; 7] {
    let x = Views::<E>::of(&saved.inputs);
    let Views { batch, heads, kv_heads, maps, time, source, d, d_value, .. } = x;
    let [.., want_bias, want_sink, want_lambda, want_gate] = wanted;
    let shape = [batch, heads, time, d_value];
    // What reaches the output before the gate.
    let (gradient, d_gate) = match (&saved.ungated, x.gate) {
        (Some(ungated), Some(gate)) => {
            let (d_out, d_gate) =
                through_gate::<E>(Strided::of(gradient), Strided::of(ungated), gate, want_gate, gate_width(saved));
            (output_heads(d_out, shape), d_gate)
        }
        _ => (gradient.clone(), None),
    };
    let d_out = Strided::<E, 4>::of(&gradient);
    let lse: &[E] = saved.lse.storage();

    let key_heads = x.k.shape[1];
    // Threads that there are too few groups for share a group's queries and sum their parts.
    let (blocks, groups) = (x.blocks(), batch * kv_heads);
    let parts = rayon::current_num_threads().div_ceil(groups.max(1)).min(blocks).max(1);
    let mut d_q = buffer::<E>(batch * time * heads * maps * d);
    let mut d_k: Vec<Vec<E>> = (0..parts).map(|_| vec![E::ZERO; batch * source * key_heads * d]).collect();
    let mut d_v: Vec<Vec<E>> = (0..parts).map(|_| vec![E::ZERO; batch * source * kv_heads * d_value]).collect();
    let per_row = |want: bool| if want { buffer::<E>(batch * heads * time) } else { Vec::new() };
    let (mut d_sink, mut d_lambda) = (per_row(want_sink), per_row(want_lambda));
    let mut d_bias = if want_bias { vec![E::ZERO; batch * heads * time * source] } else { Vec::new() };
    {
        let d_q = Shared::new(&mut d_q);
        let d_k: Vec<_> = d_k.iter_mut().map(|x| Shared::new(x)).collect();
        let d_v: Vec<_> = d_v.iter_mut().map(|x| Shared::new(x)).collect();
        let (d_sink, d_lambda, d_bias) =
            (Shared::new(&mut d_sink), Shared::new(&mut d_lambda), Shared::new(&mut d_bias));
        for_each(groups * parts, 3 * x.work(), |unit| {
            let (b, group, part) = (unit / parts / kv_heads, unit / parts % kv_heads, unit % parts);
            let share = heads / kv_heads;
            for (h, block) in (group * share..(group + 1) * share)
                .flat_map(|h| (part..blocks).step_by(parts).map(move |block| (h, block)))
            {
                let tile = x.tile(options, block);
                let (rows, width) = (tile.rows, tile.width());
                let size = rows * width;
                let more = if maps == 2 { size } else { 0 };
                let cap = if options.softcap.is_some() { size } else { 0 };
                with_scratch::<E, _>(&[size, more, size, size, cap, rows, rows, rows], |mut scratch| {
                    let [one, two, d_weights, d_scores, kept, factors, sums, negative] = &mut scratch[..] else {
                        unreachable!()
                    };
                    let head = x.head(options, b, h);
                    let lse = |map: usize| &lse[((b * heads + h) * maps + map) * time + tile.first..][..rows];
                    let d_rows = d_out.matrix([b, h, tile.first, 0]).rows(0, rows);
                    product(
                        MatMut::dense(d_weights, rows, width),
                        E::ZERO,
                        E::ONE,
                        d_rows,
                        x.values(&tile, b, h).transposed(),
                    );
                    factors.fill(E::ONE);
                    if let Some(lambda) = x.lambda {
                        negative.iter_mut().enumerate().for_each(|(i, n)| *n = -lambda.at([b, h, tile.first + i, 0]));
                    }
                    let row = (b * heads + h) * time + tile.first;
                    for map in 0..maps {
                        let (weights, factors): (&mut [E], &[E]) =
                            if map == 0 { (one, factors) } else { (two, negative) };
                        x.products(options, &tile, [b, h, map], weights);
                        vectorised(
                            #[inline(always)]
                            || {
                                tile.weights_again(&head, weights, lse(map), kept);
                                tile.score_gradients(options.sigmoid, weights, d_weights, factors, d_scores, sums);
                            },
                        );
                        if want_bias {
                            for i in 0..rows {
                                // SAFETY: the row of this query of this head is this unit's own.
                                let d_bias = unsafe { d_bias.part((row + i) * source + tile.keys.0, width) };
                                d_bias.iter_mut().zip(&d_scores[i * width..]).for_each(|(d, s)| *d += *s);
                            }
                        }
                        if let (true, Some(sink)) = (want_sink, x.sink) {
                            // SAFETY: as above.
                            let d_sink = unsafe { d_sink.part(row, rows) };
                            for i in 0..rows {
                                let weight = (sink.at([b, h, tile.first + i, 0]) - lse(map)[i]).exp();
                                d_sink[i] = -weight * sums[i];
                            }
                        }
                        if want_lambda && map == 1 {
                            // SAFETY: as above.
                            let d_lambda = unsafe { d_lambda.part(row, rows) };
                            d_lambda.iter_mut().zip(&**sums).for_each(|(d, s)| *d = -*s);
                        }
                        if options.softcap.is_some() {
                            vectorised(
                                #[inline(always)]
                                || tile.through_cap(d_scores, kept),
                            );
                        }
                        let d_scores = Mat::dense(d_scores, rows, width);
                        let (q_head, k_head) = (h * maps + map, x.key_head(h, map));
                        let q = x.q.matrix([b, q_head, tile.first, 0]).rows(0, rows);
                        let k = x.k.matrix([b, k_head, tile.keys.0, 0]).rows(0, width);
                        let scale = E::of(options.scale);
                        // SAFETY: rows of the queries of this unit, and the keys of its part.
                        let (d_q, d_k) = unsafe {
                            let at = ((b * time + tile.first) * heads * maps + q_head) * d;
                            let d_q = MatMut::from_raw(d_q.at(at), [rows, d], [heads * maps * d, 1]);
                            let at = ((b * source + tile.keys.0) * key_heads + k_head) * d;
                            (d_q, MatMut::from_raw(d_k[part].at(at), [width, d], [key_heads * d, 1]))
                        };
                        product(d_q, E::ZERO, scale, d_scores, k);
                        product(d_k, E::ONE, scale, d_scores.transposed(), q);
                    }
                    if maps == 2 {
                        vectorised(
                            #[inline(always)]
                            || {
                                let second = two.chunks_exact(width).zip(&**negative);
                                for (row, (row2, negative)) in one.chunks_exact_mut(width).zip(second) {
                                    row.iter_mut().zip(row2).for_each(|(a, b)| *a += *negative * *b);
                                }
                            },
                        );
                    }
                    // SAFETY: the values of this unit's part.
                    let d_v = unsafe {
                        let at = ((b * source + tile.keys.0) * kv_heads + group) * d_value;
                        MatMut::from_raw(d_v[part].at(at), [width, d_value], [kv_heads * d_value, 1])
                    };
                    product(d_v, E::ONE, E::ONE, Mat::dense(one, rows, width).transposed(), d_rows);
                });
            }
        });
    }
    let summed = |parts: Vec<Vec<E>>| {
        let mut parts = parts.into_iter();
        let mut sum = parts.next().expect("at least one part");
        parts.for_each(|part| sum.iter_mut().zip(part).for_each(|(a, b)| *a += b));
        sum
    };
    let reduced = |want: bool, full: Vec<E>, last: usize, input: usize| {
        want.then(|| {
            reduce(
                full,
                [batch, heads, time, last],
                saved.inputs[input].as_ref().expect("an input that wants a gradient"),
            )
        })
    };
    [
        Some(output_heads(d_q, [batch, heads * maps, time, d])),
        Some(output_heads(summed(d_k), [batch, key_heads, source, d])),
        Some(output_heads(summed(d_v), [batch, kv_heads, source, d_value])),
        reduced(want_bias, d_bias, source, 3),
        reduced(want_sink, d_sink, 1, 4),
        reduced(want_lambda, d_lambda, 1, 5),
        d_gate.map(|full| {
            reduce(full, [batch, heads, time, gate_width(saved)], saved.inputs[6].as_ref().expect("a gate"))
        }),
    ]
}

/// Channels of the gate: 1 where a head has one.
fn gate_width(saved: &Saved) -> usize {
    saved.inputs[6].as_ref().map_or(1, |gate| gate.layout().shape()[3])
}

/// `d_out ∘ gate`, as `[batch, time, heads, d_value]`, and `d_out ∘ out` (summed over channels where the
/// gate has one) in the order of the axes.
fn through_gate<E: Real>(
    d_out: Strided<'_, E, 4>,
    out: Strided<'_, E, 4>,
    gate: Strided<'_, E, 4>,
    want_gate: bool,
    width: usize,
) -> (Vec<E>, Option<Vec<E>>) {
    let [batch, heads, time, d_value] = d_out.shape;
    let mut before = buffer::<E>(batch * time * heads * d_value);
    let mut d_gate = want_gate.then(|| buffer::<E>(batch * heads * time * width));
    {
        let before = Shared::new(&mut before);
        let d_gate = d_gate.as_mut().map(|d| Shared::new(d));
        for_each(batch * time, batch * time * heads * d_value, |row| {
            let (b, t) = (row / time, row % time);
            vectorised(
                #[inline(always)]
                || {
                    for h in 0..heads {
                        let d_row = d_out.run([b, h, t, 0], d_value);
                        // SAFETY: the rows of this token are this unit's own.
                        let to = unsafe { before.part((row * heads + h) * d_value, d_value) };
                        gate_row(gate, [b, h, t], d_row, to);
                        let Some(d_gate) = &d_gate else { continue };
                        let out = out.run([b, h, t, 0], d_value);
                        // SAFETY: as above.
                        let d_gate = unsafe { d_gate.part(((b * heads + h) * time + t) * width, width) };
                        if width == d_value {
                            d_gate.iter_mut().zip(d_row).zip(out).for_each(|((g, d), o)| *g = *d * *o);
                        } else {
                            d_gate[0] = dot(d_row, out);
                        }
                    }
                },
            );
        });
    }
    (before, d_gate)
}

/// `full` summed over the axes along which `input` is broadcast.
fn reduce<E: Real>(full: Vec<E>, shape: [usize; 4], input: &FlexTensor) -> FlexTensor {
    let to: [usize; 4] = input.shape().as_slice().try_into().expect("a tensor of four axes");
    if to == shape {
        return output(full, shape);
    }
    let mut sum = vec![E::ZERO; to.iter().product()];
    let mut values = full.into_iter();
    for a in 0..shape[0] {
        for b in 0..shape[1] {
            for c in 0..shape[2] {
                for d in 0..shape[3] {
                    let at = |i: usize, axis: usize| if to[axis] == 1 { 0 } else { i };
                    let place = ((at(a, 0) * to[1] + at(b, 1)) * to[2] + at(c, 2)) * to[3] + at(d, 3);
                    sum[place] += values.next().expect("as many numbers as the shape has");
                }
            }
        }
    }
    output(sum, to)
}
