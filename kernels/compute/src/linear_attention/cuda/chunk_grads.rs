//! The gradients with one decay per head, of the gated delta rule and of values that add up, in chunks of 64 tokens on tensor
//! cores: the equations of `backward` as products of 16-bit tiles with sums in f32. The gradient of the state is f32, in
//! registers, and is rounded only where a product reads it.
//!
//! Chunks are prepared and walked over as in the forward, which leaves `M`, `V'` and the state before every chunk
//! ([`Chunks::keep`]); then one cube per head and 64 channels of the values walks back, and one per chunk has the gradients
//! of its tokens. With `Ŝ` the gradient of the state after a chunk and `E = M diag(β e^γ) K`:
//!
//! ```text
//! dV' = Pᵀ dO + e^{γ_C − γ} K Ŝ,   dR = Mᵀ dV',   dS = e^{γ_C} Ŝ + Qᵀ (e^γ dO) − Eᵀ dV'
//! ```
//!
//! Where values add up, `V'` are the values, `dV'` their gradient, and there are no `M`, `E` and `dR`.

use super::chunks::*;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::BF16;
use crate::cuda::tile::*;
use crate::linear_attention::cuda::steps::Write;
use cubecl::prelude::*;

/// Whether there are gradients of this rule, and the tiles of [`delta_rule_token_grads`] fit into shared memory.
pub fn fits(plan: &Chunks) -> bool {
    plan.write != Write::EraseWrite && plan.fits() && plan.value_width <= 128
}

/// Bytes of shared memory that the larger of the kernels wants.
pub fn shared(plan: &Chunks) -> usize {
    let rows = CHUNK as usize;
    let (stride, value_stride) = (plan.width + PAD, plan.value_depth() + PAD);
    let used = |tile: usize| if plan.erases() { tile } else { UNUSED };
    let (by_key, by_value, square) = (rows * stride, rows * value_stride, rows * SQUARE);
    let back = 2 * (2 * by_key + 2 * square + plan.width * SQUARE + used(by_key) + used(square)) + 4 * rows;
    let tokens = 2 * (4 * by_value + 3 * square + used(by_value) + 3 * used(square)) + 4 * (5 * rows + PLANES as usize);
    back.max(tokens)
}

/// `e^{γ_i − γ_j}` of neighbouring entries `(i, j)` of this lane's part of a tile, zero where `i < j + apart`; transposed where
/// the tile is.
#[cube]
fn fade_weights(
    tiles: &mut Sequence<Fragment<f32>>,
    gamma: &[f32],
    #[comptime] apart: u32,
    #[comptime] transposed: bool,
) {
    #[unroll]
    for n in 0..CHUNK as usize / 8 {
        #[unroll]
        for r in 0..2usize {
            let row = UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
            let mut pair = tiles.index(n)[r];
            #[unroll]
            for c in 0..2usize {
                let column = n as u32 * 8 + UNIT_POS_X % 4 * 2 + c as u32;
                let (i, j) = if transposed { (column, row) } else { (row, column) };
                let fade = decayed(gamma[i as usize] - gamma[j as usize]);
                pair.insert(c, select(i >= j + apart, pair.extract(c) * fade, 0.0));
            }
            tiles.index_mut(n)[r] = pair;
        }
    }
}

/// `dV'` of every token, the gradient of the state after every chunk, and that of the first state.
///
/// `query, key [batch, heads, time, width]`, `decay [batch, heads, time]`, `out_grad [batch, heads, time, value_width]` where `strides [4,
/// 3]` says, `erased`, `new_grad` likewise, in order; `end_grad, start_grad [batch, heads, width, value_width]`, `state_grads [batch,
/// heads, chunks, width, value_width]`. Cubes: `(⌈value_width / COLUMNS⌉, batch · heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn delta_rule_walk_back<E: Float>(
    query: &[E],
    key: &[E],
    decay: &[f32],
    out_grad: &[E],
    strides: &[u32],
    erased: &[E],
    end_grad: &[f32],
    new_grad: &mut [E],
    state_grads: &mut [f32],
    start_grad: &mut [f32],
    heads: u32,
    time: u32,
    #[comptime] end: bool,
    #[comptime] plan: Chunks,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let value_width = comptime!(plan.value_width as u32);
    let stride = comptime!(width + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut erasers =
        Shared::<[E]>::new_aligned_slice(comptime!(if plan.erases() { rows * stride } else { UNUSED }), 16usize);
    // `dO`, the same times `e^γ`, and `−dV'`.
    let mut outs = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut seen = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut fresh =
        Shared::<[E]>::new_aligned_slice(comptime!(if plan.erases() { rows * SQUARE } else { UNUSED }), 16usize);
    let mut memory = Shared::<[E]>::new_aligned_slice(comptime!(width * SQUARE), 16usize);
    let mut gamma = Shared::<[f32]>::new_slice(rows);

    let head = CUBE_POS_Y;
    let first_column = CUBE_POS_X * COLUMNS;
    let base = head * time;
    let (query_base, query_stride) = place(strides, head / heads, head % heads, 0usize);
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 1usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 2usize);
    let (out_base, out_stride) = place(strides, head / heads, head % heads, 3usize);
    // The gradient of the values themselves lies as the others do.
    let (grad_base, apart) = if comptime!(plan.erases()) {
        (base, 1u32.runtime())
    } else {
        (head / heads * time * heads + head % heads, heads)
    };
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;
    let chunks = (time + chunk - 1) / chunk;

    let mut state = load_state(end_grad, head * width as u32, first_column, end, plan);
    for back in 0..chunks {
        let number = chunks - 1 - back;
        let first = number * chunk;
        store_state(&state, state_grads, (head * chunks + number) * width as u32, first_column, plan);
        // The last chunk's tiles have been read.
        sync_cube();
        copy_rows::<E>(query, &mut queries, query_base, first, time, query_stride, width as u32, rows, width, 8usize);
        copy_rows::<E>(key, &mut keys, key_base, first, time, key_stride, width as u32, rows, width, 8usize);
        if comptime!(plan.erases()) {
            let from = base * width as u32;
            copy_rows::<E>(erased, &mut erasers, from, first, time, width as u32, width as u32, rows, width, 8usize);
        }
        copy_rows::<E>(
            out_grad,
            &mut outs,
            out_base + first_column,
            first,
            time,
            out_stride,
            value_width - first_column,
            rows,
            comptime!(COLUMNS as usize),
            comptime!(plan.vector()),
        );
        commit_copies();
        sum_decays(decay, &mut gamma, decay_base, decay_stride, first, time);
        share_state::<E>(&state, &mut memory, plan);
        wait_for_all();
        sync_cube();

        let whole = gamma[comptime!(CHUNK as usize - 1)];
        let mut at = UNIT_POS;
        while at < chunk * COLUMNS {
            let place = (at / COLUMNS * SQUARE as u32 + at % COLUMNS) as usize;
            seen[place] = E::cast_from(f32::cast_from(outs[place]) * exp2(gamma[(at / COLUMNS) as usize]));
            at += CUBE_DIM;
        }
        let mut scores = zeros(rows);
        let mut grads = zeros(rows);
        #[unroll]
        for d in 0..width / 16 {
            let k = left::<E>(&keys, plane_row, d as u32 * 16, stride);
            multiply_rows::<E>(&mut scores, &k, &queries, d as u32 * 16, rows, stride);
            multiply_columns::<E>(&mut grads, &k, &memory, d as u32 * 16, rows, SQUARE);
        }
        fade_weights(&mut scores, &gamma, 0u32, true);
        #[unroll]
        for n in 0..rows / 8 {
            #[unroll]
            for r in 0..2usize {
                let faded = grads.index(n)[r] * Pair::new(exp2(whole - gamma[(row + r as u32 * 8) as usize]));
                grads.index_mut(n)[r] = faded;
            }
        }
        #[unroll]
        for k in 0..rows / 16 {
            let weights = as_left::<E>(scores.index(2 * k), scores.index(2 * k + 1));
            multiply_columns::<E>(&mut grads, &weights, &outs, k as u32 * 16, rows, SQUARE);
        }
        #[unroll]
        for n in 0..rows / 8 {
            #[unroll]
            for r in 0..2usize {
                let i = row + r as u32 * 8;
                let c = n as u32 * 8 + column;
                let pair = grads.index(n)[r];
                if comptime!(plan.erases()) {
                    let at = (i * SQUARE as u32 + c) as usize;
                    fresh[at] = E::cast_from(-pair.extract(0usize));
                    fresh[at + 1] = E::cast_from(-pair.extract(1usize));
                }
                if first + i < time && first_column + c < value_width {
                    let to = ((grad_base + (first + i) * apart) * value_width + first_column + c) as usize;
                    new_grad[to] = E::cast_from(pair.extract(0usize));
                    new_grad[to + 1] = E::cast_from(pair.extract(1usize));
                }
            }
        }
        sync_cube();
        fade_state(&mut state, exp2(whole), plan);
        write_state::<E>(&mut state, &queries, &seen, plan);
        if comptime!(plan.erases()) {
            write_state::<E>(&mut state, &erasers, &fresh, plan);
        }
    }
    store_state(&state, start_grad, head * width as u32, first_column, plan);
}

/// Reads [`CHUNK`] rows from `row` on of a state that begins at row `base`, rounded; columns beyond the last one are zero.
#[cube]
fn state_into<E: Float>(x: &[f32], tile: &mut [E], base: u32, row: u32, #[comptime] plan: Chunks) {
    let depth = comptime!(plan.value_depth() as u32);
    let width = comptime!(plan.value_width as u32);
    let mut at = UNIT_POS;
    while at < CHUNK * depth {
        let (i, c) = (at / depth, at % depth);
        let mut number = 0.0f32.runtime();
        if c < width {
            number = x[((base + row + i) * width + c) as usize];
        }
        tile[(i * comptime!((plan.value_depth() + PAD) as u32) + c) as usize] = E::cast_from(number);
        at += CUBE_DIM;
    }
}

/// This lane's entries, rounded, into a tile of rows of `stride`.
#[cube]
fn share_rows<E: Float>(
    tiles: &Sequence<Fragment<f32>>,
    to: &mut [E],
    sign: f32,
    #[comptime] columns: usize,
    #[comptime] stride: usize,
) {
    #[unroll]
    for n in 0..columns / 8 {
        #[unroll]
        for r in 0..2usize {
            let row = UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
            let at = (row * stride as u32 + n as u32 * 8 + UNIT_POS_X % 4 * 2) as usize;
            let pair = tiles.index(n)[r];
            to[at] = E::cast_from(sign * pair.extract(0usize));
            to[at + 1] = E::cast_from(sign * pair.extract(1usize));
        }
    }
}

/// The gradients of what the tokens of a chunk bring.
///
/// Shapes as in the kernels before, with `strides [6, 3]` of the first six; `new [batch, time, heads, value_width]`, as the gradients of
/// queries, keys, values, decays and gates. Cubes: `(chunks, batch · heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn delta_rule_token_grads<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    decay: &[f32],
    beta: &[E],
    out_grad: &[E],
    strides: &[u32],
    inverses: &[E],
    new: &[E],
    states: &[f32],
    new_grad: &[E],
    state_grads: &[f32],
    query_grad: &mut [E],
    key_grad: &mut [E],
    value_grad: &mut [E],
    decay_grad: &mut [f32],
    beta_grad: &mut [E],
    heads: u32,
    time: u32,
    #[comptime] plan: Chunks,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width as u32);
    let value_width = comptime!(plan.value_width as u32);
    let depth = comptime!(plan.value_depth());
    let stride = comptime!(plan.value_depth() + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);
    let wide = comptime!(rows * stride);
    let square = comptime!(rows * SQUARE);
    let rest = comptime!(if plan.erases() { wide } else { UNUSED });
    let gated = comptime!(if plan.erases() { square } else { UNUSED });

    let mut outs = Shared::<[E]>::new_aligned_slice(wide, 16usize);
    let mut news = Shared::<[E]>::new_aligned_slice(wide, 16usize);
    // `dV'`, then `dR`.
    let mut rests = Shared::<[E]>::new_aligned_slice(rest, 16usize);
    let mut before = Shared::<[E]>::new_aligned_slice(wide, 16usize);
    let mut after = Shared::<[E]>::new_aligned_slice(wide, 16usize);
    let mut inverted = Shared::<[E]>::new_aligned_slice(gated, 16usize);
    let mut score_grads = Shared::<[E]>::new_aligned_slice(square, 16usize);
    let mut lower_grads = Shared::<[E]>::new_aligned_slice(gated, 16usize);
    let mut queries = Shared::<[E]>::new_aligned_slice(square, 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(square, 16usize);
    let mut erased = Shared::<[E]>::new_aligned_slice(gated, 16usize);
    let mut gamma = Shared::<[f32]>::new_slice(rows);
    let mut betas = Shared::<[f32]>::new_slice(rows);
    let mut earlier = Shared::<[f32]>::new_slice(rows);
    let mut later = Shared::<[f32]>::new_slice(rows);
    let mut gates = Shared::<[f32]>::new_slice(rows);
    let mut through = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));

    let first = CUBE_POS_X * chunk;
    let head = CUBE_POS_Y;
    // The first row of the head, and what lies between two.
    let (base, apart) = (head / heads * time * heads + head % heads, heads);
    let (query_base, query_stride) = place(strides, head / heads, head % heads, 0usize);
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 1usize);
    let (value_base, value_step) = place(strides, head / heads, head % heads, 2usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 3usize);
    let (beta_base, beta_stride) = place(strides, head / heads, head % heads, 4usize);
    let (out_base, out_stride) = place(strides, head / heads, head % heads, 5usize);
    let number = head * CUBE_COUNT_X + CUBE_POS_X;
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;

    let vector = comptime!(plan.vector());
    copy_rows::<E>(out_grad, &mut outs, out_base, first, time, out_stride, value_width, rows, depth, vector);
    if comptime!(plan.erases()) {
        let (from, between) = (base * value_width, apart * value_width);
        copy_rows::<E>(new, &mut news, from, first, time, between, value_width, rows, depth, vector);
        let from = head * time * value_width;
        copy_rows::<E>(new_grad, &mut rests, from, first, time, value_width, value_width, rows, depth, vector);
        let one = number * chunk;
        copy_rows::<E>(inverses, &mut inverted, 0u32.runtime(), one, one + chunk, chunk, chunk, rows, rows, 8usize);
    } else {
        copy_rows::<E>(value, &mut news, value_base, first, time, value_step, value_width, rows, depth, vector);
    }
    commit_copies();
    sum_decays(decay, &mut gamma, decay_base, decay_stride, first, time);
    if UNIT_POS < chunk {
        let t = first + UNIT_POS;
        let mut b = 0.0f32.runtime();
        if comptime!(plan.erases()) && t < time {
            b = f32::cast_from(beta[(beta_base + t * beta_stride) as usize]);
        }
        betas[UNIT_POS as usize] = b;
    }
    wait_for_all();
    sync_cube();

    let mut of_gates = Array::<f32>::new(2usize);
    let mut of_earlier = Array::<f32>::new(2usize);
    let mut of_later = Array::<f32>::new(2usize);
    #[unroll]
    for r in 0..2usize {
        of_gates[r] = 0.0;
        of_earlier[r] = 0.0;
        of_later[r] = 0.0;
    }
    if comptime!(plan.erases()) {
        let mut grads = zeros(depth);
        #[unroll]
        for k in 0..rows / 16 {
            let m = left_of_transposed::<E>(&inverted, k as u32 * 16, plane_row, SQUARE);
            multiply_columns::<E>(&mut grads, &m, &rests, k as u32 * 16, depth, stride);
        }
        // All planes have read `dV'`.
        sync_cube();
        share_rows::<E>(&grads, &mut rests, 1.0f32.runtime(), depth, stride);
        #[unroll]
        for r in 0..2usize {
            let i = row + r as u32 * 8;
            if first + i < time {
                #[unroll]
                for n in 0..depth / 8 {
                    let c = n as u32 * 8 + column;
                    if c < value_width {
                        let at = (value_base + (first + i) * value_step + c) as usize;
                        let to = ((base + (first + i) * apart) * value_width + c) as usize;
                        let pair = grads.index(n)[r];
                        #[unroll]
                        for e in 0..2usize {
                            of_gates[r] = of_gates[r] + pair.extract(e) * f32::cast_from(value[at + e]);
                            value_grad[to + e] = E::cast_from(pair.extract(e) * betas[i as usize]);
                        }
                    }
                }
            }
        }
        sync_cube();
    }

    let mut of_scores = zeros(rows);
    let mut of_lower = zeros(comptime!(if plan.erases() { rows } else { 0 }));
    #[unroll]
    for d in 0..depth / 16 {
        let o = left::<E>(&outs, plane_row, d as u32 * 16, stride);
        multiply_rows::<E>(&mut of_scores, &o, &news, d as u32 * 16, rows, stride);
        if comptime!(plan.erases()) {
            let e = left::<E>(&rests, plane_row, d as u32 * 16, stride);
            multiply_rows::<E>(&mut of_lower, &e, &news, d as u32 * 16, rows, stride);
        }
    }
    fade_weights(&mut of_scores, &gamma, 0u32, false);
    share_rows::<E>(&of_scores, &mut score_grads, 1.0f32.runtime(), rows, SQUARE);
    if comptime!(plan.erases()) {
        fade_weights(&mut of_lower, &gamma, 1u32, false);
        share_rows::<E>(&of_lower, &mut lower_grads, -1.0f32.runtime(), rows, SQUARE);
    }

    let whole = gamma[comptime!(CHUNK as usize - 1)];
    let mut of_state = 0.0f32;
    for half in 0..comptime!(width / 64) {
        // The last half's tiles have been read, and the gradients of the weights are there.
        sync_cube();
        let (query_from, key_from, columns) = (query_base + half * 64, key_base + half * 64, 64u32.runtime());
        copy_rows::<E>(query, &mut queries, query_from, first, time, query_stride, columns, rows, rows, 8usize);
        copy_rows::<E>(key, &mut keys, key_from, first, time, key_stride, columns, rows, rows, 8usize);
        commit_copies();
        state_into::<E>(states, &mut before, number * width, half * 64, plan);
        state_into::<E>(state_grads, &mut after, number * width, half * 64, plan);
        wait_for_all();
        sync_cube();
        if comptime!(plan.erases()) {
            let mut at = UNIT_POS;
            while at < chunk * chunk {
                let place = (at / chunk * SQUARE as u32 + at % chunk) as usize;
                erased[place] = E::cast_from(f32::cast_from(keys[place]) * betas[(at / chunk) as usize]);
                at += CUBE_DIM;
            }
        }
        let mut at = UNIT_POS;
        while at < chunk * value_width {
            let place = (at / value_width * stride as u32 + at % value_width) as usize;
            of_state += f32::cast_from(before[place]) * f32::cast_from(after[place]);
            at += CUBE_DIM;
        }
        sync_cube();

        let mut of_queries = zeros(rows);
        let mut of_erased = zeros(rows);
        let mut of_keys = zeros(rows);
        #[unroll]
        for d in 0..depth / 16 {
            let o = left::<E>(&outs, plane_row, d as u32 * 16, stride);
            multiply_rows::<E>(&mut of_queries, &o, &before, d as u32 * 16, rows, stride);
            if comptime!(plan.erases()) {
                let e = left::<E>(&rests, plane_row, d as u32 * 16, stride);
                multiply_rows::<E>(&mut of_erased, &e, &before, d as u32 * 16, rows, stride);
            }
            let u = left::<E>(&news, plane_row, d as u32 * 16, stride);
            multiply_rows::<E>(&mut of_keys, &u, &after, d as u32 * 16, rows, stride);
        }
        #[unroll]
        for r in 0..2usize {
            let i = row + r as u32 * 8;
            let from_start = exp2(gamma[i as usize]);
            let to_end = exp2(whole - gamma[i as usize]);
            #[unroll]
            for n in 0..rows / 8 {
                let at = (i * SQUARE as u32 + n as u32 * 8 + column) as usize;
                let kept = of_keys.index(n)[r] * Pair::new(to_end);
                of_earlier[r] = of_earlier[r]
                    + kept.extract(0usize) * f32::cast_from(keys[at])
                    + kept.extract(1usize) * f32::cast_from(keys[at + 1]);
                of_keys.index_mut(n)[r] = kept;
                let seen = of_queries.index(n)[r] * Pair::new(from_start);
                of_queries.index_mut(n)[r] = seen;
                let gone = of_erased.index(n)[r] * Pair::new(-from_start);
                of_erased.index_mut(n)[r] = gone;
            }
        }
        #[unroll]
        for k in 0..rows / 16 {
            let k = k as u32 * 16;
            let scores = left::<E>(&score_grads, plane_row, k, SQUARE);
            multiply_columns::<E>(&mut of_queries, &scores, &keys, k, rows, SQUARE);
            let scores = left_of_transposed::<E>(&score_grads, k, plane_row, SQUARE);
            multiply_columns::<E>(&mut of_keys, &scores, &queries, k, rows, SQUARE);
            if comptime!(plan.erases()) {
                let lower = left::<E>(&lower_grads, plane_row, k, SQUARE);
                multiply_columns::<E>(&mut of_erased, &lower, &keys, k, rows, SQUARE);
                let lower = left_of_transposed::<E>(&lower_grads, k, plane_row, SQUARE);
                multiply_columns::<E>(&mut of_keys, &lower, &erased, k, rows, SQUARE);
            }
        }
        #[unroll]
        for r in 0..2usize {
            let i = row + r as u32 * 8;
            let b = betas[i as usize];
            #[unroll]
            for n in 0..rows / 8 {
                let c = n as u32 * 8 + column;
                #[unroll]
                for e in 0..2usize {
                    let at = (i * SQUARE as u32 + c + e as u32) as usize;
                    let k = f32::cast_from(keys[at]);
                    let d_query = of_queries.index(n)[r].extract(e);
                    let d_erased = of_erased.index(n)[r].extract(e);
                    let d_key = of_keys.index(n)[r].extract(e);
                    of_gates[r] = of_gates[r] + d_erased * k;
                    of_later[r] = of_later[r] + d_query * f32::cast_from(queries[at]) + b * k * d_erased - k * d_key;
                    if first + i < time {
                        let to = ((base + (first + i) * apart) * width + half * 64 + c + e as u32) as usize;
                        query_grad[to] = E::cast_from(d_query);
                        key_grad[to] = E::cast_from(d_key + b * d_erased);
                    }
                }
            }
        }
    }

    #[unroll]
    for r in 0..2usize {
        let i = (row + r as u32 * 8) as usize;
        let gate = row_sum(of_gates[r]);
        let kept = row_sum(of_earlier[r]);
        let own = row_sum(of_later[r]);
        if UNIT_POS_X % 4 == 0 {
            gates[i] = gate;
            earlier[i] = kept;
            // What reaches a key through the state counts for the decays after it only.
            later[i] = own + kept;
        }
    }
    let of_plane = plane_sum(of_state);
    if UNIT_POS_X == 0 {
        through[UNIT_POS_Y as usize] = of_plane;
    }
    sync_cube();
    let t = first + UNIT_POS;
    if UNIT_POS < chunk && t < time {
        let mut sum = 0.0f32;
        #[unroll]
        for plane in 0..PLANES {
            sum += through[plane as usize];
        }
        sum *= exp2(whole);
        for i in 0..UNIT_POS {
            sum += earlier[i as usize];
        }
        for i in UNIT_POS..chunk {
            sum += later[i as usize];
        }
        let to = (base + t * apart) as usize;
        decay_grad[to] = sum;
        if comptime!(plan.erases()) {
            beta_grad[to] = E::cast_from(gates[UNIT_POS as usize]);
        }
    }
}

/// What walks back over the chunks of `heads` of every one of a batch, and what has their tokens' gradients; `end` is whether the last
/// state has one.
pub fn kernels(plan: &Chunks, [batch, heads]: [usize; 2], time: usize, end: bool) -> [Kernel; 2] {
    assert!(fits(plan) && time >= 1, "no CUDA tiles for the gradients of {time} tokens of {plan:?}");
    let plan = *plan;
    let add = if plan.erases() { "" } else { " Add" };
    let name = |kernel: &str, more: &str| format!("delta_rule_{kernel} {} {}{add}{more}", plan.width, plan.value_width);
    let units = CubeDim::new_2d(32, PLANES);
    let chunks = time.div_ceil(CHUNK as usize);
    let all = batch * heads;
    let (tokens, state) = (all * time, all * plan.width * plan.value_width);
    let (keys, values) = (tokens * plan.width, tokens * plan.value_width);
    let used = |count: usize| if plan.erases() { count } else { 0 };
    [
        kernel!(
            name("walk_back", if end { " end" } else { "" }),
            [(plan.value_width as u32).div_ceil(COLUMNS), all as u32, 1],
            units,
            delta_rule_walk_back as DeltaRuleWalkBack,
            [
                query: keys, key: keys, decay: tokens, out_grad: values, strides: 12, erased: used(keys),
                end_grad: if end { state } else { 0 }, new_grad: values, state_grads: chunks * state, start_grad: state
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            end,
            plan,
            BF16
        ),
        kernel!(
            name("token_grads", ""),
            [chunks as u32, all as u32, 1],
            units,
            delta_rule_token_grads as DeltaRuleTokenGrads,
            [
                query: keys, key: keys, value: values, decay: tokens, beta: used(tokens), out_grad: values, strides: 18,
                inverses: used(all * chunks * (CHUNK * CHUNK) as usize), new: used(values), states: chunks * state,
                new_grad: used(values), state_grads: chunks * state, query_grad: keys, key_grad: keys,
                value_grad: used(values), decay_grad: tokens, beta_grad: used(tokens)
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            BF16
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_much_shared_memory_its_gradients_want() {
        for (width, value_width) in [(64, 68), (128, 128)] {
            for write in [Write::Add, Write::Beta] {
                let plan = Chunks { width, value_width, write, start: true, keep: true };
                let most = kernels(&plan, [1, 1], 1, true).map(|kernel| kernel.source().shared).into_iter().max();
                assert_eq!(most, Some(shared(&plan)), "{plan:?}");
            }
        }
    }

    #[test]
    fn there_are_gradients_in_tiles_where_a_head_has_one_gate_at_most() {
        let of = |write| fits(&Chunks { width: 64, value_width: 64, write, start: true, keep: false });
        assert_eq!([Write::Beta, Write::Add, Write::EraseWrite].map(of), [true, true, false]);
    }
}
