//! One decay per head, with one β or with values that add up, in chunks of 64 tokens: the equations of `chunked.rs` as
//! products of 16-bit tiles with sums in f32. The state is f32, in registers, and is rounded only where a product reads
//! it.
//!
//! Chunks are prepared side by side (`U = M diag(β) V`, `E = M diag(β e^γ) K`), then one cube per head and 64
//! channels of the values walks over them. Where values add up, `V' = V` and there is nothing to prepare. With `γ_i` the
//! sum of a chunk's decays through token `i`:
//!
//! ```text
//! A = strict_lower(β_i ⟨k_i, k_j⟩ e^{γ_i − γ_j}),   M = (I + A)⁻¹
//! V' = U − E S,   O = e^γ Q S + lower(⟨q_i, k_j⟩ e^{γ_i − γ_j}) V',   S ← e^{γ_C} S + Kᵀ (e^{γ_C − γ} V')
//! ```

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::BF16;
use crate::cuda::tile::*;
use crate::linear_attention::cuda::steps::Write;
use cubecl::prelude::*;

/// Tokens of a chunk: 16 for each of the planes.
pub const CHUNK: u32 = 64;
pub const PLANES: u32 = 4;
/// Channels of the values in a cube that walks.
pub const COLUMNS: u32 = 64;
/// Numbers of a row of a 64 × 64 tile in shared memory.
pub const SQUARE: usize = 64 + PAD;
/// The same in f32, where no row begins in the bank of the one before.
pub const LOWER: u32 = CHUNK + 1;
/// Numbers of a tile that a plan has no use for.
pub const UNUSED: usize = 8;
pub const LOG2_E: f32 = core::f32::consts::LOG2_E;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunks {
    /// Numbers of a query and a key: 64 or 128.
    pub width: usize,
    /// Numbers of a value, a multiple of 4.
    pub value_width: usize,
    /// What is written: by these kernels `Add` or `Beta`, by those of [`channels`](super::channels) anything.
    pub write: Write,
    /// Whether there is a state to begin with; zeros otherwise.
    pub start: bool,
    /// Whether what the gradients need is left in the place of the outputs: `M`, `V'` where it is not `V`, and the state before
    /// every chunk.
    pub keep: bool,
}

impl Chunks {
    /// Whether the tiles fit into shared memory and whole tiles of the state into planes.
    pub fn fits(&self) -> bool {
        (self.width == 64 || self.width == 128) && self.value_width.is_multiple_of(4) && self.value_width <= 256
    }

    pub const fn value_depth(&self) -> usize {
        self.value_width.next_multiple_of(16)
    }

    pub const fn vector(&self) -> usize {
        vector(self.value_width)
    }

    /// Whether anything is erased: otherwise values are written as they are.
    pub const fn erases(&self) -> bool {
        !matches!(self.write, Write::Add)
    }

    /// Bytes of shared memory that the larger of the kernels wants.
    pub fn shared(&self) -> usize {
        let (rows, stride) = (CHUNK as usize, self.width + PAD);
        let prepare = 2 * rows * (stride + self.value_depth() + PAD + 2 * SQUARE) + 4 * rows * (2 * LOWER as usize + 2);
        let walk = |by_key: usize, squares: usize| {
            2 * rows * (by_key * stride + squares * SQUARE) + 2 * self.width * SQUARE + 4 * rows
        };
        match self.erases() {
            true => prepare.max(walk(3, 3)),
            false => walk(2, 2) + 2 * 2 * UNUSED,
        }
    }

    fn name(&self, kernel: &str) -> String {
        let parts = [(!self.erases(), " Add"), (self.start, " state"), (self.keep, " kept")];
        let [add, state, kept] = parts.map(|(is, what)| if is { what } else { "" });
        format!("delta_rule_{kernel} {} {}{add}{state}{kept}", self.width, self.value_width)
    }

    /// Tokens, numbers of keys, of values and of states of `heads` of every one of a batch.
    ///
    /// # Panics
    /// Where there are no such kernels.
    fn counts(&self, [batch, heads]: [usize; 2], time: usize) -> [usize; 4] {
        assert!(
            self.fits() && self.write != Write::EraseWrite && time >= 1,
            "no CUDA tiles for {time} tokens of {self:?}"
        );
        let all = batch * heads;
        let tokens = all * time;
        [tokens, tokens * self.width, tokens * self.value_width, all * self.width * self.value_width]
    }

    /// What prepares the chunks of `heads` of every one of a batch.
    pub fn prepare(&self, [batch, heads]: [usize; 2], time: usize) -> Kernel {
        let [tokens, keys, values, _] = self.counts([batch, heads], time);
        assert!(self.erases(), "values that add up need no preparing: {self:?}");
        let (plan, all, chunks) = (*self, batch * heads, time.div_ceil(CHUNK as usize));
        let inverses = if self.keep { all * chunks * (CHUNK * CHUNK) as usize } else { 0 };
        kernel!(
            self.name("prepare"),
            [chunks as u32, all as u32, 1],
            CubeDim::new_2d(32, PLANES),
            delta_rule_prepare as DeltaRulePrepare,
            [
                key: keys, value: values, decay: tokens, beta: tokens, strides: 12, new: values => 2,
                erased: keys => 2, inverses: inverses
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            BF16
        )
    }

    /// What walks over them.
    pub fn walk(&self, [batch, heads]: [usize; 2], time: usize) -> Kernel {
        let [tokens, keys, values, state] = self.counts([batch, heads], time);
        let (plan, all) = (*self, batch * heads);
        let (queries, outs, ends) = match self.keep {
            true => (0, if self.erases() { values } else { 0 }, time.div_ceil(CHUNK as usize) * state),
            false => (keys, values, state),
        };
        kernel!(
            self.name("walk"),
            [(self.value_width as u32).div_ceil(COLUMNS), all as u32, 1],
            CubeDim::new_2d(32, PLANES),
            delta_rule_walk as DeltaRuleWalk,
            [
                query: queries, key: keys, decay: tokens, strides: 12, new: values,
                erased: if plan.erases() { keys } else { 0 }, start: if plan.start { state } else { 0 }, out: outs,
                end: ends
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            BF16
        )
    }

    /// All of them, in the order in which they run.
    pub fn kernels(&self, sizes: [usize; 2], time: usize) -> Vec<Kernel> {
        match self.erases() {
            true => vec![self.prepare(sizes, time), self.walk(sizes, time)],
            false => vec![self.walk(sizes, time)],
        }
    }
}

/// A decay below e^−100 is as good as e^−100, which is no normal f32: sums stay so small that differences keep digits. NaN
/// stays NaN, which `max` would drop.
#[cube]
pub fn bounded(decay: f32) -> f32 {
    select(decay < -100.0f32, -100.0f32, decay)
}

/// `2^x` of a difference of sums of decays, which rounding may have made positive; NaN stays.
#[cube]
pub fn decayed(x: f32) -> f32 {
    exp2(select(x > 0.0f32, 0.0f32, x))
}

/// `γ` of a chunk, in units of `ln 2`; tokens past the end do not decay. Decays begin at `base` and are `stride` apart.
#[cube]
pub fn sum_decays(decay: &[f32], gamma: &mut [f32], base: u32, stride: u32, first: u32, time: u32) {
    if UNIT_POS < CHUNK {
        let end = min(first + UNIT_POS + 1, time);
        let mut sum = 0.0f32;
        for t in first..end {
            sum += bounded(decay[(base + t * stride) as usize]);
        }
        gamma[UNIT_POS as usize] = sum * LOG2_E;
    }
}

/// `U` and `E` of every chunk, and `M` where it is kept.
///
/// `key [batch, heads, time, width]`, `value [batch, heads, time, value_width]`, `decay, beta [batch, heads, time]` where `strides
/// [4, 3]` says, `erased`, `new` in order, `inverses [batch, heads, chunks, CHUNK, CHUNK]`. Cubes: `(chunks, batch · heads)` of
/// `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn delta_rule_prepare<E: Float>(
    key: &[E],
    value: &[E],
    decay: &[f32],
    beta: &[E],
    strides: &[u32],
    new: &mut [Pair<E>],
    erased: &mut [Pair<E>],
    inverses: &mut [E],
    heads: u32,
    time: u32,
    #[comptime] plan: Chunks,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width);
    let value_width = comptime!(plan.value_width);
    let value_depth = comptime!(plan.value_depth());
    let stride = comptime!(width + PAD);
    let value_stride = comptime!(value_depth + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);

    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut values = Shared::<[E]>::new_aligned_slice(comptime!(rows * value_stride), 16usize);
    let mut lower = Shared::<[f32]>::new_slice(comptime!((CHUNK * LOWER) as usize));
    let mut inverse = Shared::<[f32]>::new_slice(comptime!((CHUNK * LOWER) as usize));
    let mut by_value = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut by_key = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut gamma = Shared::<[f32]>::new_slice(rows);
    let mut betas = Shared::<[f32]>::new_slice(rows);

    let first = CUBE_POS_X * chunk;
    let head = CUBE_POS_Y;
    let base = head * time;
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 0usize);
    let (value_base, value_step) = place(strides, head / heads, head % heads, 1usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 2usize);
    let (beta_base, beta_stride) = place(strides, head / heads, head % heads, 3usize);
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;

    copy_rows::<E>(key, &mut keys, key_base, first, time, key_stride, width as u32, rows, width, 8usize);
    copy_rows::<E>(
        value,
        &mut values,
        value_base,
        first,
        time,
        value_step,
        value_width as u32,
        rows,
        value_depth,
        comptime!(plan.vector()),
    );
    commit_copies();
    sum_decays(decay, &mut gamma, decay_base, decay_stride, first, time);
    if UNIT_POS < chunk {
        let t = first + UNIT_POS;
        let mut b = 0.0f32.runtime();
        if t < time {
            b = f32::cast_from(beta[(beta_base + t * beta_stride) as usize]);
        }
        betas[UNIT_POS as usize] = b;
    }
    wait_for_all();
    sync_cube();

    let mut products = zeros(rows);
    #[unroll]
    for d in 0..width / 16 {
        let k = left::<E>(&keys, plane_row, d as u32 * 16, stride);
        multiply_rows::<E>(&mut products, &k, &keys, d as u32 * 16, rows, stride);
    }
    #[unroll]
    for n in 0..rows / 8 {
        #[unroll]
        for r in 0..2usize {
            let i = row + r as u32 * 8;
            let pair = products.index(n)[r];
            #[unroll]
            for c in 0..2usize {
                let j = n as u32 * 8 + column + c as u32;
                let fade = decayed(gamma[i as usize] - gamma[j as usize]);
                let entry = betas[i as usize] * pair.extract(c) * fade;
                lower[(i * LOWER + j) as usize] = select(j < i, entry, 0.0);
            }
        }
    }
    sync_cube();

    // Forward substitution, a column of the inverse per unit.
    if UNIT_POS < chunk {
        let j = UNIT_POS;
        for i in 0..chunk {
            let mut sum = select(i == j, 1.0f32, 0.0f32);
            for k in j..i {
                sum -= lower[(i * LOWER + k) as usize] * inverse[(k * LOWER + j) as usize];
            }
            inverse[(i * LOWER + j) as usize] = sum;
        }
    }
    sync_cube();

    let mut at = UNIT_POS;
    while at < chunk * chunk {
        let (i, j) = (at / chunk, at % chunk);
        let entry = inverse[(i * LOWER + j) as usize];
        if comptime!(plan.keep) {
            inverses[((head * CUBE_COUNT_X + CUBE_POS_X) * comptime!(CHUNK * CHUNK) + at) as usize] =
                E::cast_from(entry);
        }
        let weight = entry * betas[j as usize];
        let to = (i * SQUARE as u32 + j) as usize;
        by_value[to] = E::cast_from(weight);
        by_key[to] = E::cast_from(weight * exp2(gamma[j as usize]));
        at += CUBE_DIM;
    }
    sync_cube();

    let mut sums = zeros(value_depth);
    #[unroll]
    for k in 0..rows / 16 {
        let m = left::<E>(&by_value, plane_row, k as u32 * 16, SQUARE);
        multiply_columns::<E>(&mut sums, &m, &values, k as u32 * 16, value_depth, value_stride);
    }
    store_rows::<E>(&sums, new, base, first + row, time, 1, 1.0, value_width, value_depth);
    let mut sums = zeros(width);
    #[unroll]
    for k in 0..rows / 16 {
        let m = left::<E>(&by_key, plane_row, k as u32 * 16, SQUARE);
        multiply_columns::<E>(&mut sums, &m, &keys, k as u32 * 16, width, stride);
    }
    store_rows::<E>(&sums, erased, base, first + row, time, 1, 1.0, width, width);
}

/// This plane's rows of the columns `first_column ..` of the state that begins at row `base`, 16 of every 64; zeros where there is
/// none.
#[cube]
pub fn load_state(
    x: &[f32],
    base: u32,
    first_column: u32,
    #[comptime] there: bool,
    #[comptime] plan: Chunks,
) -> Sequence<Sequence<Fragment<f32>>> {
    let value_width = comptime!(plan.value_width as u32);
    let mut state = Sequence::<Sequence<Fragment<f32>>>::new();
    #[unroll]
    for layer in 0..plan.width / 64 {
        let mut tiles = zeros(comptime!(COLUMNS as usize));
        if there {
            #[unroll]
            for n in 0..COLUMNS as usize / 8 {
                #[unroll]
                for r in 0..2usize {
                    let row = layer as u32 * 64 + UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
                    let column = first_column + n as u32 * 8 + UNIT_POS_X % 4 * 2;
                    let mut pair = Pair::<f32>::new(0.0);
                    if column < value_width {
                        let at = (base + row) * value_width + column;
                        pair.insert(0usize, x[at as usize]);
                        pair.insert(1usize, x[(at + 1) as usize]);
                    }
                    tiles.index_mut(n)[r] = pair;
                }
            }
        }
        state.push(tiles);
    }
    state
}

/// Stores what [`load_state`] loads.
#[cube]
pub fn store_state(
    state: &Sequence<Sequence<Fragment<f32>>>,
    to: &mut [f32],
    base: u32,
    first_column: u32,
    #[comptime] plan: Chunks,
) {
    let value_width = comptime!(plan.value_width as u32);
    #[unroll]
    for layer in 0..plan.width / 64 {
        #[unroll]
        for n in 0..COLUMNS as usize / 8 {
            #[unroll]
            for r in 0..2usize {
                let row = layer as u32 * 64 + UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
                let column = first_column + n as u32 * 8 + UNIT_POS_X % 4 * 2;
                if column < value_width {
                    let at = (base + row) * value_width + column;
                    let pair = state.index(layer).index(n)[r];
                    to[at as usize] = pair.extract(0usize);
                    to[(at + 1) as usize] = pair.extract(1usize);
                }
            }
        }
    }
}

/// This plane's rows of the state, rounded, for all to read: `[width, COLUMNS]`.
#[cube]
pub fn share_state<E: Float>(state: &Sequence<Sequence<Fragment<f32>>>, tile: &mut [E], #[comptime] plan: Chunks) {
    #[unroll]
    for layer in 0..plan.width / 64 {
        #[unroll]
        for n in 0..COLUMNS as usize / 8 {
            #[unroll]
            for r in 0..2usize {
                let row = layer as u32 * 64 + UNIT_POS_Y * 16 + UNIT_POS_X / 4 + r as u32 * 8;
                let at = row * SQUARE as u32 + n as u32 * 8 + UNIT_POS_X % 4 * 2;
                let pair = state.index(layer).index(n)[r];
                tile[at as usize] = E::cast_from(pair.extract(0usize));
                tile[(at + 1) as usize] = E::cast_from(pair.extract(1usize));
            }
        }
    }
}

/// `S ← keep · S`.
#[cube]
pub fn fade_state(state: &mut Sequence<Sequence<Fragment<f32>>>, keep: f32, #[comptime] plan: Chunks) {
    #[unroll]
    for layer in 0..plan.width / 64 {
        #[unroll]
        for n in 0..COLUMNS as usize / 8 {
            #[unroll]
            for r in 0..2usize {
                let kept = state.index(layer).index(n)[r] * Pair::new(keep);
                state.index_mut(layer).index_mut(n)[r] = kept;
            }
        }
    }
}

/// `S += Xᵀ Y`, with rows of `x` of the width of keys and of `y` of [`COLUMNS`].
#[cube]
pub fn write_state<E: Float>(
    state: &mut Sequence<Sequence<Fragment<f32>>>,
    x: &[E],
    y: &[E],
    #[comptime] plan: Chunks,
) {
    #[unroll]
    for layer in 0..plan.width / 64 {
        #[unroll]
        for k in 0..CHUNK as usize / 16 {
            let down = left_of_transposed::<E>(
                x,
                k as u32 * 16,
                layer as u32 * 64 + UNIT_POS_Y * 16,
                comptime!(plan.width + PAD),
            );
            multiply_columns::<E>(state.index_mut(layer), &down, y, k as u32 * 16, comptime!(COLUMNS as usize), SQUARE);
        }
    }
}

/// The outputs and the last state from what was prepared; or `V'` and the state before every chunk, in their places.
///
/// `query, key [batch, heads, time, width]`, `decay [batch, heads, time]`, `new [batch, heads, time, value_width]` where
/// `strides [4, 3]` says, `erased` as [`delta_rule_prepare`] leaves it, `out [batch, time, heads, value_width]`, `start, end
/// [batch, heads, width, value_width]`. Where values add up, nothing is erased, and `new` are the values. Cubes: `(⌈value_width / COLUMNS⌉, batch · heads)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn delta_rule_walk<E: Float>(
    query: &[E],
    key: &[E],
    decay: &[f32],
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
    let value_width = comptime!(plan.value_width as u32);
    let stride = comptime!(width + PAD);
    let rows = comptime!(CHUNK as usize);
    let chunk = comptime!(CHUNK);

    let mut queries = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut keys = Shared::<[E]>::new_aligned_slice(comptime!(rows * stride), 16usize);
    let mut erasers =
        Shared::<[E]>::new_aligned_slice(comptime!(if plan.erases() { rows * stride } else { UNUSED }), 16usize);
    let mut news = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    // `V'`, and the same faded to the end of the chunk.
    let mut fresh =
        Shared::<[E]>::new_aligned_slice(comptime!(if plan.erases() { rows * SQUARE } else { UNUSED }), 16usize);
    let mut faded = Shared::<[E]>::new_aligned_slice(comptime!(rows * SQUARE), 16usize);
    let mut memory = Shared::<[E]>::new_aligned_slice(comptime!(width * SQUARE), 16usize);
    let mut gamma = Shared::<[f32]>::new_slice(rows);

    let head = CUBE_POS_Y;
    let first_column = CUBE_POS_X * COLUMNS;
    let base = head * time;
    let out_base = head / heads * time * heads + head % heads;
    let (query_base, query_stride) = place(strides, head / heads, head % heads, 0usize);
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 1usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 2usize);
    let (new_base, new_stride) = place(strides, head / heads, head % heads, 3usize);
    let plane_row = UNIT_POS_Y * 16;
    let row = plane_row + UNIT_POS_X / 4;
    let column = UNIT_POS_X % 4 * 2;

    let mut state = load_state(start, head * width as u32, first_column, comptime!(plan.start), plan);

    for round in 0..(time + chunk - 1) / chunk {
        let first = round * chunk;
        if comptime!(plan.keep) {
            store_state(&state, end, (head * ((time + chunk - 1) / chunk) + round) * width as u32, first_column, plan);
        }
        // The last chunk's tiles have been read.
        sync_cube();
        if comptime!(!plan.keep) {
            copy_rows::<E>(
                query,
                &mut queries,
                query_base,
                first,
                time,
                query_stride,
                width as u32,
                rows,
                width,
                8usize,
            );
        }
        copy_rows::<E>(key, &mut keys, key_base, first, time, key_stride, width as u32, rows, width, 8usize);
        if comptime!(plan.erases()) {
            copy_rows::<E>(
                erased,
                &mut erasers,
                base * width as u32,
                first,
                time,
                width as u32,
                width as u32,
                rows,
                width,
                8usize,
            );
        }
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
        sum_decays(decay, &mut gamma, decay_base, decay_stride, first, time);
        share_state::<E>(&state, &mut memory, plan);
        wait_for_all();
        sync_cube();

        let whole = gamma[comptime!(CHUNK as usize - 1)];
        let mut scores = zeros(rows);
        let mut read = zeros(rows);
        let mut answer = zeros(rows);
        #[unroll]
        for d in 0..width / 16 {
            if comptime!(!plan.keep) {
                let q = left::<E>(&queries, plane_row, d as u32 * 16, stride);
                multiply_rows::<E>(&mut scores, &q, &keys, d as u32 * 16, rows, stride);
                multiply_columns::<E>(&mut answer, &q, &memory, d as u32 * 16, rows, SQUARE);
            }
            if comptime!(plan.erases()) {
                let e = left::<E>(&erasers, plane_row, d as u32 * 16, stride);
                multiply_columns::<E>(&mut read, &e, &memory, d as u32 * 16, rows, SQUARE);
            }
        }
        #[unroll]
        for n in 0..rows / 8 {
            #[unroll]
            for r in 0..2usize {
                let i = row + r as u32 * 8;
                let here = gamma[i as usize];
                let mut weights = scores.index(n)[r];
                let old = read.index(n)[r];
                let mut news_here = Pair::<f32>::new(0.0);
                #[unroll]
                for c in 0..2usize {
                    let j = n as u32 * 8 + column + c as u32;
                    let fade = decayed(here - gamma[j as usize]);
                    weights.insert(c, select(j <= i, weights.extract(c) * fade, 0.0));
                    let at = (i * SQUARE as u32 + j) as usize;
                    if comptime!(plan.erases()) {
                        let number = f32::cast_from(news[at]) - old.extract(c);
                        news_here.insert(c, number);
                        fresh[at] = E::cast_from(number);
                        faded[at] = E::cast_from(number * exp2(whole - here));
                    } else {
                        faded[at] = E::cast_from(f32::cast_from(news[at]) * exp2(whole - here));
                    }
                }
                scores.index_mut(n)[r] = weights;
                let mut scaled = answer.index(n)[r] * Pair::new(exp2(here));
                if comptime!(plan.keep) {
                    scaled = news_here;
                }
                answer.index_mut(n)[r] = scaled;
            }
        }
        sync_cube();

        if comptime!(!plan.keep) {
            #[unroll]
            for k in 0..rows / 16 {
                let weights = as_left::<E>(scores.index(2 * k), scores.index(2 * k + 1));
                if comptime!(plan.erases()) {
                    multiply_columns::<E>(&mut answer, &weights, &fresh, k as u32 * 16, rows, SQUARE);
                } else {
                    multiply_columns::<E>(&mut answer, &weights, &news, k as u32 * 16, rows, SQUARE);
                }
            }
        }
        if comptime!(plan.erases() || !plan.keep) {
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
        }
        fade_state(&mut state, exp2(whole), plan);
        write_state::<E>(&mut state, &keys, &faded, plan);
    }

    if comptime!(!plan.keep) {
        store_state(&state, end, head * width as u32, first_column, plan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_much_shared_memory_its_kernels_want() {
        for (width, value_width) in [(64, 68), (128, 128), (64, 256)] {
            for write in [Write::Add, Write::Beta] {
                let plan = Chunks { width, value_width, write, start: true, keep: false };
                let most = plan.kernels([1, 1], 1).iter().map(|kernel| kernel.source().shared).max();
                assert_eq!(most, Some(plan.shared()), "{plan:?}");
            }
        }
    }
}
