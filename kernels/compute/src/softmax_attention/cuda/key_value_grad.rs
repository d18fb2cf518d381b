//! The gradients of keys and values: 64 of them in a cube, which goes over the queries that see them.

use super::plan::{Plan, ROWS, query_steps, visible};
use super::tiles::*;
use super::{LOG2_E, bias_of, weight_and_derivatives};
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// Which of the two gradients a kernel sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    KeyAndValue,
    Key,
    Value,
}

impl Of {
    pub const fn key(self) -> bool {
        !matches!(self, Self::Value)
    }

    pub const fn value(self) -> bool {
        !matches!(self, Self::Key)
    }
}

/// The gradients of keys and values: rows of a tile are keys, its columns queries.
///
/// Shapes as in [`attention_query_grad`](super::query_grad::attention_query_grad); `key_grad, value_grad [batch, source, kv_heads, ..]` in pairs; a gradient that is not asked for is not
/// written. Both maps share the gradient of the weights and one sum of the values' gradient. Cubes: `(⌈source / ROWS⌉, kv_heads, batch)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_key_value_grad<E: Float>(
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
    key_grad: &mut [Pair<E>],
    value_grad: &mut [Pair<E>],
    time: u32,
    source: u32,
    heads: u32,
    window: u32,
    scale: f32,
    cap: f32,
    gradient_scale: f32,
    #[comptime] plan: Plan,
    #[comptime] of: Of,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let value_width = comptime!(plan.value_width);
    let depth = comptime!(Plan::depth(width));
    let value_depth = comptime!(Plan::depth(value_width));
    let stride = comptime!(Plan::stride(width));
    let value_stride = comptime!(Plan::stride(value_width));
    let rows = comptime!(ROWS as usize);
    let step = comptime!(plan.step);
    let maps = comptime!(plan.maps);
    let key_maps = comptime!(plan.key_maps);
    let key_tile = comptime!(rows * stride);
    let query_tile = comptime!(step * stride);
    let stage_tiles = comptime!(plan.maps * query_tile);
    let grad_tile = comptime!(step * value_stride);

    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(plan.key_maps * key_tile), 16usize);
    let mut values =
        Shared::<[E]>::new_aligned_slice(comptime!(if of.key() { rows * value_stride } else { 8 }), 16usize);
    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(2 * stage_tiles), 16usize);
    let mut grads = Shared::<[E]>::new_aligned_slice(comptime!(2 * grad_tile), 16usize);

    let kv_heads = CUBE_COUNT_Y;
    let group = heads / kv_heads;
    let batch = CUBE_POS_Z;
    let kv = CUBE_POS_Y;
    let first_head = kv * group;
    let first_row = CUBE_POS_X * ROWS;

    let plane_row = UNIT_POS_Y * 16;
    let row = first_row + plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;

    let mut key_sums = Sequence::<Sequence<Fragment<f32>>>::new();
    #[unroll]
    for _ in 0..key_maps {
        key_sums.push(zeros(comptime!(if of.key() { depth } else { 0 })));
    }
    let mut value_sums = zeros(comptime!(if of.value() { value_depth } else { 0 }));
    let (first, end) = query_steps(first_row, time, source, window, comptime!(plan.window), comptime!(step as u32));
    let steps = select(end > first, end - first, 0);
    // The heads of the group, one after the other.
    let rounds = steps * group;

    copy_maps::<E>(key, &mut keys, strides, batch, kv, first_row, source, KEY, rows, width, key_maps);
    if comptime!(of.key()) {
        copy_maps::<E>(value, &mut values, strides, batch, kv, first_row, source, VALUE, rows, value_width, 1usize);
    }
    if rounds > 0 {
        let t = first * step as u32;
        copy_stage::<E>(
            query,
            out_grad,
            &mut queries,
            &mut grads,
            0usize,
            strides,
            batch,
            first_head,
            t,
            time,
            [QUERY, FOURTH],
            maps,
            step,
            plan,
        );
    }
    commit_copies();

    for round in 0..rounds {
        let stage = (round % 2) as usize;
        let next = 1 - stage;
        if round + 1 < rounds {
            let head = first_head + (round + 1) / steps;
            let t = (first + (round + 1) % steps) * step as u32;
            copy_stage::<E>(
                query,
                out_grad,
                &mut queries,
                &mut grads,
                next,
                strides,
                batch,
                head,
                t,
                time,
                [QUERY, FOURTH],
                maps,
                step,
                plan,
            );
        }
        commit_copies();
        wait_for_all_but_last();
        sync_cube();
        let queries_now = &queries[stage * stage_tiles..(stage + 1) * stage_tiles];
        let grads_now = &grads[stage * grad_tile..(stage + 1) * grad_tile];
        let head = first_head + round / steps;
        let row_base = (batch * heads + head) * time;
        let t = (first + round % steps) * step as u32 + column;
        let mut slope = 0.0f32.runtime();
        if comptime!(plan.slopes) {
            slope = slopes[head as usize] * LOG2_E;
        }

        let mut weight_grads = zeros(comptime!(if of.key() { step } else { 0 }));
        if comptime!(of.key()) {
            add_products::<E>(&mut weight_grads, &values, plane_row, grads_now, step, value_width);
        }
        let mut weights = zeros(comptime!(if of.value() { step } else { 0 }));
        #[unroll]
        for map in 0..maps {
            let mut scores = zeros(step);
            let of_keys = comptime!(map.min(key_maps - 1));
            let queries_of = &queries_now[map * query_tile..(map + 1) * query_tile];
            weigh::<E>(
                &mut weights,
                &mut scores,
                &weight_grads,
                &keys[of_keys * key_tile..(of_keys + 1) * key_tile],
                queries_of,
                log_sum,
                delta,
                lambda,
                bias,
                strides,
                head,
                row_base,
                row,
                t,
                time,
                source,
                window,
                slope,
                scale,
                cap,
                map,
                plan,
                of,
            );
            if comptime!(of.key()) {
                add_weighted::<E>(key_sums.index_mut(of_keys), &scores, queries_of, step, width);
            }
        }
        if comptime!(of.value()) {
            add_weighted::<E>(&mut value_sums, &weights, grads_now, step, value_width);
        }
        // The next round's copies overwrite this stage.
        sync_cube();
    }

    if comptime!(of.key()) {
        #[unroll]
        for map in 0..key_maps {
            let all = kv_heads * key_maps as u32;
            let base = batch * source * all + kv * key_maps as u32 + comptime!(map as u32);
            store_rows::<E>(key_sums.index(map), key_grad, base, row, source, all, gradient_scale, width, depth);
        }
    }
    if comptime!(of.value()) {
        let base = batch * source * kv_heads + kv;
        store_rows::<E>(&value_sums, value_grad, base, row, source, kv_heads, 1.0, value_width, value_depth);
    }
}

/// Adds the weights of one map over the queries of a step, times its share in the pattern, to `weights` where values'
/// gradients are summed, and puts `dSᵀ` into `scores` where keys' are; `scores` begin as zeros. `weight_grads` is `V dOᵀ`, `row` and
/// `query` stand for this lane's first row and column.
#[cube]
#[allow(clippy::too_many_arguments)]
fn weigh<E: Float>(
    weights: &mut Sequence<Fragment<f32>>,
    scores: &mut Sequence<Fragment<f32>>,
    weight_grads: &Sequence<Fragment<f32>>,
    keys: &[E],
    queries: &[E],
    log_sum: &[f32],
    delta: &[f32],
    lambda: &[f32],
    bias: &[E],
    strides: &[u32],
    head: u32,
    row_base: u32,
    row: u32,
    query: u32,
    time: u32,
    source: u32,
    window: u32,
    slope: f32,
    scale: f32,
    cap: f32,
    #[comptime] map: usize,
    #[comptime] plan: Plan,
    #[comptime] of: Of,
) {
    let step = comptime!(plan.step);
    let base = of_map(row_base, time, comptime!(map as u32), comptime!(plan.maps as u32));
    add_products::<E>(scores, keys, UNIT_POS_Y * 16, queries, step, plan.width);
    let (bias_base, bias_stride) = place(strides, CUBE_POS_Z, head, BIAS);
    #[unroll]
    for n in 0..step / 8 {
        #[unroll]
        for c in 0..2usize {
            let t = query + n as u32 * 8 + c as u32;
            let own = source - time + t;
            let last = min(t, time - 1);
            let at = (base + last) as usize;
            let sum_of_row = log_sum[at] * LOG2_E;
            let bias_row = bias_base + last * bias_stride;
            let share = share_of_map(lambda, row_base + last, map);
            #[unroll]
            for r in 0..2usize {
                let k = row + r as u32 * 8;
                let seen = t < time && visible(k, own, window, comptime!(plan.window));
                let mut score = scores.index(n)[r];
                let b = bias_of::<E>(bias, bias_row, k, source, plan);
                let (weight, _, of_product) =
                    weight_and_derivatives(score.extract(c), k, own, sum_of_row, seen, slope, b, scale, cap, plan);
                let weight = weight * share;
                if comptime!(of.value()) {
                    let mut pair = weights.index(n)[r];
                    let before = pair.extract(c);
                    pair.insert(c, before + weight);
                    weights.index_mut(n)[r] = pair;
                }
                if comptime!(of.key()) {
                    let by_weight = weight_grads.index(n)[r].extract(c);
                    score.insert(c, of_product * share * (by_weight - delta[at]));
                    scores.index_mut(n)[r] = score;
                }
            }
        }
    }
}
