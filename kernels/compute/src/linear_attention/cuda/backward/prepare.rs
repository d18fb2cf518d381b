//! What every chunk is by itself.

use super::*;
use crate::linear_attention::cuda::chunks::{bounded, decayed};

/// `γ`, the sums of a chunk's decays through every token in units of `ln 2`; `P`; and `M`, where anything is erased.
///
/// `query, key [heads, time, width]`, `gamma [heads, chunks, CHUNK, 1 or width]`, `weights, inverse [heads, chunks, CHUNK, CHUNK]`. Cubes:
/// `(chunks, heads)` of `(32, PLANES)`.
///
/// Decays between two tokens are differences of two sums: with decays of e^−100 before them in the chunk, the worst that is told
/// apart, they are right to 3·10⁻⁴, with usual ones to 10⁻⁶.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn linear_prepare<E: Float>(
    query: &[E],
    key: &[E],
    decay: &[f32],
    erase: &[E],
    gamma: &mut [f32],
    weights: &mut [f32],
    inverse: &mut [f32],
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width as u32);
    let square = comptime!((CHUNK * SQUARE) as usize);
    let mut queries = Shared::<[f32]>::new_slice(square);
    let mut keys = Shared::<[f32]>::new_slice(square);
    let mut erased = Shared::<[f32]>::new_slice(square);
    let mut gammas = Shared::<[f32]>::new_slice(square);
    let mut lower = Shared::<[f32]>::new_slice(square);
    let mut inverted = Shared::<[f32]>::new_slice(square);

    let head = CUBE_POS_Y;
    let first = CUBE_POS_X * CHUNK;
    let rows = (head * CUBE_COUNT_X + CUBE_POS_X) * CHUNK;
    let lane = UNIT_POS_X;

    let mut scores = Array::<f32>::new(4usize);
    let mut erasing = Array::<f32>::new(4usize);
    #[unroll]
    for r in 0..4usize {
        scores[r] = 0.0;
        erasing[r] = 0.0;
    }
    for tile in 0..comptime!(plan.depth() as u32 / 32) {
        let c = tile * 32 + lane;
        // The last tile has been read.
        sync_cube();
        #[unroll]
        for r in 0..4u32 {
            let i = UNIT_POS_Y * 4 + r;
            let at = (i * SQUARE + lane) as usize;
            let k = number::<E>(key, head, first + i, c, time, width);
            queries[at] = number::<E>(query, head, first + i, c, time, width);
            keys[at] = k;
            if comptime!(plan.erases()) {
                erased[at] = k * erase_gate::<E>(erase, head, first + i, c, time, plan);
            }
        }
        if comptime!(plan.by_channel()) && UNIT_POS_Y == 0 {
            let mut sum = 0.0f32;
            for i in 0..CHUNK {
                sum += bounded(number::<f32>(decay, head, first + i, c, time, width)) * LOG2_E;
                gammas[(i * SQUARE + lane) as usize] = sum;
                if c < width {
                    gamma[((rows + i) * width + c) as usize] = sum;
                }
            }
        }
        sync_cube();
        for c in 0..32u32 {
            let k = keys[(lane * SQUARE + c) as usize];
            #[unroll]
            for r in 0..4usize {
                let at = ((UNIT_POS_Y * 4 + r as u32) * SQUARE + c) as usize;
                let mut faded = k;
                if comptime!(plan.by_channel()) {
                    faded *= decayed(gammas[at] - gammas[(lane * SQUARE + c) as usize]);
                }
                scores[r] = scores[r] + queries[at] * faded;
                if comptime!(plan.erases()) {
                    erasing[r] = erasing[r] + erased[at] * faded;
                }
            }
        }
    }
    if comptime!(plan.by_head()) {
        if UNIT_POS_Y == 0 {
            let end = min(first + lane + 1, time);
            let mut sum = 0.0f32;
            for t in first..end {
                sum += bounded(decay[(head * time + t) as usize]);
            }
            gammas[lane as usize] = sum * LOG2_E;
            gamma[(rows + lane) as usize] = sum * LOG2_E;
        }
        sync_cube();
    }
    #[unroll]
    for r in 0..4usize {
        let i = UNIT_POS_Y * 4 + r as u32;
        let mut kept = 1.0f32.runtime();
        if comptime!(plan.by_head()) {
            kept = decayed(gammas[i as usize] - gammas[lane as usize]);
        }
        weights[((rows + i) * CHUNK + lane) as usize] = select(lane <= i, scores[r] * kept, 0.0);
        if comptime!(plan.erases()) {
            lower[(i * SQUARE + lane) as usize] = select(lane < i, erasing[r] * kept, 0.0);
        }
    }
    if comptime!(plan.erases()) {
        sync_cube();
        // Forward substitution, a column of the inverse per lane.
        if UNIT_POS_Y == 0 {
            for i in 0..CHUNK {
                let mut sum = select(i == lane, 1.0f32, 0.0f32);
                for k in lane..i {
                    sum -= lower[(i * SQUARE + k) as usize] * inverted[(k * SQUARE + lane) as usize];
                }
                inverted[(i * SQUARE + lane) as usize] = sum;
                inverse[((rows + i) * CHUNK + lane) as usize] = sum;
            }
        }
    }
}
