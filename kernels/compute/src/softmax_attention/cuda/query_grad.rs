//! The gradient of the queries: 64 of them in a cube, which goes over the keys that they see.

use super::plan::{Plan, ROWS, key_steps, visible};
use super::tiles::*;
use super::{LOG2_E, bias_of, weight_and_derivatives};
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// The gradient of the queries: the forward pass's walk over the keys.
///
/// Shapes as in [`attention_forward`](super::forward::attention_forward); `out_grad [batch, heads, time, value_width]` with the
/// fourth strides, `delta` as `log_sum`, `grad [batch, time, heads, width]` in pairs, and where it is asked for
/// `bias_grad [batch, heads, time, source]`. `gradient_scale` is the scale itself, not in units of `ln 2`. Cubes: `(⌈time / ROWS⌉, heads, batch)`
/// of `(32, PLANES)`: a plane has its rows of both maps, which share the gradient of the weights.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_query_grad<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    strides: &[u32],
    bias: &[E],
    slopes: &[f32],
    out_grad: &[E],
    log_sum: &[f32],
    delta: &[f32],
    lambda: &[f32],
    grad: &mut [Pair<E>],
    bias_grad: &mut [E],
    time: u32,
    source: u32,
    kv_heads: u32,
    window: u32,
    scale: f32,
    cap: f32,
    gradient_scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let value_width = comptime!(plan.value_width);
    let depth = comptime!(Plan::depth(width));
    let stride = comptime!(Plan::stride(width));
    let value_stride = comptime!(Plan::stride(value_width));
    let rows = comptime!(ROWS as usize);
    let step = comptime!(plan.step);
    let maps = comptime!(plan.maps);
    let key_maps = comptime!(plan.key_maps);
    let query_tile = comptime!(rows * stride);
    let key_tile = comptime!(step * stride);
    let stage_tiles = comptime!(plan.key_maps * key_tile);
    let value_tile = comptime!(step * value_stride);

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(plan.maps * query_tile), 16usize);
    let mut grads = Shared::<[E]>::new_aligned_slice(comptime!(rows * value_stride), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(2 * stage_tiles), 16usize);
    let mut values = Shared::<[E]>::new_aligned_slice(comptime!(2 * value_tile), 16usize);

    let heads = CUBE_COUNT_Y;
    let head = CUBE_POS_Y;
    let batch = CUBE_POS_Z;
    let kv = head / (heads / kv_heads);
    let first_row = ((time - 1) / ROWS - CUBE_POS_X) * ROWS;
    let row_base = (batch * heads + head) * time;

    let plane_row = UNIT_POS_Y * 16;
    let row = first_row + plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;
    let mut slope = 0.0f32.runtime();
    if comptime!(plan.slopes) {
        slope = slopes[head as usize] * LOG2_E;
    }
    // Of the rows of this lane, map by map. Rows past the end are computed from the last one's numbers and never stored.
    let mut sums_of_rows = Array::<f32>::new(comptime!(2 * plan.maps));
    let mut deltas = Array::<f32>::new(comptime!(2 * plan.maps));
    #[unroll]
    for map in 0..maps {
        let base = of_map(row_base, time, comptime!(map as u32), comptime!(maps as u32));
        #[unroll]
        for r in 0..2usize {
            let t = min(row + r as u32 * 8, time - 1);
            sums_of_rows[2 * map + r] = log_sum[(base + t) as usize] * LOG2_E;
            deltas[2 * map + r] = delta[(base + t) as usize];
        }
    }

    let mut sums = Sequence::<Sequence<Fragment<f32>>>::new();
    #[unroll]
    for _ in 0..maps {
        sums.push(zeros(depth));
    }
    let (first, end) = key_steps(first_row, time, source, window, comptime!(plan.window), comptime!(step as u32));
    if comptime!(plan.bias_grad) {
        // Of keys in steps that none of these queries sees.
        let mut at = UNIT_POS;
        while at < comptime!(ROWS) * source {
            let (t, k) = (first_row + at / source, at % source);
            let unseen = t < time && (k < first * step as u32 || k >= end * step as u32);
            put::<E>(bias_grad, (row_base + t) * source + k, 0.0f32.runtime(), unseen);
            at += CUBE_DIM;
        }
    }
    copy_maps::<E>(query, &mut queries, strides, batch, head, first_row, time, QUERY, rows, width, maps);
    copy_maps::<E>(out_grad, &mut grads, strides, batch, head, first_row, time, FOURTH, rows, value_width, 1usize);
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
        let keys_now = &keys[stage * stage_tiles..(stage + 1) * stage_tiles];
        let values_now = &values[stage * value_tile..(stage + 1) * value_tile];

        let mut weight_grads = zeros(step);
        add_products::<E>(&mut weight_grads, &grads, plane_row, values_now, step, value_width);
        let k = j * step as u32 + column;
        #[unroll]
        for map in 0..maps {
            let of_keys = comptime!(map.min(key_maps - 1));
            add_query_grads::<E>(
                sums.index_mut(map),
                &weight_grads,
                &queries[map * query_tile..(map + 1) * query_tile],
                &keys_now[of_keys * key_tile..(of_keys + 1) * key_tile],
                &sums_of_rows,
                &deltas,
                bias,
                strides,
                bias_grad,
                row,
                k,
                time,
                source,
                window,
                slope,
                scale,
                cap,
                map,
                plan,
            );
        }
        // The next round's copies overwrite this stage.
        sync_cube();
    }
    #[unroll]
    for map in 0..maps {
        if comptime!(map == 1) {
            let sums = sums.index_mut(map);
            #[unroll]
            for r in 0..2usize {
                let share = share_of_map(lambda, row_base + min(row + r as u32 * 8, time - 1), map);
                #[unroll]
                for n in 0..depth / 8 {
                    let scaled = sums.index(n)[r] * Pair::new(share);
                    sums.index_mut(n)[r] = scaled;
                }
            }
        }
        let all = heads * maps as u32;
        let base = batch * time * all + head * maps as u32 + comptime!(map as u32);
        store_rows::<E>(sums.index(map), grad, base, row, time, all, gradient_scale, width, depth);
    }
}

#[cube]
fn put<E: Float>(to: &mut [E], at: u32, x: f32, inside: bool) {
    if inside {
        to[at as usize] = E::cast_from(x);
    }
}

/// `sums += dS K` of one map, but for its share in the pattern, over the keys of a step; `weight_grads` is `dO Vᵀ`, `row` and `key`
/// stand for this lane's first row and column.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add_query_grads<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    weight_grads: &Sequence<Fragment<f32>>,
    queries: &[E],
    keys: &[E],
    sums_of_rows: &Array<f32>,
    deltas: &Array<f32>,
    bias: &[E],
    strides: &[u32],
    bias_grad: &mut [E],
    row: u32,
    key: u32,
    time: u32,
    source: u32,
    window: u32,
    slope: f32,
    scale: f32,
    cap: f32,
    #[comptime] map: usize,
    #[comptime] plan: Plan,
) {
    let step = comptime!(plan.step);
    let mut scores = zeros(step);
    add_products::<E>(&mut scores, queries, UNIT_POS_Y * 16, keys, step, plan.width);
    let (bias_base, bias_stride) = place(strides, CUBE_POS_Z, CUBE_POS_Y, BIAS);
    #[unroll]
    for r in 0..2usize {
        let t = row + r as u32 * 8;
        let own = source - time + t;
        let bias_row = bias_base + min(t, time - 1) * bias_stride;
        let row = comptime!(2 * map + r);
        #[unroll]
        for n in 0..step / 8 {
            let products = scores.index(n)[r];
            let by_weight = weight_grads.index(n)[r];
            let mut score_grads = Pair::<f32>::new(0.0);
            #[unroll]
            for c in 0..2usize {
                let k = key + n as u32 * 8 + c as u32;
                let seen = visible(k, own, window, comptime!(plan.window));
                let b = bias_of::<E>(bias, bias_row, k, source, plan);
                let (_, of_score, of_product) = weight_and_derivatives(
                    products.extract(c),
                    k,
                    own,
                    sums_of_rows[row],
                    seen,
                    slope,
                    b,
                    scale,
                    cap,
                    plan,
                );
                let grad = by_weight.extract(c) - deltas[row];
                score_grads.insert(c, of_product * grad);
                if comptime!(plan.bias_grad) {
                    let of_head = (CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y) * time;
                    let at = (of_head + t) * source + k;
                    put::<E>(bias_grad, at, of_score * grad, t < time && k < source);
                }
            }
            scores.index_mut(n)[r] = score_grads;
        }
    }
    add_weighted::<E>(sums, &scores, keys, step, plan.width);
}
