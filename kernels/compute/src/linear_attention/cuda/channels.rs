//! One decay for every channel of the keys, in chunks of 64 tokens as in [`chunks`](super::chunks).
//!
//! Decays of channels do not leave a product of tiles as one factor a row and one a column, so chunks are prepared side
//! by side with all of them inside. With `γ_i` the sums of a chunk's decays through token `i`, one for every channel, and
//! `w ⊙ V` the values that are written:
//!
//! ```text
//! P = lower(Σ_c q_ic k_jc e^{γ_ic − γ_jc}),   A = strict_lower(Σ_c b_ic k_ic k_jc e^{γ_ic − γ_jc}),   M = (I + A)⁻¹
//! U = M (w ⊙ V),   E = M (b ⊙ K ⊙ e^γ),   Q̂ = Q ⊙ e^γ,   K̂ = K ⊙ e^{γ_C − γ}
//! ```
//!
//! Then one cube per head and 64 channels of the values walks over them:
//!
//! ```text
//! V' = U − E S,   O = Q̂ S + P V',   S ← Diag(e^{γ_C}) S + K̂ᵀ V'
//! ```
//!
//! No exponent is positive: `e^{−γ_j}` alone overflows after a decay of e^−300. Every plane has 16 of the tokens, and `r`
//! is the `γ` of the last token before them: with earlier keys they make products of tiles, of `q_i ⊙ e^{γ_i − r}` and
//! `k_j ⊙ e^{r − γ_j}`; among themselves they make sums in f32, pair by pair.

use super::chunks::*;
use super::steps::Write;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::BF16;
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// Numbers of the tile in which [`channel_prepare`] has the queries, and then the values.
const fn reused(plan: &Chunks) -> usize {
    let values = if plan.erases() { plan.value_depth() } else { 0 };
    let widest = if values > plan.width { values } else { plan.width };
    CHUNK as usize * (widest + PAD)
}

/// Bytes of shared memory that the larger of the kernels wants.
pub fn shared(plan: &Chunks) -> usize {
    let (rows, stride) = (CHUNK as usize, plan.width + PAD);
    let (gated, square) = match plan.write {
        Write::Add => (UNUSED, UNUSED),
        Write::Beta => (UNUSED, rows * SQUARE),
        Write::EraseWrite => (rows * stride, rows * SQUARE),
    };
    let prepare = 2 * (rows * stride + reused(plan) + gated + square) + 4 * rows * (stride + LOWER as usize) + 4 * rows;
    let erasers = if plan.erases() { rows * stride } else { UNUSED };
    let walk = 2 * (2 * rows * stride + erasers + 2 * rows * SQUARE + plan.width * SQUARE) + 4 * plan.width;
    prepare.max(walk)
}

/// What prepares the chunks of `heads` of every one of a batch, and what walks over them.
pub fn kernels(plan: &Chunks, [batch, heads]: [usize; 2], time: usize) -> [Kernel; 2] {
    assert!(plan.fits() && !plan.keep && time >= 1, "no CUDA tiles for {time} tokens of {plan:?}");
    let plan = *plan;
    let Chunks { width, value_width, write, .. } = plan;
    let units = CubeDim::new_2d(32, PLANES);
    let (all, chunks) = (batch * heads, time.div_ceil(CHUNK as usize));
    let (tokens, state) = (all * time, all * width * value_width);
    let (keys, values) = (tokens * width, tokens * value_width);
    let (erases, writes) = match write {
        Write::Add => (0, 0),
        Write::Beta => (tokens, 0),
        Write::EraseWrite => (keys, values),
    };
    let (written, erased) = if plan.erases() { (values, keys) } else { (0, 0) };
    let [add, from] = [(!plan.erases(), " Add"), (plan.start, " state")].map(|(is, what)| if is { what } else { "" });
    let (keeps, weights) = (all * chunks * width, all * chunks * (CHUNK * CHUNK) as usize);
    [
        kernel!(
            format!("channel_prepare {width} {value_width} {write:?}"),
            [chunks as u32, all as u32, 1],
            units,
            channel_prepare as ChannelPrepare,
            [
                query: keys, key: keys, value: written, decay: keys, erase: erases, write: writes, strides: 18,
                seen: keys, kept: keys, keep: keeps, weights: weights, new: written => 2, erased: erased => 2
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            BF16
        ),
        kernel!(
            format!("channel_walk {width} {value_width}{add}{from}"),
            [(value_width as u32).div_ceil(COLUMNS), all as u32, 1],
            units,
            channel_walk as ChannelWalk,
            [
                seen: keys, kept: keys, keep: keeps, weights: weights, strides: 3, new: values, erased: erased,
                start: if plan.start { state } else { 0 }, out: values, end: state
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            BF16
        ),
    ]
}

/// `2^{γ − r}` of the eight numbers that this lane has of a left operand, the first of them in row `row` and column
/// `column` of `gamma`, with `r` in row `reference`; or `2^{r − γ}` of those it has of a right operand of keys.
#[cube]
fn fades_of(
    gamma: &[f32],
    row: u32,
    reference: u32,
    column: u32,
    #[comptime] of_keys: bool,
    #[comptime] stride: usize,
) -> Fragment<f32> {
    let mut by = Fragment::<f32>::new(4usize);
    #[unroll]
    for part in 0..4usize {
        let down = comptime!((if of_keys { part / 2 } else { part % 2 }) as u32 * 8);
        let right = comptime!((if of_keys { part % 2 } else { part / 2 }) as u32 * 8);
        let mut pair = Pair::<f32>::new(0.0);
        #[unroll]
        for n in 0..2usize {
            let c = column + right + n as u32;
            let here = gamma[((row + down) * stride as u32 + c) as usize];
            let there = gamma[(reference * stride as u32 + c) as usize];
            let apart = if of_keys { there - here } else { here - there };
            pair.insert(n, decayed(apart));
        }
        by[part] = pair;
    }
    by
}

/// An operand, each of its numbers times one.
#[cube]
fn scale_operand<E: Float>(x: &Fragment<E>, by: &Fragment<f32>) -> Fragment<E> {
    let mut scaled = Fragment::<E>::new(4usize);
    #[unroll]
    for part in 0..4usize {
        scaled[part] = Pair::cast_from(Pair::<f32>::cast_from(x[part]) * by[part]);
    }
    scaled
}

/// `Q̂`, `K̂`, `e^{γ_C}` and `P` of every chunk; `U` and `E` where anything is erased.
///
/// `query, key, decay [batch, heads, time, width]`, `value [batch, heads, time, value_width]`, `erase` and `write` as
/// [`Write`] says, where `strides [6, 3]` does. In order: `seen = Q̂`, `kept = K̂`, `erased = E` `[batch, heads, time, width]`,
/// `new = U [batch, heads, time, value_width]`, `keep = e^{γ_C} [batch, heads, chunks, width]`, `weights = P [batch,
/// heads, chunks, CHUNK, CHUNK]`. Cubes: `(chunks, batch · heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn channel_prepare<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    decay: &[f32],
    erase: &[E],
    write: &[E],
    strides: &[u32],
    seen: &mut [E],
    kept: &mut [E],
    keep: &mut [f32],
    weights: &mut [E],
    new: &mut [Pair<E>],
    erased: &mut [Pair<E>],
    heads: u32,
    time: u32,
    #[comptime] plan: Chunks,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let columns = comptime!(plan.width as u32);
    let value_width = comptime!(plan.value_width);
    let value_depth = comptime!(plan.value_depth());
    let stride = comptime!(width + PAD);
    let value_stride = comptime!(value_depth + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);
    let gated = comptime!(if plan.write == Write::EraseWrite { rows * stride } else { UNUSED });
    let square = comptime!(if plan.erases() { rows * SQUARE } else { UNUSED });

    // The keys, then `b ⊙ K ⊙ e^γ`; the queries, then the values.
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(reused(&plan)), 16usize);
    let mut gates = Shared::<[E]>::new_aligned_slice(gated, 16usize);
    let mut inverse = Shared::<[E]>::new_aligned_slice(square, 16usize);
    let mut gamma = Shared::<[f32]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    // `A` below the diagonal. Above it, transposed, `P` a column to the right, so that its diagonal has room; then `M`,
    // whose diagonal is one.
    let mut lower = Shared::<[f32]>::new_slice(comptime!((CHUNK * LOWER) as usize));
    let mut betas = Shared::<[f32]>::new_slice(rows);

    let first = CUBE_POS_X * chunk;
    let head = CUBE_POS_Y;
    let base = head * time;
    let number = head * CUBE_COUNT_X + CUBE_POS_X;
    let (query_base, query_stride) = place(strides, head / heads, head % heads, 0usize);
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 1usize);
    let (value_base, value_step) = place(strides, head / heads, head % heads, 2usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 3usize);
    let (erase_base, erase_stride) = place(strides, head / heads, head % heads, 4usize);
    let (write_base, write_stride) = place(strides, head / heads, head % heads, 5usize);
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;

    copy_rows::<E>(query, &mut queries, query_base, first, time, query_stride, columns, rows, width, 8usize);
    copy_rows::<E>(key, &mut keys, key_base, first, time, key_stride, columns, rows, width, 8usize);
    // Tokens past the end do not decay.
    copy_rows::<f32>(decay, &mut gamma, decay_base, first, time, decay_stride, columns, rows, width, 4usize);
    if comptime!(plan.write == Write::EraseWrite) {
        copy_rows::<E>(erase, &mut gates, erase_base, first, time, erase_stride, columns, rows, width, 8usize);
    }
    commit_copies();
    if comptime!(plan.write == Write::Beta) {
        let t = first + UNIT_POS;
        if UNIT_POS < chunk {
            let mut b = 0.0f32.runtime();
            if t < time {
                b = f32::cast_from(erase[(erase_base + t * erase_stride) as usize]);
            }
            betas[UNIT_POS as usize] = b;
        }
    }
    wait_for_all();
    sync_cube();

    // A channel per unit.
    if UNIT_POS < columns {
        let mut sum = 0.0f32;
        for i in 0..chunk {
            let at = (i * stride as u32 + UNIT_POS) as usize;
            sum += bounded(gamma[at]);
            gamma[at] = sum * LOG2_E;
        }
        keep[(number * columns + UNIT_POS) as usize] = exp2(sum * LOG2_E);
    }
    sync_cube();

    // With the keys before this plane's.
    let mut scores = zeros(comptime!(rows - 16));
    let mut erasing = zeros(comptime!(if plan.erases() { rows - 16 } else { 0 }));
    if UNIT_POS_Y > 0 {
        let last = plane_row - 1;
        for d in 0..comptime!(plan.width as u32 / 16) {
            let from = d * 16;
            let q = left::<E>(&queries, plane_row, from, stride);
            let k = left::<E>(&keys, plane_row, from, stride);
            let mut by = fades_of(&gamma, row, last, from + column, false, stride);
            let q = scale_operand::<E>(&q, &by);
            if comptime!(plan.write == Write::EraseWrite) {
                let b = left::<E>(&gates, plane_row, from, stride);
                #[unroll]
                for part in 0..4usize {
                    by[part] = by[part] * Pair::<f32>::cast_from(b[part]);
                }
            }
            let k = scale_operand::<E>(&k, &by);
            #[unroll]
            for block in 0..PLANES as usize - 1 {
                if UNIT_POS_Y > comptime!(block as u32) {
                    let earlier = right_of_rows::<E>(&keys, block as u32 * 16, from, stride);
                    let other = block as u32 * 16 + UNIT_POS_X / 4;
                    let until = fades_of(&gamma, other, last, from + column, true, stride);
                    let earlier = scale_operand::<E>(&earlier, &until);
                    multiply::<E>(&mut scores, &q, &earlier, 2 * block);
                    if comptime!(plan.erases()) {
                        multiply::<E>(&mut erasing, &k, &earlier, 2 * block);
                    }
                }
            }
        }
        #[unroll]
        for n in 0..comptime!(2 * (PLANES as usize - 1)) {
            if UNIT_POS_Y > comptime!(n as u32 / 2) {
                #[unroll]
                for r in 0..2usize {
                    let i = row + r as u32 * 8;
                    #[unroll]
                    for c in 0..2usize {
                        let j = n as u32 * 8 + column + c as u32;
                        lower[(j * LOWER + i + 1) as usize] = scores.index(n)[r].extract(c);
                        if comptime!(plan.erases()) {
                            let mut entry = erasing.index(n)[r].extract(c);
                            if comptime!(plan.write == Write::Beta) {
                                entry *= betas[i as usize];
                            }
                            lower[(i * LOWER + j) as usize] = entry;
                        }
                    }
                }
            }
        }
    }

    // With this plane's own: a lane has tokens `row` and `row + 8` with every fourth key. The last two of those come after
    // the first of these.
    let own = plane_row + UNIT_POS_X % 4;
    let mut of_scores = Array::<f32>::new(8usize);
    let mut of_lower = Array::<f32>::new(8usize);
    #[unroll]
    for e in 0..8usize {
        of_scores[e] = 0.0;
        of_lower[e] = 0.0;
    }
    for c in 0..columns {
        #[unroll]
        for m in 0..4usize {
            let other = ((own + m as u32 * 4) * stride as u32 + c) as usize;
            let there = gamma[other];
            let k = f32::cast_from(keys[other]);
            #[unroll]
            for r in 0..2usize {
                if comptime!(r == 1 || m < 2) {
                    let e = comptime!(4 * r + m);
                    let at = ((row + r as u32 * 8) * stride as u32 + c) as usize;
                    let faded = k * decayed(gamma[at] - there);
                    of_scores[e] = of_scores[e] + f32::cast_from(queries[at]) * faded;
                    if comptime!(plan.erases()) {
                        let mut eraser = f32::cast_from(keys[at]);
                        if comptime!(plan.write == Write::EraseWrite) {
                            eraser *= f32::cast_from(gates[at]);
                        }
                        of_lower[e] = of_lower[e] + eraser * faded;
                    }
                }
            }
        }
    }
    #[unroll]
    for m in 0..4usize {
        #[unroll]
        for r in 0..2usize {
            if comptime!(r == 1 || m < 2) {
                let e = comptime!(4 * r + m);
                let (i, j) = (row + r as u32 * 8, own + m as u32 * 4);
                if j <= i {
                    lower[(j * LOWER + i + 1) as usize] = of_scores[e];
                }
                if comptime!(plan.erases()) {
                    let mut entry = of_lower[e];
                    if comptime!(plan.write == Write::Beta) {
                        entry *= betas[i as usize];
                    }
                    if j < i {
                        lower[(i * LOWER + j) as usize] = entry;
                    }
                }
            }
        }
    }
    sync_cube();

    let mut at = UNIT_POS;
    while at < chunk * chunk {
        let (i, j) = (at / chunk, at % chunk);
        let weight = lower[(j * LOWER + i + 1) as usize];
        weights[(number * comptime!(CHUNK * CHUNK) + at) as usize] = E::cast_from(select(j <= i, weight, 0.0));
        at += CUBE_DIM;
    }
    let mut at = UNIT_POS;
    while at < chunk * columns {
        let (i, c) = (at / columns, at % columns);
        let cell = (i * stride as u32 + c) as usize;
        let here = gamma[cell];
        let whole = gamma[(comptime!((CHUNK - 1) * stride as u32) + c) as usize];
        let from_start = exp2(here);
        let k = f32::cast_from(keys[cell]);
        let t = first + i;
        if t < time {
            let to = ((base + t) * columns + c) as usize;
            seen[to] = E::cast_from(f32::cast_from(queries[cell]) * from_start);
            kept[to] = E::cast_from(k * exp2(whole - here));
        }
        if comptime!(plan.erases()) {
            let mut eraser = k * from_start;
            if comptime!(plan.write == Write::EraseWrite) {
                eraser *= f32::cast_from(gates[cell]);
            }
            keys[cell] = E::cast_from(eraser);
        }
        at += CUBE_DIM;
    }

    if comptime!(plan.erases()) {
        // The queries and `P` have been read.
        sync_cube();
        let vector = comptime!(plan.vector());
        let channels = comptime!(plan.value_width as u32);
        copy_rows::<E>(value, &mut queries, value_base, first, time, value_step, channels, rows, value_depth, vector);
        commit_copies();
        // Forward substitution, a column of the inverse per unit, which lies in a row.
        if UNIT_POS < chunk {
            let j = UNIT_POS;
            for i in 0..chunk {
                if i > j {
                    let mut sum = -lower[(i * LOWER + j) as usize];
                    for k in j + 1..i {
                        sum -= lower[(i * LOWER + k) as usize] * lower[(j * LOWER + k) as usize];
                    }
                    lower[(j * LOWER + i) as usize] = sum;
                }
            }
        }
        wait_for_all();
        sync_cube();

        let mut at = UNIT_POS;
        while at < chunk * chunk {
            let (i, j) = (at / chunk, at % chunk);
            let mut entry = select(i == j, 1.0f32, 0.0f32);
            if j < i {
                entry = lower[(j * LOWER + i) as usize];
            }
            if comptime!(plan.write == Write::Beta) {
                entry *= betas[j as usize];
            }
            inverse[(i * SQUARE as u32 + j) as usize] = E::cast_from(entry);
            at += CUBE_DIM;
        }
        if comptime!(plan.write == Write::EraseWrite) {
            let mut at = UNIT_POS;
            while at < chunk * channels {
                let (i, c) = (at / channels, at % channels);
                let t = first + i;
                if t < time {
                    let cell = (i * value_stride as u32 + c) as usize;
                    let gate = f32::cast_from(write[(write_base + t * write_stride + c) as usize]);
                    queries[cell] = E::cast_from(f32::cast_from(queries[cell]) * gate);
                }
                at += CUBE_DIM;
            }
        }
        sync_cube();

        let mut sums = zeros(value_depth);
        #[unroll]
        for k in 0..rows / 16 {
            let m = left::<E>(&inverse, plane_row, k as u32 * 16, SQUARE);
            multiply_columns::<E>(&mut sums, &m, &queries, k as u32 * 16, value_depth, value_stride);
        }
        store_rows::<E>(&sums, new, base, first + row, time, 1, 1.0, value_width, value_depth);
        let mut sums = zeros(width);
        #[unroll]
        for k in 0..rows / 16 {
            let m = left::<E>(&inverse, plane_row, k as u32 * 16, SQUARE);
            multiply_columns::<E>(&mut sums, &m, &keys, k as u32 * 16, width, stride);
        }
        store_rows::<E>(&sums, erased, base, first + row, time, 1, 1.0, width, width);
    }
}

/// `S ← Diag(keep) S`.
#[cube]
fn fade_channels(state: &mut Sequence<Sequence<Fragment<f32>>>, keep: &[f32], #[comptime] plan: Chunks) {
    #[unroll]
    for layer in 0..plan.width / 64 {
        #[unroll]
        for r in 0..2usize {
            let row = layer as u32 * 64 + UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
            let keep_here = keep[row as usize];
            #[unroll]
            for n in 0..COLUMNS as usize / 8 {
                let kept = state.index(layer).index(n)[r] * Pair::new(keep_here);
                state.index_mut(layer).index_mut(n)[r] = kept;
            }
        }
    }
}

/// The outputs and the last state from what was prepared.
///
/// `seen, kept, keep, weights, erased` as [`channel_prepare`] leaves them; `new [batch, heads, time, value_width]` likewise
/// or, where nothing is erased, the values, where `strides [1, 3]` says; `out [batch, time, heads, value_width]`,
/// `start, end [batch, heads, width, value_width]`. Cubes: `(⌈value_width / COLUMNS⌉, batch · heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn channel_walk<E: Float>(
    seen: &[E],
    kept: &[E],
    keep: &[f32],
    weights: &[E],
    strides: &[u32],
    new: &[E],
    erased: &[E],
    start: &[f32],
    out: &mut [E],
    end: &mut [f32],
    heads: u32,
    time: u32,
    #[comptime] plan: Chunks,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let columns = comptime!(plan.width as u32);
    let value_width = comptime!(plan.value_width as u32);
    let stride = comptime!(width + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut erasers =
        Shared::<[E]>::new_aligned_slice(comptime!(if plan.erases() { rows * stride } else { UNUSED }), 16usize);
    let mut scores = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    // `U`, then `V'`.
    let mut news = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut memory = Shared::<[E]>::new_aligned_slice(comptime!(width * SQUARE), 16usize);
    let mut keeps = Shared::<[f32]>::new_slice(width);

    let head = CUBE_POS_Y;
    let first_column = CUBE_POS_X * COLUMNS;
    let base = head * time;
    let out_base = head / heads * time * heads + head % heads;
    let (new_base, new_stride) = place(strides, head / heads, head % heads, 0usize);
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;
    let chunks = (time + chunk - 1) / chunk;

    let mut state = load_state(start, head * columns, first_column, comptime!(plan.start), plan);

    for round in 0..chunks {
        let first = round * chunk;
        let number = head * chunks + round;
        // The last chunk's tiles have been read.
        sync_cube();
        let from = base * columns;
        copy_rows::<E>(seen, &mut queries, from, first, time, columns, columns, rows, width, 8usize);
        copy_rows::<E>(kept, &mut keys, from, first, time, columns, columns, rows, width, 8usize);
        if comptime!(plan.erases()) {
            copy_rows::<E>(erased, &mut erasers, from, first, time, columns, columns, rows, width, 8usize);
        }
        let one = number * chunk;
        copy_rows::<E>(weights, &mut scores, 0u32.runtime(), one, one + chunk, chunk, chunk, rows, rows, 8usize);
        copy_rows::<E>(
            new,
            &mut news,
            new_base + first_column,
            first,
            time,
            new_stride,
            value_width - first_column,
            rows,
            comptime!(COLUMNS as usize),
            comptime!(plan.vector()),
        );
        commit_copies();
        if UNIT_POS < columns {
            keeps[UNIT_POS as usize] = keep[(number * columns + UNIT_POS) as usize];
        }
        share_state::<E>(&state, &mut memory, plan);
        wait_for_all();
        sync_cube();

        let mut answer = zeros(rows);
        let mut read = zeros(comptime!(if plan.erases() { rows } else { 0 }));
        #[unroll]
        for d in 0..width / 16 {
            let q = left::<E>(&queries, plane_row, d as u32 * 16, stride);
            multiply_columns::<E>(&mut answer, &q, &memory, d as u32 * 16, rows, SQUARE);
            if comptime!(plan.erases()) {
                let e = left::<E>(&erasers, plane_row, d as u32 * 16, stride);
                multiply_columns::<E>(&mut read, &e, &memory, d as u32 * 16, rows, SQUARE);
            }
        }
        if comptime!(plan.erases()) {
            #[unroll]
            for n in 0..rows / 8 {
                #[unroll]
                for r in 0..2usize {
                    let i = row + r as u32 * 8;
                    let at = (i * SQUARE as u32 + n as u32 * 8 + column) as usize;
                    let old = read.index(n)[r];
                    #[unroll]
                    for c in 0..2usize {
                        news[at + c] = E::cast_from(f32::cast_from(news[at + c]) - old.extract(c));
                    }
                }
            }
            sync_cube();
        }

        #[unroll]
        for k in 0..rows / 16 {
            let p = left::<E>(&scores, plane_row, k as u32 * 16, SQUARE);
            multiply_columns::<E>(&mut answer, &p, &news, k as u32 * 16, rows, SQUARE);
        }
        #[unroll]
        for n in 0..rows / 8 {
            #[unroll]
            for r in 0..2usize {
                let t = first + row + r as u32 * 8;
                let at = first_column + n as u32 * 8 + column;
                if t < time && at < value_width {
                    let to = (out_base + t * heads) * value_width + at;
                    let pair = answer.index(n)[r];
                    out[to as usize] = E::cast_from(pair.extract(0usize));
                    out[(to + 1) as usize] = E::cast_from(pair.extract(1usize));
                }
            }
        }
        fade_channels(&mut state, &keeps, plan);
        write_state::<E>(&mut state, &keys, &news, plan);
    }

    store_state(&state, end, head * columns, first_column, plan);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_much_shared_memory_its_kernels_by_channel_want() {
        for (width, value_width) in [(64, 68), (128, 128), (64, 256)] {
            for write in [Write::Add, Write::Beta, Write::EraseWrite] {
                let plan = Chunks { width, value_width, write, start: true, keep: false };
                let most = kernels(&plan, [1, 1], 1).iter().map(|kernel| kernel.source().shared).max();
                assert_eq!(most, Some(shared(&plan)), "{plan:?}");
            }
        }
    }
}
