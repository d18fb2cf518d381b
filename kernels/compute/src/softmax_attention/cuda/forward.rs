//! The forward pass: one cube has 64 queries of a head and goes over the keys that they see, with
//! the running maximum and sum of every row (Dao 2023, arXiv 2307.08691).
//!
//! Of two maps each has planes of its own, over the same values in shared memory: a value is read once for both.

use super::plan::{Gate, PLANES, Plan, ROWS, key_steps, visible};
use super::tiles::*;
use super::{FLOOR, HIDDEN, LN_2, LOG2_E, bias_of, score, sigmoid2};
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// `out = softmax(scores) value` and the logarithm of every row's sum.
///
/// `query [batch, heads, time, width]`, `key [batch, kv_heads, source, width]`,
/// `value [batch, kv_heads, source, value_width]`, `gate [batch, heads, time, value_width or 1]` and
/// `bias [batch or 1, heads or 1, time or 1, source]`, whose rows lie in order and begin
/// where `strides [5, 3]` says; `slopes [heads]`, `sinks [batch, heads, time]` (not read unless planned, as bias and gate) → `out [batch, time, heads, value_width]`
/// in pairs, `log_sum [batch, heads, time]`, and where there is a gate `gated`, the output times it.
///
/// With two maps a head is two heads of queries, of `log_sum` and, where they are its own, of keys; what
/// the second gives alone is `other`, shaped as `out`, and `out` is what the first gives minus `lambda [batch, heads, time]` times that.
///
/// `scale` and `cap` are in units of `ln 2`. Cubes: `(⌈time / ROWS⌉, heads, batch)` of `(32, PLANES · maps)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_forward<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    strides: &[u32],
    bias: &[E],
    slopes: &[f32],
    sinks: &[f32],
    gate: &[E],
    lambda: &[f32],
    out: &mut [Pair<E>],
    log_sum: &mut [f32],
    gated: &mut [Pair<E>],
    other: &mut [Pair<E>],
    time: u32,
    source: u32,
    kv_heads: u32,
    window: u32,
    scale: f32,
    cap: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let value_width = comptime!(plan.value_width);
    let value_depth = comptime!(Plan::depth(value_width));
    let rows = comptime!(ROWS as usize);
    let step = comptime!(plan.step);
    let maps = comptime!(plan.maps);
    let key_maps = comptime!(plan.key_maps);
    let key_tile = comptime!(step * Plan::stride(width));
    let stage_tiles = comptime!(plan.key_maps * key_tile);
    let value_tile = comptime!(step * Plan::stride(value_width));

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(plan.maps * rows * Plan::stride(width)), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(2 * stage_tiles), 16usize);
    let mut values = Shared::<[E]>::new_aligned_slice(comptime!(2 * value_tile), 16usize);

    let heads = CUBE_COUNT_Y;
    let head = CUBE_POS_Y;
    let batch = CUBE_POS_Z;
    let kv = head / (heads / kv_heads);
    // The last queries see most: their cubes begin first.
    let first_row = ((time - 1) / ROWS - CUBE_POS_X) * ROWS;
    let row_base = (batch * heads + head) * time;
    let out_base = batch * time * heads + head;
    let (bias_base, bias_stride) = place(strides, batch, head, BIAS);

    let lane = UNIT_POS_X;
    let mut plane = UNIT_POS_Y;
    let mut map = 0u32.runtime();
    if comptime!(plan.two_maps()) {
        map = UNIT_POS_Y / PLANES;
        plane = UNIT_POS_Y % PLANES;
    }
    let row = first_row + plane * 16 + lane / 4;
    let own = source - time + row;
    let column = lane % 4 * 2;
    let mut slope = 0.0f32.runtime();
    if comptime!(plan.slopes) {
        slope = slopes[head as usize] * LOG2_E;
    }

    let mut sums = zeros(value_depth);
    let mut best = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    #[unroll]
    for r in 0..2usize {
        best[r] = FLOOR;
        total[r] = 0.0;
        if comptime!(plan.sinks) {
            best[r] = sinks[(row_base + min(row + r as u32 * 8, time - 1)) as usize] * LOG2_E;
            // Each of the four lanes of a row holds a part of its sum.
            total[r] = select(lane % 4 == 0, 1.0, 0.0);
        }
    }

    let (first, end) = key_steps(first_row, time, source, window, comptime!(plan.window), comptime!(step as u32));
    copy_maps::<E>(query, &mut queries, strides, batch, head, first_row, time, QUERY, rows, width, maps);
    let from = first * step as u32;
    copy_stage::<E>(
        key,
        value,
        &mut keys,
        &mut values,
        0usize,
        strides,
        batch,
        kv,
        from,
        source,
        [KEY, VALUE],
        key_maps,
        step,
        plan,
    );
    commit_copies();

    for j in first..end {
        let stage = ((j - first) % 2) as usize;
        let next = 1 - stage;
        if j + 1 < end {
            let from = (j + 1) * step as u32;
            copy_stage::<E>(
                key,
                value,
                &mut keys,
                &mut values,
                next,
                strides,
                batch,
                kv,
                from,
                source,
                [KEY, VALUE],
                key_maps,
                step,
                plan,
            );
        }
        commit_copies();
        wait_for_all_but_last();
        sync_cube();
        let mut from = stage * stage_tiles;
        if comptime!(plan.own_keys()) {
            from += map as usize * key_tile;
        }
        let keys_now = &keys[from..from + key_tile];
        let values_now = &values[stage * value_tile..(stage + 1) * value_tile];

        let mut scores = zeros(step);
        add_products::<E>(&mut scores, &queries, UNIT_POS_Y * 16, keys_now, step, width);
        #[unroll]
        for r in 0..2usize {
            let own = own + r as u32 * 8;
            let bias_row = bias_base + min(row + r as u32 * 8, time - 1) * bias_stride;
            let mut top = best[r];
            #[unroll]
            for n in 0..step / 8 {
                let products = scores.index(n)[r];
                let mut pair = Pair::<f32>::new(0.0);
                #[unroll]
                for c in 0..2usize {
                    let k = j * step as u32 + n as u32 * 8 + column + c as u32;
                    let b = bias_of::<E>(bias, bias_row, k, source, plan);
                    let x = score(products.extract(c), k, own, slope, b, scale, cap, plan);
                    let x = select(visible(k, own, window, comptime!(plan.window)), x, HIDDEN);
                    if comptime!(plan.sigmoid) {
                        pair.insert(c, sigmoid2(x));
                    } else {
                        pair.insert(c, x);
                        top = max(top, x);
                    }
                }
                scores.index_mut(n)[r] = pair;
            }
            if comptime!(!plan.sigmoid) {
                let top = row_max(top);
                let shrink = exp2(best[r] - top);
                best[r] = top;
                let mut sum = total[r] * shrink;
                #[unroll]
                for n in 0..step / 8 {
                    let pair = scores.index(n)[r];
                    let mut weights = Pair::<f32>::new(0.0);
                    #[unroll]
                    for c in 0..2usize {
                        let weight = exp2(pair.extract(c) - top);
                        weights.insert(c, weight);
                        sum += weight;
                    }
                    scores.index_mut(n)[r] = weights;
                }
                total[r] = sum;
                #[unroll]
                for n in 0..value_depth / 8 {
                    let scaled = sums.index(n)[r] * Pair::new(shrink);
                    sums.index_mut(n)[r] = scaled;
                }
            }
        }

        add_weighted::<E>(&mut sums, &scores, values_now, step, value_width);
        // The next round's copies overwrite this stage.
        sync_cube();
    }

    #[unroll]
    for r in 0..2usize {
        let mut sum = row_sum(total[r]);
        if comptime!(plan.sigmoid) {
            sum = 1.0f32.runtime();
            best[r] = 0.0f32.runtime();
        }
        #[unroll]
        for n in 0..value_depth / 8 {
            let part = sums.index(n)[r] / Pair::new(sum);
            sums.index_mut(n)[r] = part;
        }
        let t = row + r as u32 * 8;
        if t < time && lane % 4 == 0 {
            let mut at = row_base + t;
            if comptime!(plan.two_maps()) {
                at = row_base * 2 + map * time + t;
            }
            log_sum[at as usize] = best[r] * LN_2 + sum.ln();
        }
    }
    if comptime!(plan.two_maps()) {
        if map == 1 {
            store_rows::<E>(&sums, other, out_base, row, time, heads, 1.0, value_width, value_depth);
        }
        // The first map's planes read what the second's have just written.
        sync_cube();
        if map == 0 {
            store_output::<E>(&sums, gate, strides, lambda, out, gated, other, row, time, plan);
        }
    } else {
        store_output::<E>(&sums, gate, strides, lambda, out, gated, other, row, time, plan);
    }
}

/// Stores a plane's rows of the output, the other map's part taken off, and the same times the gate.
#[cube]
#[allow(clippy::too_many_arguments)]
fn store_output<E: Float>(
    sums: &Sequence<Fragment<f32>>,
    gate: &[E],
    strides: &[u32],
    lambda: &[f32],
    out: &mut [Pair<E>],
    gated: &mut [Pair<E>],
    other: &mut [Pair<E>],
    row: u32,
    time: u32,
    #[comptime] plan: Plan,
) {
    let value_width = comptime!(plan.value_width);
    let (heads, head, batch) = (CUBE_COUNT_Y, CUBE_POS_Y, CUBE_POS_Z);
    let (gate_base, gate_stride) = place(strides, batch, head, FOURTH);
    #[unroll]
    for r in 0..2usize {
        let t = row + r as u32 * 8;
        if t < time {
            #[unroll]
            for n in 0..comptime!(Plan::depth(value_width) / 8) {
                let c = n as u32 * 8 + UNIT_POS_X % 4 * 2;
                if c < value_width as u32 {
                    let at = ((((batch * time + t) * heads + head) * value_width as u32 + c) / 2) as usize;
                    let mut pair = sums.index(n)[r];
                    if comptime!(plan.two_maps()) {
                        let share = lambda[((batch * heads + head) * time + t) as usize];
                        pair -= Pair::cast_from(other[at]) * Pair::new(share);
                    }
                    out[at] = Pair::cast_from(pair);
                    if comptime!(plan.gate != Gate::None) {
                        gated[at] = Pair::cast_from(pair * gate_of::<E>(gate, gate_base + t * gate_stride, c, plan));
                    }
                }
            }
        }
    }
}
