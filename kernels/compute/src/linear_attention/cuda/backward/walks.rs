//! States from chunk to chunk, and their gradients from the last to the first.
//!
//! A cube walks over the chunks of one head with 32 channels of the values, one to a lane. A plane has four rows of every
//! 32 of the state in registers; in shared memory it is there for the products over rows.

use super::*;
use crate::cuda::tile::exp2;

/// How the rows of [`rows_into`] fade.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fade {
    /// By `e^γ`.
    FromStart,
    /// By `e^{γ_C − γ}`.
    ToEnd,
}

/// The rows of `x` of a chunk whose decays begin at row `rows` of `gamma`, faded; times the erase gate where `erases`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn rows_into<E: Float>(
    x: &[Quad<E>],
    erase: &[E],
    gamma: &[f32],
    tile: &mut [Quad<f32>],
    head: u32,
    rows: u32,
    first: u32,
    time: u32,
    #[comptime] fade: Fade,
    #[comptime] erases: bool,
    #[comptime] plan: Plan,
) {
    let quads = comptime!(plan.depth() as u32 / 4);
    let last = rows + comptime!(CHUNK - 1);
    let mut at = UNIT_POS;
    while at < CHUNK * quads {
        let (i, c) = (at / quads, at % quads * 4);
        let mut faded = quad::<E>(x, head, first + i, c, time, comptime!(plan.width as u32));
        if erases {
            if comptime!(plan.write == Write::Beta) {
                faded *= Quad::new(erase_gate::<E>(erase, head, first + i, c, time, plan));
            } else {
                let mut gates = Quad::<f32>::new(0.0);
                #[unroll]
                for r in 0..4usize {
                    gates.insert(r, erase_gate::<E>(erase, head, first + i, c + r as u32, time, plan));
                }
                faded *= gates;
            }
        }
        if comptime!(plan.by_head()) {
            let here = gamma_at(gamma, rows + i, c, plan);
            if comptime!(fade == Fade::FromStart) {
                faded *= Quad::new(exp2(here));
            } else {
                faded *= Quad::new(exp2(gamma_at(gamma, last, c, plan) - here));
            }
        }
        if comptime!(plan.by_channel()) {
            let mut by = Quad::<f32>::new(0.0);
            #[unroll]
            for r in 0..4usize {
                let here = gamma_at(gamma, rows + i, c + r as u32, plan);
                if comptime!(fade == Fade::FromStart) {
                    by.insert(r, exp2(here));
                } else {
                    by.insert(r, exp2(gamma_at(gamma, last, c + r as u32, plan) - here));
                }
            }
            faded *= by;
        }
        tile[at as usize] = faded;
        at += CUBE_DIM;
    }
}

/// A chunk × chunk matrix that begins at row `rows`.
#[cube]
fn square_into(x: &[f32], tile: &mut [f32], rows: u32) {
    #[unroll]
    for r in 0..4u32 {
        let i = UNIT_POS_Y * 4 + r;
        tile[(i * CHUNK + UNIT_POS_X) as usize] = x[((rows + i) * CHUNK + UNIT_POS_X) as usize];
    }
}

/// The first row of this unit's quad `step`.
#[cube]
fn state_row(step: u32) -> u32 {
    step * 32 + UNIT_POS_Y * 4
}

/// This unit's rows of the state that begins at `base`.
#[cube]
fn load_state(x: &[f32], state: &mut Array<Quad<f32>>, base: u32, column: u32, #[comptime] plan: Plan) {
    let value_width = comptime!(plan.value_width as u32);
    #[unroll]
    for step in 0..plan.depth() / 32 {
        let mut quad = Quad::<f32>::new(0.0);
        #[unroll]
        for r in 0..4usize {
            let row = state_row(step as u32) + r as u32;
            if row < comptime!(plan.width as u32) && column < value_width {
                quad.insert(r, x[(base + row * value_width + column) as usize]);
            }
        }
        state[step] = quad;
    }
}

/// Stores this unit's rows of the state, which begins at `base`.
#[cube]
fn store_state(state: &Array<Quad<f32>>, to: &mut [f32], base: u32, column: u32, #[comptime] plan: Plan) {
    let value_width = comptime!(plan.value_width as u32);
    #[unroll]
    for step in 0..plan.depth() / 32 {
        #[unroll]
        for r in 0..4usize {
            let row = state_row(step as u32) + r as u32;
            if row < comptime!(plan.width as u32) && column < value_width {
                to[(base + row * value_width + column) as usize] = state[step].extract(r);
            }
        }
    }
}

/// This unit's rows of the state for all to read.
#[cube]
fn share_state(state: &Array<Quad<f32>>, tile: &mut [f32], #[comptime] plan: Plan) {
    #[unroll]
    for step in 0..plan.depth() / 32 {
        #[unroll]
        for r in 0..4usize {
            tile[((state_row(step as u32) + r as u32) * 32 + UNIT_POS_X) as usize] = state[step].extract(r);
        }
    }
}

/// `Diag(e^{γ_C}) S` of the chunk whose decays end in row `last` of `gamma`.
#[cube]
fn fade_state(state: &mut Array<Quad<f32>>, gamma: &[f32], last: u32, #[comptime] plan: Plan) {
    if comptime!(plan.decay != Decay::None) {
        #[unroll]
        for step in 0..plan.depth() / 32 {
            let mut keep = Quad::<f32>::new(0.0);
            #[unroll]
            for r in 0..4usize {
                keep.insert(r, exp2(gamma_at(gamma, last, state_row(step as u32) + r as u32, plan)));
            }
            state[step] = state[step] * keep;
        }
    }
}

/// `sums += Σ_c x[i, c] S[c, lane]` of this plane's four tokens.
#[cube]
fn read_state(x: &[Quad<f32>], state: &[f32], sums: &mut Array<f32>, #[comptime] plan: Plan) {
    let quads = comptime!(plan.depth() as u32 / 4);
    for c in 0..quads {
        let mut column = Quad::<f32>::new(0.0);
        #[unroll]
        for k in 0..4usize {
            column.insert(k, state[((c * 4 + k as u32) * 32 + UNIT_POS_X) as usize]);
        }
        #[unroll]
        for r in 0..4usize {
            sums[r] = sums[r] + (x[((UNIT_POS_Y * 4 + r as u32) * quads + c) as usize] * column).vector_sum();
        }
    }
}

/// `sums += Σ_j x[i, j] rows[j, lane]` of this plane's four tokens, or of `xᵀ`.
#[cube]
fn multiply_square(x: &[f32], rows: &[f32], sums: &mut Array<f32>, #[comptime] transposed: bool) {
    for j in 0..CHUNK {
        let number = rows[(j * CHUNK + UNIT_POS_X) as usize];
        #[unroll]
        for r in 0..4usize {
            let i = UNIT_POS_Y * 4 + r as u32;
            let at = if transposed { j * CHUNK + i } else { i * CHUNK + j };
            sums[r] = sums[r] + x[at as usize] * number;
        }
    }
}

/// Zeros for this plane's four tokens.
#[cube]
fn four_zeros() -> Array<f32> {
    let mut sums = Array::<f32>::new(4usize);
    #[unroll]
    for r in 0..4usize {
        sums[r] = 0.0;
    }
    sums
}

/// `S += sign · xᵀ rows`, of this unit's rows and channel.
#[cube]
fn write_state(
    state: &mut Array<Quad<f32>>,
    x: &[Quad<f32>],
    rows: &[f32],
    #[comptime] sign: f32,
    #[comptime] plan: Plan,
) {
    let quads = comptime!(plan.depth() as u32 / 4);
    // Four quads at a time, so that registers suffice.
    #[unroll]
    for group in 0..plan.depth().div_ceil(128) {
        for j in 0..CHUNK {
            let number = Quad::<f32>::new(sign * rows[(j * 32 + UNIT_POS_X) as usize]);
            #[unroll]
            for step in comptime!(4 * group)..comptime!((4 * group + 4).min(plan.depth() / 32)) {
                let at = j * quads + step as u32 * 8 + UNIT_POS_Y;
                state[step] = state[step] + x[at as usize] * number;
            }
        }
    }
}

/// `U` of every token and the state before every chunk.
///
/// `written [heads, time, value_width]`, `states [heads, chunks, width, value_width]`. Cubes: `(⌈value_width / 32⌉, heads)` of `(32,
/// PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn linear_states<E: Float>(
    key: &[Quad<E>],
    value: &[E],
    erase: &[E],
    write: &[E],
    start: &[f32],
    gamma: &[f32],
    inverse: &[f32],
    written: &mut [f32],
    states: &mut [f32],
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let value_width = comptime!(plan.value_width as u32);
    let numbers = comptime!((plan.width * plan.value_width) as u32);
    let square = comptime!((CHUNK * CHUNK) as usize);
    let mut kept = Shared::<[Quad<f32>]>::new_slice(comptime!(CHUNK as usize * plan.depth() / 4));
    let mut erasers = Shared::<[Quad<f32>]>::new_slice(comptime!(CHUNK as usize * plan.depth() / 4));
    let mut before = Shared::<[f32]>::new_slice(comptime!(32 * plan.depth()));
    let mut inverted = Shared::<[f32]>::new_slice(square);
    let mut rest = Shared::<[f32]>::new_slice(square);
    let mut fresh = Shared::<[f32]>::new_slice(square);

    let head = CUBE_POS_Y;
    let lane = UNIT_POS_X;
    let column = CUBE_POS_X * 32 + lane;
    let chunks = (time + CHUNK - 1) / CHUNK;

    let mut state = Array::<Quad<f32>>::new(comptime!(plan.depth() / 32));
    if comptime!(plan.start) {
        load_state(start, &mut state, head * numbers, column, plan);
    } else {
        #[unroll]
        for step in 0..plan.depth() / 32 {
            state[step] = Quad::new(0.0);
        }
    }
    for chunk in 0..chunks {
        let first = chunk * CHUNK;
        let rows = (head * chunks + chunk) * CHUNK;
        store_state(&state, states, (head * chunks + chunk) * numbers, column, plan);
        // The last chunk's tiles have been read.
        sync_cube();
        rows_into::<E>(key, erase, gamma, &mut kept, head, rows, first, time, Fade::ToEnd, false, plan);
        if comptime!(plan.erases()) {
            rows_into::<E>(key, erase, gamma, &mut erasers, head, rows, first, time, Fade::FromStart, true, plan);
            square_into(inverse, &mut inverted, rows);
            share_state(&state, &mut before, plan);
            sync_cube();
        }
        let mut old = four_zeros();
        if comptime!(plan.erases()) {
            read_state(&erasers, &before, &mut old, plan);
        }
        #[unroll]
        for r in 0..4u32 {
            let i = UNIT_POS_Y * 4 + r;
            let mut new = number::<E>(value, head, first + i, column, time, value_width);
            if comptime!(plan.write == Write::Beta) {
                new *= number::<E>(erase, head, first + i, 0u32.runtime(), time, 1u32);
            }
            if comptime!(plan.write == Write::EraseWrite) {
                new *= number::<E>(write, head, first + i, column, time, value_width);
            }
            if comptime!(plan.erases()) {
                rest[(i * CHUNK + lane) as usize] = new - old[r as usize];
            } else {
                fresh[(i * CHUNK + lane) as usize] = new;
            }
        }
        if comptime!(plan.erases()) {
            sync_cube();
            let mut new = four_zeros();
            multiply_square(&inverted, &rest, &mut new, false);
            #[unroll]
            for r in 0..4usize {
                fresh[((UNIT_POS_Y * 4 + r as u32) * CHUNK + lane) as usize] = new[r];
            }
        }
        sync_cube();
        #[unroll]
        for r in 0..4u32 {
            let i = UNIT_POS_Y * 4 + r;
            if first + i < time && column < value_width {
                let to = (head * time + first + i) * value_width + column;
                written[to as usize] = fresh[(i * CHUNK + lane) as usize];
            }
        }
        fade_state(&mut state, gamma, rows + comptime!(CHUNK - 1), plan);
        write_state(&mut state, &kept, &fresh, 1.0, plan);
    }
}

/// `dR` of every token, the gradient of the state after every chunk, and that of the first state.
///
/// `written_grad [heads, time, value_width]`, `state_grads [heads, chunks, width, value_width]`, `start_grad [heads, width, value_width]`. Cubes as
/// for [`linear_states`].
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn linear_state_grads<E: Float>(
    query: &[Quad<E>],
    key: &[Quad<E>],
    erase: &[E],
    out_grad: &[E],
    end_grad: &[f32],
    gamma: &[f32],
    weights: &[f32],
    inverse: &[f32],
    written_grad: &mut [f32],
    state_grads: &mut [f32],
    start_grad: &mut [f32],
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let value_width = comptime!(plan.value_width as u32);
    let numbers = comptime!((plan.width * plan.value_width) as u32);
    let square = comptime!((CHUNK * CHUNK) as usize);
    let mut kept = Shared::<[Quad<f32>]>::new_slice(comptime!(CHUNK as usize * plan.depth() / 4));
    let mut seen = Shared::<[Quad<f32>]>::new_slice(comptime!(CHUNK as usize * plan.depth() / 4));
    let mut erasers = Shared::<[Quad<f32>]>::new_slice(comptime!(CHUNK as usize * plan.depth() / 4));
    let mut after = Shared::<[f32]>::new_slice(comptime!(32 * plan.depth()));
    let mut weighed = Shared::<[f32]>::new_slice(square);
    let mut inverted = Shared::<[f32]>::new_slice(square);
    let mut outs = Shared::<[f32]>::new_slice(square);
    let mut fresh = Shared::<[f32]>::new_slice(square);
    let mut rest = Shared::<[f32]>::new_slice(square);

    let head = CUBE_POS_Y;
    let lane = UNIT_POS_X;
    let column = CUBE_POS_X * 32 + lane;
    let chunks = (time + CHUNK - 1) / CHUNK;

    let mut state = Array::<Quad<f32>>::new(comptime!(plan.depth() / 32));
    if comptime!(plan.end_grad) {
        load_state(end_grad, &mut state, head * numbers, column, plan);
    } else {
        #[unroll]
        for step in 0..plan.depth() / 32 {
            state[step] = Quad::new(0.0);
        }
    }
    for back in 0..chunks {
        let chunk = chunks - 1 - back;
        let first = chunk * CHUNK;
        let rows = (head * chunks + chunk) * CHUNK;
        store_state(&state, state_grads, (head * chunks + chunk) * numbers, column, plan);
        // The last chunk's tiles have been read.
        sync_cube();
        rows_into::<E>(key, erase, gamma, &mut kept, head, rows, first, time, Fade::ToEnd, false, plan);
        rows_into::<E>(query, erase, gamma, &mut seen, head, rows, first, time, Fade::FromStart, false, plan);
        square_into(weights, &mut weighed, rows);
        if comptime!(plan.erases()) {
            rows_into::<E>(key, erase, gamma, &mut erasers, head, rows, first, time, Fade::FromStart, true, plan);
            square_into(inverse, &mut inverted, rows);
        }
        share_state(&state, &mut after, plan);
        #[unroll]
        for r in 0..4u32 {
            let i = UNIT_POS_Y * 4 + r;
            outs[(i * CHUNK + lane) as usize] = number::<E>(out_grad, head, first + i, column, time, value_width);
        }
        sync_cube();
        let mut grads = four_zeros();
        read_state(&kept, &after, &mut grads, plan);
        multiply_square(&weighed, &outs, &mut grads, true);
        if comptime!(plan.erases()) {
            #[unroll]
            for r in 0..4usize {
                fresh[((UNIT_POS_Y * 4 + r as u32) * CHUNK + lane) as usize] = grads[r];
            }
            sync_cube();
            grads = four_zeros();
            multiply_square(&inverted, &fresh, &mut grads, true);
        }
        #[unroll]
        for r in 0..4usize {
            let j = UNIT_POS_Y * 4 + r as u32;
            if comptime!(plan.erases()) {
                rest[(j * CHUNK + lane) as usize] = grads[r];
            }
            if first + j < time && column < value_width {
                written_grad[((head * time + first + j) * value_width + column) as usize] = grads[r];
            }
        }
        fade_state(&mut state, gamma, rows + comptime!(CHUNK - 1), plan);
        write_state(&mut state, &seen, &outs, 1.0, plan);
        if comptime!(plan.erases()) {
            sync_cube();
            write_state(&mut state, &erasers, &rest, -1.0, plan);
        }
    }
    store_state(&state, start_grad, head * numbers, column, plan);
}
