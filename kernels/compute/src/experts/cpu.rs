//! The places of all tokens in the order of their experts: every expert works on one run of rows, in
//! tiles that threads share out, and no row is padded, masked or worked on twice.

use super::reference::numbers;
use crate::cpu::{
    Mat, MatMut, Real, Shared, Strided, as_rows, buffer, dot, for_each, forwards, output, product, vectorised,
    with_real, with_scratch,
};
use crate::operator::Operator;
use burn::tensor::Tensor;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

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

/// The inputs are `x, weights`, and `gate, up, down` of every expert.
#[derive(Clone, Debug)]
pub struct Experts {
    per_token: usize,
    /// The places `t · per_token + s` in the order of their experts.
    places: Vec<usize>,
    /// Where the rows of an expert begin in `places`, and behind the last where they end.
    first: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct Saved {
    weights: FlexTensor,
    matrices: Vec<[FlexTensor; 3]>,
    /// Of every place: the token, the gate and the other half before their product, and the output.
    rows: FlexTensor,
    gate: FlexTensor,
    up: FlexTensor,
    worked: FlexTensor,
}

/// Rows in a tile: every tile packs the matrices of its expert again, so not too few.
const TILE: usize = 256;

impl Experts {
    pub fn new(busy: &[(usize, Vec<usize>)], per_token: usize) -> Self {
        let (mut places, mut first) = (Vec::new(), vec![0]);
        for (_, mine) in busy {
            places.extend(mine);
            first.push(places.len());
        }
        Self { per_token, places, first }
    }

    /// Runs of at most `TILE` rows `(expert, first, end)`.
    fn tiles(&self) -> Vec<(usize, usize, usize)> {
        let of = |e: usize| {
            let (from, to) = (self.first[e], self.first[e + 1]);
            (from..to).step_by(TILE).map(move |start| (e, start, to.min(start + TILE)))
        };
        (0..self.first.len() - 1).flat_map(of).collect()
    }

    /// `Σ` over the places of every token of `factor · row`.
    fn gather<E: Real>(&self, tokens: usize, rows: &[E], d: usize, factor: impl Fn(usize) -> E + Sync) -> FlexTensor {
        let mut of_place = vec![usize::MAX; tokens * self.per_token];
        self.places.iter().enumerate().for_each(|(row, &place)| of_place[place] = row);
        let mut out = buffer::<E>(tokens * d);
        {
            let out = Shared::new(&mut out);
            for_each(tokens.div_ceil(TILE), tokens * self.per_token * d, |unit| {
                for t in unit * TILE..tokens.min((unit + 1) * TILE) {
                    // SAFETY: the row of one token.
                    let sum = unsafe { out.part(t * d, d) };
                    sum.fill(E::ZERO);
                    let places = t * self.per_token..(t + 1) * self.per_token;
                    for (place, &row) in places.clone().zip(&of_place[places]) {
                        if row == usize::MAX {
                            continue; // that of an expert of another group
                        }
                        let row = &rows[row * d..][..d];
                        let factor = factor(place);
                        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * *x);
                    }
                }
            });
        }
        output(out, [tokens, d])
    }
}

impl<const N: usize> Operator<Flex, N> for Experts {
    type Saved = Saved;

    fn forward(&self, inputs: [Option<FlexTensor>; N]) -> (FlexTensor, Saved) {
        let mut inputs = inputs.into_iter().flatten();
        let mut next = || inputs.next().expect("tokens, weights and three matrices per expert");
        let (x, weights) = (as_rows(next()), as_rows(next()));
        let matrices = (1..self.first.len()).map(|_| [(); 3].map(|()| forwards(next()))).collect();
        with_real!(x.dtype(), E => forward::<E>(self, &x, weights, matrices))
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, wanted: [bool; N]) -> [Option<FlexTensor>; N] {
        let gradient = as_rows(gradient);
        let all = with_real!(gradient.dtype(), E => backward::<E>(self, &saved, Strided::of(&gradient)));
        let mut all = all.into_iter();
        wanted.map(|wanted| all.next().filter(|_| wanted))
    }
}

fn forward<E: Real>(
    experts: &Experts,
    x: &FlexTensor,
    weights: FlexTensor,
    matrices: Vec<[FlexTensor; 3]>,
) -> (FlexTensor, Saved) {
    let x = Strided::<E, 2>::of(x);
    let all: Vec<_> = matrices.iter().map(|m| m.each_ref().map(Strided::<E, 2>::of)).collect();
    let ([tokens, d], count, width) = (x.shape, experts.places.len(), all[0][0].shape[0]);
    let [mut rows, mut worked] = [(); 2].map(|()| buffer::<E>(count * d));
    let [mut gate, mut up] = [(); 2].map(|()| buffer::<E>(count * width));
    {
        let [rows, worked, gate, up] = [&mut rows, &mut worked, &mut gate, &mut up].map(|x| Shared::new(x));
        let tiles = experts.tiles();
        for_each(tiles.len(), 3 * count * d * width, |unit| {
            let (e, from, to) = tiles[unit];
            let [w_gate, w_up, w_down] = all[e].map(|m| m.matrix([0, 0]));
            let n = to - from;
            // SAFETY: the rows of this tile.
            let [rows, worked] = [rows, worked].map(|x| unsafe { x.part(from * d, n * d) });
            let [gate, up] = [gate, up].map(|x| unsafe { x.part(from * width, n * width) });
            for (row, place) in rows.chunks_exact_mut(d).zip(&experts.places[from..to]) {
                row.copy_from_slice(x.run([place / experts.per_token, 0], d));
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
    let k = experts.per_token;
    let out = experts.gather(tokens, &worked, d, |place| by.at([place / k, place % k]));
    let [rows, worked] = [rows, worked].map(|x| output(x, [count, d]));
    let [gate, up] = [gate, up].map(|x| output(x, [count, width]));
    (out, Saved { weights, matrices, rows, gate, up, worked })
}

/// The gradients of all inputs, in their order.
fn backward<E: Real>(experts: &Experts, saved: &Saved, d_out: Strided<'_, E, 2>) -> Vec<FlexTensor> {
    let all: Vec<_> = saved.matrices.iter().map(|m| m.each_ref().map(Strided::<E, 2>::of)).collect();
    let ([tokens, d], count, width, k) = (d_out.shape, experts.places.len(), all[0][0].shape[0], experts.per_token);
    let [rows, worked, gate, up] =
        [&saved.rows, &saved.worked, &saved.gate, &saved.up].map(|x| -> &[E] { x.storage() });
    let weights = Strided::<E, 2>::of(&saved.weights);
    let mut d_weights = vec![E::ZERO; tokens * k];
    let [mut d_worked, mut d_rows] = [(); 2].map(|()| buffer::<E>(count * d));
    let [mut hidden, mut d_gate, mut d_up] = [(); 3].map(|()| buffer::<E>(count * width));
    {
        let d_weights = Shared::new(&mut d_weights);
        let [d_worked, d_rows] = [&mut d_worked, &mut d_rows].map(|x| Shared::new(x));
        let [hidden, d_gate, d_up] = [&mut hidden, &mut d_gate, &mut d_up].map(|x| Shared::new(x));
        let tiles = experts.tiles();
        for_each(tiles.len(), 3 * count * d * width, |unit| {
            let (e, from, to) = tiles[unit];
            let [w_gate, w_up, w_down] = all[e].map(|m| m.matrix([0, 0]));
            let n = to - from;
            let part = from * width..to * width;
            // SAFETY: the rows of this tile.
            let [d_worked, d_rows] = [d_worked, d_rows].map(|x| unsafe { x.part(from * d, n * d) });
            let [hidden, d_gate, d_up] = [hidden, d_gate, d_up].map(|x| unsafe { x.part(part.start, part.len()) });
            vectorised(
                #[inline(always)]
                || {
                    let of = experts.places[from..to].iter().zip(worked[from * d..to * d].chunks_exact(d));
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
            product(MatMut::dense(d_rows, n, d), E::ZERO, E::ONE, d_gate, w_gate);
            product(MatMut::dense(d_rows, n, d), E::ONE, E::ONE, d_up, w_up);
        });
    }
    let d_x = experts.gather(tokens, &d_rows, d, |_| E::ONE);
    let mut d_matrices: Vec<[Vec<E>; 3]> = all.iter().map(|_| [(); 3].map(|()| buffer(width * d))).collect();
    {
        let to: Vec<_> = d_matrices.iter_mut().map(|m| m.each_mut().map(|m| Shared::new(m))).collect();
        let blocks = |height: usize| (0..height).step_by(TILE).map(move |start| (start, TILE.min(height - start)));
        let heights = [width, width, d];
        let units: Vec<_> = (0..all.len())
            .flat_map(|e| (0..3).flat_map(move |m| blocks(heights[m]).map(move |block| (e, m, block))))
            .collect();
        for_each(units.len(), 3 * count * d * width, |unit| {
            let (e, m, (start, height)) = units[unit];
            let (from, n) = (experts.first[e], experts.first[e + 1] - experts.first[e]);
            let (left, right) = [(&d_gate, rows), (&d_up, rows), (&d_worked, &hidden)][m];
            let (left_width, right_width) = (heights[m], if m == 2 { width } else { d });
            let left = Mat::new(&left[from * left_width + start..], [n, height], [left_width, 1]);
            let right = Mat::dense(&right[from * right_width..], n, right_width);
            // SAFETY: these rows of this matrix.
            let to = unsafe { to[e][m].part(start * right_width, height * right_width) };
            product(MatMut::dense(to, height, right_width), E::ZERO, E::ONE, left.transposed(), right);
        });
    }
    let shapes = [[width, d], [width, d], [d, width]];
    let d_matrices = d_matrices.into_iter().flat_map(|m| {
        let mut shapes = shapes.into_iter();
        m.map(|m| output(m, shapes.next().expect("three shapes")))
    });
    [d_x, output(d_weights, [tokens, k])].into_iter().chain(d_matrices).collect()
}
