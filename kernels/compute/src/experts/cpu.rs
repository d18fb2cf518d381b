//! The places of all tokens in the order of their experts: every expert works on one run of rows, in
//! tiles that threads share out, and no row is padded, masked or worked on twice.

use super::Routing;
use super::reference::numbers;
use crate::cpu::{
    Mat, MatMut, Real, Shared, Strided, as_rows, buffer, dot, for_each, forwards, output, product, vectorised,
    with_real, with_scratch,
};
use crate::operator::Operator;
use burn::tensor::Tensor;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;
use std::ops::Range;

/// Without sorting all: the largest so far in order, into which few come.
pub fn route(shares: Tensor<2>, per_token: usize) -> Vec<i32> {
    let [_, experts] = shares.dims();
    let mut chosen = Vec::with_capacity(per_token * shares.dims()[0]);
    for row in numbers(shares).chunks(experts) {
        let mut best: Vec<(f64, i32)> = Vec::with_capacity(per_token + 1);
        for (&share, expert) in row.iter().zip(0..) {
            let place = best.partition_point(|(other, _)| *other >= share);
            if place < per_token {
                best.insert(place, (share, expert));
                best.truncate(per_token);
            }
        }
        chosen.extend(best.into_iter().map(|(_, expert)| expert));
    }
    chosen
}

/// The inputs are `x, weights`, and the gates, ups and downs of all experts. Those that see no token are not read.
#[derive(Clone, Debug)]
pub struct Experts(pub Routing);

#[derive(Clone, Debug)]
pub struct Saved {
    weights: FlexTensor,
    /// Gates, ups and downs.
    matrices: [FlexTensor; 3],
    /// Of every place: the token, the gate and the other half before their product, and the output.
    rows: FlexTensor,
    gate: FlexTensor,
    up: FlexTensor,
    worked: FlexTensor,
}

/// Rows in a tile: every tile packs the matrices of its expert again, so not too few.
const TILE: usize = 256;

/// Runs of at most `TILE` rows `(expert, first, end)`.
fn tiles(routing: &Routing) -> Vec<(usize, usize, usize)> {
    let of = |(e, rows): (usize, Range<usize>)| {
        let end = rows.end;
        rows.step_by(TILE).map(move |start| (e, start, end.min(start + TILE)))
    };
    routing.busy().flat_map(of).collect()
}

/// `Σ` over the places of every token of `factor · row`.
fn gather<E: Real>(routing: &Routing, rows: &[E], d: usize, factor: impl Fn(usize) -> E + Sync) -> FlexTensor {
    let (back, k) = (routing.back(), routing.per_token);
    let tokens = back.len() / k;
    let mut out = buffer::<E>(tokens * d);
    {
        let out = Shared::new(&mut out);
        for_each(tokens.div_ceil(TILE), tokens * k * d, |unit| {
            for t in unit * TILE..tokens.min((unit + 1) * TILE) {
                // SAFETY: the row of one token.
                let sum = unsafe { out.part(t * d, d) };
                sum.fill(E::ZERO);
                for place in t * k..(t + 1) * k {
                    let row = &rows[back[place] * d..][..d];
                    let factor = factor(place);
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * *x);
                }
            }
        });
    }
    output(out, [tokens, d])
}

impl Operator<Flex, 5> for Experts {
    type Saved = Saved;

    fn forward(&self, inputs: [Option<FlexTensor>; 5]) -> (FlexTensor, Saved) {
        let [x, weights, gate, up, down] = inputs.map(|x| x.expect("tokens, weights and matrices"));
        let (x, weights, matrices) = (as_rows(x), as_rows(weights), [gate, up, down].map(forwards));
        with_real!(x.dtype(), E => forward::<E>(&self.0, &x, weights, matrices))
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, wanted: [bool; 5]) -> [Option<FlexTensor>; 5] {
        let gradient = as_rows(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(&self.0, &saved, Strided::of(&gradient), wanted))
    }
}

fn forward<E: Real>(
    routing: &Routing,
    x: &FlexTensor,
    weights: FlexTensor,
    matrices: [FlexTensor; 3],
) -> (FlexTensor, Saved) {
    let x = Strided::<E, 2>::of(x);
    let stacks = matrices.each_ref().map(Strided::<E, 3>::of);
    let ([_, d], count, [_, width, _]) = (x.shape, routing.places.len(), stacks[0].shape);
    let [mut rows, mut worked] = [(); 2].map(|()| buffer::<E>(count * d));
    let [mut gate, mut up] = [(); 2].map(|()| buffer::<E>(count * width));
    {
        let [rows, worked, gate, up] = [&mut rows, &mut worked, &mut gate, &mut up].map(|x| Shared::new(x));
        let tiles = tiles(routing);
        for_each(tiles.len(), 3 * count * d * width, |unit| {
            let (e, from, to) = tiles[unit];
            let [w_gate, w_up, w_down] = stacks.map(|stack| stack.matrix([e, 0, 0]));
            let n = to - from;
            // SAFETY: the rows of this tile.
            let [rows, worked] = [rows, worked].map(|x| unsafe { x.part(from * d, n * d) });
            let [gate, up] = [gate, up].map(|x| unsafe { x.part(from * width, n * width) });
            for (row, place) in rows.chunks_exact_mut(d).zip(&routing.places[from..to]) {
                row.copy_from_slice(x.run([place / routing.per_token, 0], d));
            }
            let rows = Mat::dense(rows, n, d);
            product(MatMut::dense(gate, n, width), E::ZERO, E::ONE, rows, w_gate.transposed());
            product(MatMut::dense(up, n, width), E::ZERO, E::ONE, rows, w_up.transposed());
            with_scratch::<E, _>(&[n * width], |mut scratch| {
                let hidden = &mut *scratch[0];
                vectorised(
                    #[inline(always)]
                    || {
                        let pairs = gate.iter().zip(&*up);
                        hidden.iter_mut().zip(pairs).for_each(|(h, (g, u))| *h = g.silu() * *u);
                    },
                );
                let hidden = Mat::dense(hidden, n, width);
                product(MatMut::dense(worked, n, d), E::ZERO, E::ONE, hidden, w_down.transposed());
            });
        });
    }
    let by = Strided::<E, 2>::of(&weights);
    let k = routing.per_token;
    let out = gather(routing, &worked, d, |place| by.at([place / k, place % k]));
    let [rows, worked] = [rows, worked].map(|x| output(x, [count, d]));
    let [gate, up] = [gate, up].map(|x| output(x, [count, width]));
    (out, Saved { weights, matrices, rows, gate, up, worked })
}

/// The gradients of the inputs that are `wanted`, those of matrices zero for experts that see no token.
fn backward<E: Real>(
    routing: &Routing,
    saved: &Saved,
    d_out: Strided<'_, E, 2>,
    wanted: [bool; 5],
) -> [Option<FlexTensor>; 5] {
    let stacks = saved.matrices.each_ref().map(Strided::<E, 3>::of);
    let ([tokens, d], count, k) = (d_out.shape, routing.places.len(), routing.per_token);
    let [all, width, _] = stacks[0].shape;
    let [rows, worked, gate, up] =
        [&saved.rows, &saved.worked, &saved.gate, &saved.up].map(|x| -> &[E] { x.storage() });
    let weights = Strided::<E, 2>::of(&saved.weights);
    let mut d_weights = buffer::<E>(tokens * k);
    let [mut d_worked, mut d_rows] = [true, wanted[0]].map(|is| buffer::<E>(if is { count * d } else { 0 }));
    let [mut hidden, mut d_gate, mut d_up] = [(); 3].map(|()| buffer::<E>(count * width));
    {
        let d_weights = Shared::new(&mut d_weights);
        let [d_worked, d_rows] = [&mut d_worked, &mut d_rows].map(|x| Shared::new(x));
        let [hidden, d_gate, d_up] = [&mut hidden, &mut d_gate, &mut d_up].map(|x| Shared::new(x));
        let tiles = tiles(routing);
        for_each(tiles.len(), 3 * count * d * width, |unit| {
            let (e, from, to) = tiles[unit];
            let [w_gate, w_up, w_down] = stacks.map(|stack| stack.matrix([e, 0, 0]));
            let n = to - from;
            let part = from * width..to * width;
            // SAFETY: the rows of this tile.
            let d_worked = unsafe { d_worked.part(from * d, n * d) };
            let [hidden, d_gate, d_up] = [hidden, d_gate, d_up].map(|x| unsafe { x.part(part.start, part.len()) });
            vectorised(
                #[inline(always)]
                || {
                    let of = routing.places[from..to].iter().zip(worked[from * d..to * d].chunks_exact(d));
                    for (d_row, (&place, row)) in d_worked.chunks_exact_mut(d).zip(of) {
                        let (d_out, weight) = (d_out.run([place / k, 0], d), weights.at([place / k, place % k]));
                        d_row.iter_mut().zip(d_out).for_each(|(d, g)| *d = weight * *g);
                        // SAFETY: the weight of one place.
                        unsafe { d_weights.part(place, 1)[0] = dot(d_out, row) };
                    }
                },
            );
            let d_worked = Mat::dense(d_worked, n, d);
            // First what reaches the hidden numbers, where the gradient of `up` will be.
            product(MatMut::dense(d_up, n, width), E::ZERO, E::ONE, d_worked, w_down);
            vectorised(
                #[inline(always)]
                || {
                    let pairs = gate[part.clone()].iter().zip(&up[part.clone()]);
                    let results = hidden.iter_mut().zip(d_gate.iter_mut()).zip(d_up.iter_mut());
                    for (((h, d_gate), d_up), (&g, &u)) in results.zip(pairs) {
                        let sigmoid = g.sigmoid();
                        let (silu, d_hidden) = (g * sigmoid, *d_up);
                        *h = silu * u;
                        *d_gate = d_hidden * u * (sigmoid + silu * (E::ONE - sigmoid));
                        *d_up = d_hidden * silu;
                    }
                },
            );
            let [d_gate, d_up] = [&*d_gate, &*d_up].map(|x| Mat::dense(x, n, width));
            if wanted[0] {
                // SAFETY: the rows of this tile.
                let d_rows = unsafe { d_rows.part(from * d, n * d) };
                product(MatMut::dense(d_rows, n, d), E::ZERO, E::ONE, d_gate, w_gate);
                product(MatMut::dense(d_rows, n, d), E::ONE, E::ONE, d_up, w_up);
            }
        });
    }
    let d_x = wanted[0].then(|| gather(routing, &d_rows, d, |_| E::ONE));
    let d_weights = wanted[1].then(|| output(d_weights, [tokens, k]));
    let heights = [width, width, d];
    let mut d_matrices = [2, 3, 4].map(|input: usize| wanted[input].then(|| buffer::<E>(all * width * d)));
    {
        let to = d_matrices.each_mut().map(|m| m.as_mut().map(|m| Shared::new(m)));
        // Up to `TILE` rows of a matrix: the expert, which of its matrices, and the first row.
        let units: Vec<(usize, usize, usize)> = (0..all)
            .flat_map(|e| (0..3).map(move |m| (e, m)))
            .filter(|&(_, m)| wanted[2 + m])
            .flat_map(|(e, m)| (0..heights[m]).step_by(TILE).map(move |start| (e, m, start)))
            .collect();
        for_each(units.len(), 3 * (count + all) * d * width, |unit| {
            let (e, m, start) = units[unit];
            let (height, columns) = (TILE.min(heights[m] - start), if m == 2 { width } else { d });
            let to = to[m].as_ref().expect("a matrix that is wanted");
            // SAFETY: these rows of this matrix.
            let to = unsafe { to.part((e * heights[m] + start) * columns, height * columns) };
            let run = routing.run(e);
            if run.is_empty() {
                to.fill(E::ZERO);
                return;
            }
            let (left, right) = [(&d_gate, rows), (&d_up, rows), (&d_worked, &hidden)][m];
            let left = Mat::new(&left[run.start * heights[m] + start..], [run.len(), height], [heights[m], 1]);
            let right = Mat::dense(&right[run.start * columns..], run.len(), columns);
            product(MatMut::dense(to, height, columns), E::ZERO, E::ONE, left.transposed(), right);
        });
    }
    let [of_gate, of_up, of_down] = d_matrices;
    let [of_gate, of_up] = [of_gate, of_up].map(|m| m.map(|m| output(m, [all, width, d])));
    [d_x, d_weights, of_gate, of_up, of_down.map(|m| output(m, [all, d, width]))]
}
