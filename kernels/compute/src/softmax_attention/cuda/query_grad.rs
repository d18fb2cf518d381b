//! The gradient of the queries: 64 of them in a cube, which goes over the keys that they see.

use super::plan::{Plan, ROWS, key_steps, visible};
use super::tiles::*;
use super::{LOG2_E, weight_and_slope};
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// The gradient of the queries: the forward pass's walk over the keys.
///
/// Shapes as in [`attention_forward`](super::forward::attention_forward); `out_grad` as its output, `log_sum, delta
/// [batch, heads, time]`, `grad` as `query`, in pairs. `gradient_scale` is the scale itself, not in units of `ln 2`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_query_grad<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    slopes: &[f32],
    out_grad: &[E],
    log_sum: &[f32],
    delta: &[f32],
    grad: &mut [Pair<E>],
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
    let key_tile = comptime!(step * stride);
    let value_tile = comptime!(step * value_stride);

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut grads = Shared::<[E]>::new_aligned_slice(comptime!(rows * value_stride), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(2 * key_tile), 16usize);
    let mut values = Shared::<[E]>::new_aligned_slice(comptime!(2 * value_tile), 16usize);

    let heads = CUBE_COUNT_Y;
    let head = CUBE_POS_Y;
    let kv = CUBE_POS_Z * kv_heads + head / (heads / kv_heads);
    let first_row = ((time - 1) / ROWS - CUBE_POS_X) * ROWS;
    let row_base = (CUBE_POS_Z * heads + head) * time;
    let kv_base = kv * source;

    let plane_row = UNIT_POS_Y * 16;
    let row = first_row + plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;
    let mut slope = 0.0f32.runtime();
    if comptime!(plan.slopes) {
        slope = slopes[head as usize] * LOG2_E;
    }
    // Rows past the end are computed from the last one's numbers and never stored.
    let mut sums_of_rows = Array::<f32>::new(2usize);
    let mut deltas = Array::<f32>::new(2usize);
    #[unroll]
    for r in 0..2usize {
        let at = (row_base + min(row + r as u32 * 8, time - 1)) as usize;
        sums_of_rows[r] = log_sum[at] * LOG2_E;
        deltas[r] = delta[at];
    }

    let mut sums = zeros(depth);
    let (first, end) = key_steps(first_row, time, source, window, comptime!(plan.window), comptime!(step as u32));
    copy_tile::<E>(query, &mut queries, row_base, first_row, time, rows, width);
    copy_tile::<E>(out_grad, &mut grads, row_base, first_row, time, rows, value_width);
    copy_stage::<E>(key, value, &mut keys, &mut values, 0usize, kv_base, first * step as u32, source, step, plan);
    commit_copies();

    for j in first..end {
        let stage = ((j - first) % 2) as usize;
        let next = 1 - stage;
        if j + 1 < end {
            let from = (j + 1) * step as u32;
            copy_stage::<E>(key, value, &mut keys, &mut values, next, kv_base, from, source, step, plan);
        }
        commit_copies();
        wait_for_all_but_last();
        sync_cube();
        let keys_now = &keys[stage * key_tile..(stage + 1) * key_tile];
        let values_now = &values[stage * value_tile..(stage + 1) * value_tile];

        let mut scores = zeros(step);
        add_products::<E>(&mut scores, &queries, plane_row, keys_now, step, width);
        let mut weight_grads = zeros(step);
        add_products::<E>(&mut weight_grads, &grads, plane_row, values_now, step, value_width);

        #[unroll]
        for n in 0..step / 8 {
            #[unroll]
            for r in 0..2usize {
                let own = source - time + row + r as u32 * 8;
                let products = scores.index(n)[r];
                let by_weight = weight_grads.index(n)[r];
                let mut score_grads = Pair::<f32>::new(0.0);
                #[unroll]
                for c in 0..2usize {
                    let k = j * step as u32 + n as u32 * 8 + column + c as u32;
                    let seen = visible(k, own, window, comptime!(plan.window));
                    let (weight, derivative) =
                        weight_and_slope(products.extract(c), k, own, sums_of_rows[r], seen, slope, scale, cap, plan);
                    score_grads.insert(c, weight * derivative * (by_weight.extract(c) - deltas[r]));
                }
                scores.index_mut(n)[r] = score_grads;
            }
        }

        add_weighted::<E>(&mut sums, &scores, keys_now, step, width);
        // The next round's copies overwrite this stage.
        sync_cube();
    }
    store_rows::<E>(&sums, grad, row_base, row, time, gradient_scale, width, depth);
}
