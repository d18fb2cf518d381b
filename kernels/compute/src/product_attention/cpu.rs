//! Look-ups as loops: a table of the products with every centroid per query, then one addition per
//! sub-space and key; and for the values one sum of weights per centroid, then one product.

use crate::cpu::{
    Mat, MatMut, Real, Shared, Strided, buffer, for_each, forwards, output_heads, product, vectorised, with_real,
    with_scratch,
};
use crate::operator::Operator;
use crate::softmax_attention::rows::{Head, Tile};
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;
use std::sync::Arc;

/// The inputs are `q`, recent `k` and `v`, the centroids of keys and of values, `bias` and `sink`.
#[derive(Clone, Debug)]
pub struct LookUp {
    /// `[batch, kv_heads, coded, subspaces]`, as are the values'.
    pub keys: Arc<Vec<u32>>,
    pub values: Arc<Vec<u32>>,
    pub options: Options,
}

/// What is known of a call on the host.
#[derive(Clone, Debug)]
pub struct Options {
    pub coded: usize,
    pub scale: f64,
    pub window: Option<usize>,
    pub softcap: Option<f64>,
    pub slopes: Option<Vec<f64>>,
    pub sigmoid: bool,
}

impl Operator<Flex, 7> for LookUp {
    type Saved = ();

    fn forward(&self, inputs: [Option<FlexTensor>; 7]) -> (FlexTensor, ()) {
        let inputs = inputs.map(|x| x.map(forwards));
        let dtype = inputs[0].as_ref().expect("queries").dtype();
        (with_real!(dtype, E => attend::<E>(self, &inputs)), ())
    }

    fn backward(&self, _: (), _: FlexTensor, _: [bool; 7]) -> [Option<FlexTensor>; 7] {
        unreachable!("chosen only where nothing is tracked")
    }
}

/// Queries of one tile.
const ROWS: usize = 16;

fn attend<E: Real>(codes: &LookUp, inputs: &[Option<FlexTensor>; 7]) -> FlexTensor {
    let LookUp { keys, values, options } = codes;
    let there = "always there";
    let [q, k, v, ..] = inputs.each_ref().map(|x| x.as_ref());
    let [q, k, v] = [q, k, v].map(|x| Strided::<E, 4>::of(x.expect(there)));
    let [key_centroids, value_centroids] = [3, 4].map(|i| Strided::<E, 3>::of(inputs[i].as_ref().expect(there)));
    let ([batch, heads, time, _], [_, kv_heads, recent, d_value]) = (q.shape, v.shape);
    let source = options.coded + recent;
    let [bias, sink] = [(5, source), (6, 1)]
        .map(|(i, last)| inputs[i].as_ref().map(|x| Strided::<E, 4>::of(x).broadcast([batch, heads, time, last])));
    let ([k_parts, k_count, k_width], [v_parts, v_count, v_width]) = (key_centroids.shape, value_centroids.shape);
    for (codes, count) in [(keys, k_count), (values, v_count)] {
        let largest = codes.iter().max().map_or(0, |&code| code as usize);
        assert!(largest < count, "the code {largest} among {count} centroids");
    }

    let mut out = buffer::<E>(batch * time * heads * d_value);
    let shared = Shared::new(&mut out);
    let blocks = time.div_ceil(ROWS);
    let work = batch * heads * time * source * (k_parts + v_parts);
    for_each(batch * heads * blocks, work, |unit| {
        let (b, h, first) = (unit / blocks / heads, unit / blocks % heads, unit % blocks * ROWS);
        let rows = ROWS.min(time - first);
        let group = h / (heads / kv_heads);
        let tile = Tile {
            first,
            rows,
            keys: (0, source - time + first + rows),
            offset: source - time,
            window: options.window,
        };
        let width = tile.width();
        let near = width - options.coded; // recent keys in the tile
        let lengths = [rows * width, rows * k_parts * k_count, rows * v_parts * v_count, rows, rows];
        with_scratch::<E, _>(&lengths, |mut scratch| {
            let [scores, table, weights, lse, inverse] = &mut scratch[..] else { unreachable!() };
            let scale = E::of(options.scale);
            // The products with every centroid: [rows, k_parts, k_count].
            for m in 0..k_parts {
                let parts = Mat::new(q.run_from([b, h, first, m * k_width]), [rows, k_width], [q.strides[2], 1]);
                let to = MatMut::new(&mut table[m * k_count..], [rows, k_count], [k_parts * k_count, 1]);
                product(to, E::ZERO, scale, parts, key_centroids.matrix([m, 0, 0]).transposed());
            }
            let at = (b * kv_heads + group) * options.coded;
            let keys = &keys[at * k_parts..(at + options.coded) * k_parts];
            for (row, table) in scores.chunks_exact_mut(width).zip(table.chunks_exact(k_parts * k_count)) {
                for (score, codes) in row.iter_mut().zip(keys.chunks_exact(k_parts)) {
                    *score = codes.iter().enumerate().map(|(m, &code)| table[m * k_count + code as usize]).sum();
                }
            }
            let queries = q.matrix([b, h, first, 0]).rows(0, rows);
            let near_keys = k.matrix([b, group, 0, 0]).rows(0, near).transposed();
            let to = MatMut::new(&mut scores[options.coded..], [rows, near], [width, 1]);
            product(to, E::ZERO, scale, queries, near_keys);

            let head = Head {
                softcap: options.softcap.map(E::of),
                bias: bias.map(|bias| (bias, [b, h])),
                slope: options.slopes.as_ref().map(|slopes| E::of(slopes[h])),
                sigmoid: options.sigmoid,
            };
            let sink = |t| sink.map(|sink| sink.at([b, h, t, 0]));
            vectorised(
                #[inline(always)]
                || tile.weights(&head, scores, sink, lse, inverse),
            );

            // The weight that falls on every centroid: [rows, v_parts, v_count].
            weights.fill(E::ZERO);
            let values = &values[at * v_parts..(at + options.coded) * v_parts];
            for (row, weights) in scores.chunks_exact(width).zip(weights.chunks_exact_mut(v_parts * v_count)) {
                for (weight, codes) in row.iter().zip(values.chunks_exact(v_parts)) {
                    codes.iter().enumerate().for_each(|(m, &code)| weights[m * v_count + code as usize] += *weight);
                }
            }
            let start = ((b * time + first) * heads + h) * d_value;
            let place = |channel: usize, columns: usize| {
                // SAFETY: channels of the rows of one head, which are this unit's own.
                unsafe { MatMut::from_raw(shared.at(start + channel), [rows, columns], [heads * d_value, 1]) }
            };
            let near_weights = Mat::new(&scores[options.coded..], [rows, near], [width, 1]);
            product(place(0, d_value), E::ZERO, E::ONE, near_weights, v.matrix([b, group, 0, 0]).rows(0, near));
            for m in 0..v_parts {
                let weights = Mat::new(&weights[m * v_count..], [rows, v_count], [v_parts * v_count, 1]);
                product(place(m * v_width, v_width), E::ONE, E::ONE, weights, value_centroids.matrix([m, 0, 0]));
            }
            let mut place = place(0, d_value);
            for (i, inverse) in inverse.iter().enumerate() {
                place.row(i).iter_mut().for_each(|o| *o *= *inverse);
            }
        });
    });
    output_heads(out, [batch, heads, time, d_value])
}
