//! Choosing experts, sorting places, and the rows on their way to experts and back.

use super::TILE;
use crate::cuda::rows::{PLANES, UNITS};
use cubecl::prelude::*;

/// Whether `share` of `expert` comes before `other_share` of `other`: the larger one, of equal ones the first.
#[cube]
pub fn comes_before(share: f32, expert: u32, other_share: f32, other: u32) -> bool {
    share > other_share || (share == other_share && expert < other)
}

/// Every token's experts with the largest shares, the largest first; what is not a number comes last.
///
/// `shares [tokens, experts]`, `chosen [tokens, per_token]`. Cubes: `⌈tokens / PLANES⌉` of `(32, PLANES)`.
#[allow(clippy::eq_op)] // what differs from itself is not a number
#[cube(launch_unchecked)]
pub fn top_experts<E: Float>(
    shares: &[E],
    chosen: &mut [i32],
    tokens: u32,
    experts: u32,
    per_token: u32,
    #[define(E)] _dtype: ElemType,
) {
    let token = CUBE_POS_X * PLANES + UNIT_POS_Y;
    if token < tokens {
        let mut last_share = f32::INFINITY.runtime();
        let mut last = 0u32;
        for place in 0..per_token {
            let mut best = f32::NEG_INFINITY.runtime();
            let mut expert = u32::MAX.runtime();
            let mut e = UNIT_POS_X;
            while e < experts {
                let given = f32::cast_from(shares[(token * experts + e) as usize]);
                let share = select(given == given, max(given, f32::MIN), f32::MIN);
                // After the last one, or any at first.
                let open = place == 0 || comes_before(last_share, last, share, e);
                if open && comes_before(share, e, best, expert) {
                    best = share;
                    expert = e;
                }
                e += 32;
            }
            #[unroll]
            for step in 0..5u32 {
                let other_share = plane_shuffle_xor(best, comptime!(1 << step));
                let other = plane_shuffle_xor(expert, comptime!(1 << step));
                if comes_before(other_share, other, best, expert) {
                    best = other_share;
                    expert = other;
                }
            }
            if UNIT_POS_X == 0 {
                chosen[(token * per_token + place) as usize] = i32::cast_from(expert);
            }
            last_share = best;
            last = expert;
        }
    }
}

/// `back`, the row of every place, and `tiles`, the runs of up to [`TILE`] rows of one expert; what is left of them names no
/// expert. A unit to a place; those of the first cube have the experts.
///
/// `order, back [places]`, `first [experts + 1]`, `tiles [limit, 2]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn expert_tiles(
    order: &[u32],
    first: &[u32],
    back: &mut [u32],
    tiles: &mut [u32],
    places: u32,
    experts: u32,
    limit: u32,
) {
    let row = CUBE_POS_X * UNITS + UNIT_POS_X;
    if row < places {
        back[order[row as usize] as usize] = row;
    }
    if CUBE_POS_X == 0 {
        let mut expert = UNIT_POS_X;
        // One more, whose tiles are those that nobody needs.
        while expert <= experts {
            let mut tile = 0u32;
            for e in 0..expert {
                tile += (first[(e + 1) as usize] - first[e as usize] + comptime!(TILE - 1)) / TILE;
            }
            let mut end = limit;
            let mut start = 0u32;
            if expert < experts {
                start = first[expert as usize];
                end = tile + (first[(expert + 1) as usize] - start + comptime!(TILE - 1)) / TILE;
            }
            while tile < end {
                tiles[(2 * tile) as usize] = expert;
                tiles[(2 * tile + 1) as usize] = start;
                start += TILE;
                tile += 1;
            }
            expert += UNITS;
        }
    }
}

/// The sum over the places of every token of their rows, each times its weight where `weighted`.
///
/// `rows [places, columns]`, `weights [tokens, per_token]`, `out [tokens, columns]`, columns in vectors.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn combine<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    weights: &[E],
    back: &[u32],
    out: &mut [Vector<E, N>],
    tokens: u32,
    columns: u32,
    per_token: u32,
    #[comptime] weighted: bool,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < tokens * columns {
        let (token, column) = (at / columns, at % columns);
        let mut sum = Vector::<f32, N>::new(0.0);
        for place in token * per_token..(token + 1) * per_token {
            let mut row = Vector::<f32, N>::cast_from(rows[(back[place as usize] * columns + column) as usize]);
            if weighted {
                row *= Vector::new(f32::cast_from(weights[place as usize]));
            }
            sum += row;
        }
        out[at as usize] = Vector::cast_from(sum);
    }
}

/// The gradient of every row's output: that of its token, times the weight of its place.
///
/// `out_grad [tokens, columns]`, `weights, order [places]`, `worked_grad [places, columns]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn spread<E: Float, N: Size>(
    out_grad: &[Vector<E, N>],
    weights: &[E],
    order: &[u32],
    worked_grad: &mut [Vector<E, N>],
    places: u32,
    columns: u32,
    per_token: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < places * columns {
        let place = order[(at / columns) as usize];
        let grad = Vector::<f32, N>::cast_from(out_grad[(place / per_token * columns + at % columns) as usize]);
        worked_grad[at as usize] = Vector::cast_from(grad * Vector::new(f32::cast_from(weights[place as usize])));
    }
}

/// The gradient of every place's weight: the product of its token's gradient and its row. A plane to a place.
///
/// `out_grad [tokens, columns]`, `worked [places, columns]`, `back, weights_grad [places]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn share_grads<E: Float, N: Size>(
    out_grad: &[Vector<E, N>],
    worked: &[Vector<E, N>],
    back: &[u32],
    weights_grad: &mut [E],
    places: u32,
    columns: u32,
    per_token: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let place = CUBE_POS_X * PLANES + UNIT_POS_Y;
    if place < places {
        let (token, row) = (place / per_token, back[place as usize]);
        let mut sum = 0.0f32;
        let mut column = UNIT_POS_X;
        while column < columns {
            let grad = Vector::<f32, N>::cast_from(out_grad[(token * columns + column) as usize]);
            let number = Vector::<f32, N>::cast_from(worked[(row * columns + column) as usize]);
            sum += (grad * number).vector_sum();
            column += 32;
        }
        let sum = plane_sum(sum);
        if UNIT_POS_X == 0 {
            weights_grad[place as usize] = E::cast_from(sum);
        }
    }
}
