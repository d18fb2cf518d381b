//! The gradients of what every token brings, chunk by chunk.
//!
//! A plane has four of the tokens; its lanes have the keys of a chunk while `dP` and `dA` are made, and then two channels each of
//! [`BLOCK`] of the keys' channels at a time. The gradient of a decay needs no sum of its own over pairs of tokens (see
//! `cpu/chunk.rs`): within a chunk it is
//!
//! ```text
//! dg_t = Σ_v e^{γ_C} S dS' + Σ_{s < t} K̂ ∘ dK̂ + Σ_{s ≥ t} (Q ∘ dQ + B ∘ dB − K ∘ dK)
//! ```
//!
//! where `dK` is what reaches keys through `P` and `A`, and `dK̂` what reaches them through the state.

use super::*;
use crate::cuda::tile::exp2;
use crate::linear_attention::cuda::chunks::decayed;

/// Channels of the keys that are worked on at a time.
const BLOCK: u32 = 64;
/// Numbers of a row of as many in shared memory.
const ROW: u32 = BLOCK + 1;
/// Quads of a row of 32 values in shared memory: eight rows lie in different banks.
const QUADS: u32 = 9;

/// Reads 32 tokens by 32 values from column `first_column` on: a quad for every unit of eight planes.
#[cube]
#[allow(clippy::too_many_arguments)]
fn values_into<E: Float>(
    x: &[Quad<E>],
    tile: &mut [Quad<f32>],
    head: u32,
    first: u32,
    first_column: u32,
    time: u32,
    #[comptime] width: u32,
) {
    let (i, q) = (UNIT_POS / 8, UNIT_POS % 8);
    tile[(i * QUADS + q) as usize] = quad::<E>(x, head, first + i, first_column + q * 4, time, width);
}

/// Reads [`BLOCK`] rows from `row` on of the state that begins at `base`, by 32 values.
#[cube]
fn state_into(x: &[Quad<f32>], tile: &mut [Quad<f32>], base: u32, row: u32, column: u32, #[comptime] plan: Plan) {
    let width = comptime!(plan.value_width as u32);
    #[unroll]
    for half in 0..2u32 {
        let (i, q) = (half * 32 + UNIT_POS / 8, UNIT_POS % 8);
        let c = column + q * 4;
        let mut quad = Quad::<f32>::new(0.0);
        if row + i < comptime!(plan.width as u32) && c < width {
            quad = x[((base + (row + i) * width + c) / 4) as usize];
        }
        tile[(i * QUADS + q) as usize] = quad;
    }
}

/// The product of two quads.
#[cube]
fn dot(x: Quad<f32>, y: Quad<f32>) -> f32 {
    (x * y).vector_sum()
}

/// Shapes as the inputs have them, `gamma, written, states, written_grad, state_grads` as the kernels before left them. Cubes: `(chunks,
/// heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn linear_token_grads<E: Float>(
    query: &[E],
    key: &[E],
    value: &[Quad<E>],
    erase: &[E],
    write: &[Quad<E>],
    out_grad: &[Quad<E>],
    gamma: &[f32],
    written: &[Quad<f32>],
    states: &[Quad<f32>],
    written_grad: &[Quad<f32>],
    state_grads: &[Quad<f32>],
    query_grad: &mut [E],
    key_grad: &mut [E],
    value_grad: &mut [Quad<E>],
    decay_grad: &mut [f32],
    erase_grad: &mut [E],
    write_grad: &mut [Quad<E>],
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width as u32);
    let value_width = comptime!(plan.value_width as u32);
    let square = comptime!((CHUNK * SQUARE) as usize);
    let value_tile = comptime!((CHUNK * QUADS) as usize);
    let state_tile = comptime!((BLOCK * QUADS) as usize);
    let key_tile = comptime!((CHUNK * ROW) as usize);
    let mut outs = Shared::<[Quad<f32>]>::new_slice(value_tile);
    let mut news = Shared::<[Quad<f32>]>::new_slice(value_tile);
    let mut rests = Shared::<[Quad<f32>]>::new_slice(value_tile);
    let mut before = Shared::<[Quad<f32>]>::new_slice(state_tile);
    let mut after = Shared::<[Quad<f32>]>::new_slice(state_tile);
    let mut score_grads = Shared::<[f32]>::new_slice(square);
    let mut lower_grads = Shared::<[f32]>::new_slice(square);
    let mut queries = Shared::<[f32]>::new_slice(key_tile);
    let mut keys = Shared::<[f32]>::new_slice(key_tile);
    let mut erased = Shared::<[f32]>::new_slice(key_tile);
    let mut gammas = Shared::<[f32]>::new_slice(key_tile);
    // What a decay gathers from the tokens before it, and from its own on; and from the state.
    let mut earlier = Shared::<[f32]>::new_slice(key_tile);
    let mut later = Shared::<[f32]>::new_slice(key_tile);
    let mut through = Shared::<[f32]>::new_slice(comptime!((PLANES * BLOCK) as usize));
    let mut gate_grads = Shared::<[f32]>::new_slice(comptime!(CHUNK as usize));

    let head = CUBE_POS_Y;
    let first = CUBE_POS_X * CHUNK;
    let chunk = head * CUBE_COUNT_X + CUBE_POS_X;
    let rows = chunk * CHUNK;
    let base = chunk * comptime!((plan.width * plan.value_width) as u32);
    let lane = UNIT_POS_X;

    // The gradients of the weights, and of the values.
    let mut of_scores = Array::<f32>::new(4usize);
    let mut of_lower = Array::<f32>::new(4usize);
    #[unroll]
    for r in 0..4usize {
        of_scores[r] = 0.0;
        of_lower[r] = 0.0;
    }
    let mut gate_grad = 0.0f32;
    for tile in 0..comptime!(value_width.div_ceil(32)) {
        let column = tile * 32;
        // The last tiles have been read.
        sync_cube();
        values_into::<E>(out_grad, &mut outs, head, first, column, time, value_width);
        values_into::<f32>(written, &mut news, head, first, column, time, value_width);
        let (i, c) = (UNIT_POS / 8, column + UNIT_POS % 8 * 4);
        let d = quad::<f32>(written_grad, head, first + i, c, time, value_width);
        let mut d_value = d;
        if comptime!(plan.write == Write::Beta) {
            d_value *= Quad::new(number::<E>(erase, head, first + i, 0u32.runtime(), time, 1u32));
            gate_grad += dot(d, quad::<E>(value, head, first + i, c, time, value_width));
        }
        if comptime!(plan.write == Write::EraseWrite) {
            d_value *= quad::<E>(write, head, first + i, c, time, value_width);
        }
        if first + i < time && c < value_width {
            let at = (((head * time + first + i) * value_width + c) / 4) as usize;
            value_grad[at] = Quad::cast_from(d_value);
            if comptime!(plan.write == Write::EraseWrite) {
                write_grad[at] = Quad::cast_from(d * Quad::<f32>::cast_from(value[at]));
            }
        }
        if comptime!(plan.erases()) {
            rests[(i * QUADS + UNIT_POS % 8) as usize] = d;
        }
        sync_cube();
        for q in 0..8u32 {
            let new = news[(lane * QUADS + q) as usize];
            #[unroll]
            for r in 0..4usize {
                let at = ((UNIT_POS_Y * 4 + r as u32) * QUADS + q) as usize;
                of_scores[r] = of_scores[r] + dot(outs[at], new);
                if comptime!(plan.erases()) {
                    of_lower[r] = of_lower[r] - dot(rests[at], new);
                }
            }
        }
    }
    #[unroll]
    for r in 0..4usize {
        let i = UNIT_POS_Y * 4 + r as u32;
        let mut fade = 1.0f32.runtime();
        if comptime!(plan.by_head()) {
            let here = gamma_at(gamma, rows + i, 0u32.runtime(), plan);
            fade = decayed(here - gamma_at(gamma, rows + lane, 0u32.runtime(), plan));
        }
        score_grads[(i * SQUARE + lane) as usize] = select(lane <= i, of_scores[r] * fade, 0.0);
        if comptime!(plan.erases()) {
            lower_grads[(i * SQUARE + lane) as usize] = select(lane < i, of_lower[r] * fade, 0.0);
        }
    }
    if comptime!(plan.write == Write::Beta) {
        // Eight neighbouring units have a token's values.
        gate_grad += plane_shuffle_xor(gate_grad, 1);
        gate_grad += plane_shuffle_xor(gate_grad, 2);
        gate_grad += plane_shuffle_xor(gate_grad, 4);
        if UNIT_POS % 8 == 0 {
            gate_grads[(UNIT_POS / 8) as usize] = gate_grad;
        }
    }

    // Sums over all channels of the keys, of this plane's tokens.
    let mut of_gates = Array::<f32>::new(4usize);
    let mut of_later = Array::<f32>::new(4usize);
    let mut of_earlier = Array::<f32>::new(4usize);
    #[unroll]
    for r in 0..4usize {
        of_gates[r] = 0.0;
        of_later[r] = 0.0;
        of_earlier[r] = 0.0;
    }
    let mut of_state = 0.0f32;
    for block in 0..comptime!(width.div_ceil(BLOCK)) {
        let mut of_queries = Array::<f32>::new(8usize);
        let mut of_keys = Array::<f32>::new(8usize);
        let mut of_erased = Array::<f32>::new(8usize);
        let mut kept = Array::<f32>::new(2usize);
        #[unroll]
        for e in 0..8usize {
            of_queries[e] = 0.0;
            of_keys[e] = 0.0;
            of_erased[e] = 0.0;
        }
        kept[0] = 0.0;
        kept[1] = 0.0;
        for tile in 0..comptime!(value_width.div_ceil(32)) {
            let column = tile * 32;
            // The last tiles have been read.
            sync_cube();
            values_into::<E>(out_grad, &mut outs, head, first, column, time, value_width);
            values_into::<f32>(written, &mut news, head, first, column, time, value_width);
            if comptime!(plan.erases()) {
                values_into::<f32>(written_grad, &mut rests, head, first, column, time, value_width);
            }
            state_into(states, &mut before, base, block * BLOCK, column, plan);
            state_into(state_grads, &mut after, base, block * BLOCK, column, plan);
            if tile == 0 {
                #[unroll]
                for e in 0..8u32 {
                    let (i, c) = (UNIT_POS_Y * 4 + e / 2, e % 2 * 32 + lane);
                    let (at, t, channel) = ((i * ROW + c) as usize, first + i, block * BLOCK + c);
                    let k = number::<E>(key, head, t, channel, time, width);
                    queries[at] = number::<E>(query, head, t, channel, time, width);
                    keys[at] = k;
                    if comptime!(plan.erases()) {
                        erased[at] = k * erase_gate::<E>(erase, head, t, channel, time, plan);
                    }
                    gammas[at] = gamma_at(gamma, rows + i, channel, plan);
                }
            }
            sync_cube();
            for q in 0..8u32 {
                #[unroll]
                for s in 0..2usize {
                    let at = ((s as u32 * 32 + lane) * QUADS + q) as usize;
                    let (state, grad) = (before[at], after[at]);
                    #[unroll]
                    for r in 0..4usize {
                        let token = ((UNIT_POS_Y * 4 + r as u32) * QUADS + q) as usize;
                        let e = comptime!(2 * r + s);
                        of_queries[e] = of_queries[e] + dot(outs[token], state);
                        of_keys[e] = of_keys[e] + dot(news[token], grad);
                        if comptime!(plan.erases()) {
                            of_erased[e] = of_erased[e] - dot(rests[token], state);
                        }
                    }
                }
            }
            if comptime!(plan.decay != Decay::None) {
                // A quad for every plane.
                #[unroll]
                for s in 0..2usize {
                    let at = ((s as u32 * 32 + lane) * QUADS + UNIT_POS_Y) as usize;
                    kept[s] = kept[s] + dot(before[at], after[at]);
                }
            }
        }

        #[unroll]
        for r in 0..4usize {
            let i = UNIT_POS_Y * 4 + r as u32;
            let t = first + i;
            #[unroll]
            for s in 0..2usize {
                let e = comptime!(2 * r + s);
                let c = s as u32 * 32 + lane;
                let at = (i * ROW + c) as usize;
                let here = gammas[at];
                let from_start = exp2(here);
                let to_end = exp2(gammas[(comptime!((CHUNK - 1) * ROW) + c) as usize] - here);
                let mut d_query = of_queries[e] * from_start;
                let mut d_erased = of_erased[e] * from_start;
                let mut d_key = 0.0f32;
                for j in 0..i + 1 {
                    let other = (j * ROW + c) as usize;
                    let mut k = keys[other];
                    if comptime!(plan.by_channel()) {
                        k *= decayed(here - gammas[other]);
                    }
                    d_query += score_grads[(i * SQUARE + j) as usize] * k;
                    if comptime!(plan.erases()) {
                        d_erased += lower_grads[(i * SQUARE + j) as usize] * k;
                    }
                }
                for j in i..CHUNK {
                    let other = (j * ROW + c) as usize;
                    let mut arriving = score_grads[(j * SQUARE + i) as usize] * queries[other];
                    if comptime!(plan.erases()) {
                        arriving += lower_grads[(j * SQUARE + i) as usize] * erased[other];
                    }
                    if comptime!(plan.by_channel()) {
                        arriving *= decayed(gammas[other] - here);
                    }
                    d_key += arriving;
                }
                let k = keys[at];
                let d_kept = of_keys[e] * to_end;
                let mut from_own = queries[at] * d_query - k * d_key;
                let mut d_whole = d_key + d_kept;
                let channel = block * BLOCK + c;
                let there = t < time && channel < width;
                let to = ((head * time + t) * width + channel) as usize;
                if comptime!(plan.erases()) {
                    from_own += erased[at] * d_erased;
                    d_whole += d_erased * erase_gate::<E>(erase, head, t, channel, time, plan);
                    if comptime!(plan.write == Write::Beta) {
                        of_gates[r] = of_gates[r] + d_erased * k;
                    } else if there {
                        erase_grad[to] = E::cast_from(d_erased * k);
                    }
                }
                if there {
                    query_grad[to] = E::cast_from(d_query);
                    key_grad[to] = E::cast_from(d_whole);
                }
                if comptime!(plan.by_head()) {
                    of_later[r] = of_later[r] + from_own;
                    of_earlier[r] = of_earlier[r] + k * d_kept;
                }
                if comptime!(plan.by_channel()) {
                    later[at] = from_own;
                    earlier[at] = k * d_kept;
                }
            }
        }
        if comptime!(plan.decay != Decay::None) {
            #[unroll]
            for s in 0..2usize {
                let c = s as u32 * 32 + lane;
                let keep = exp2(gammas[(comptime!((CHUNK - 1) * ROW) + c) as usize]);
                if comptime!(plan.by_head()) {
                    of_state += kept[s] * keep;
                } else {
                    through[(UNIT_POS_Y * BLOCK + c) as usize] = kept[s] * keep;
                }
            }
        }
        if comptime!(plan.by_channel()) {
            sync_cube();
            let channel = block * BLOCK + UNIT_POS;
            if UNIT_POS < BLOCK && channel < width {
                let mut sum = 0.0f32;
                #[unroll]
                for plane in 0..PLANES {
                    sum += through[(plane * BLOCK + UNIT_POS) as usize];
                }
                for i in 0..CHUNK {
                    sum += later[(i * ROW + UNIT_POS) as usize];
                }
                for i in 0..CHUNK {
                    if first + i < time {
                        decay_grad[((head * time + first + i) * width + channel) as usize] = sum;
                    }
                    let at = (i * ROW + UNIT_POS) as usize;
                    sum += earlier[at] - later[at];
                }
            }
        }
    }

    #[unroll]
    for r in 0..4usize {
        let i = UNIT_POS_Y * 4 + r as u32;
        if comptime!(plan.write == Write::Beta) {
            let sum = plane_sum(of_gates[r]);
            if lane == 0 && first + i < time {
                erase_grad[(head * time + first + i) as usize] = E::cast_from(sum + gate_grads[i as usize]);
            }
        }
        if comptime!(plan.by_head()) {
            let (sum_later, sum_earlier) = (plane_sum(of_later[r]), plane_sum(of_earlier[r]));
            if lane == 0 {
                later[i as usize] = sum_later;
                earlier[i as usize] = sum_earlier;
            }
        }
    }
    if comptime!(plan.by_head()) {
        let sum = plane_sum(of_state);
        if lane == 0 {
            through[UNIT_POS_Y as usize] = sum;
        }
        sync_cube();
        let t = first + UNIT_POS;
        if UNIT_POS < CHUNK && t < time {
            let mut sum = 0.0f32;
            #[unroll]
            for plane in 0..PLANES {
                sum += through[plane as usize];
            }
            for i in 0..UNIT_POS {
                sum += earlier[i as usize];
            }
            for i in UNIT_POS..CHUNK {
                sum += later[i as usize];
            }
            decay_grad[(head * time + t) as usize] = sum;
        }
    }
}
