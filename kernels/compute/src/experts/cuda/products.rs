//! Products of runs of rows with the matrix of their expert, on tensor cores with sums in f32.

use super::{Call, TILE};
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::BF16;
use crate::cuda::tile::*;
use cubecl::frontend::barrier::copy_async_checked;
use cubecl::prelude::*;

/// Planes of a cube: each owns 16 of its rows.
const PLANES: u32 = 4;
/// Numbers of a row of a tile in shared memory.
const STRIDE: usize = TILE as usize + PAD;

/// Bytes of shared memory of a product: both sides, two steps of each.
pub const SHARED: usize = 4 * TILE as usize * STRIDE * 2;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Numbers of a row on the left, over which is summed; of a weight's gradient, its rows.
    pub inner: usize,
    /// Numbers of a row of the result.
    pub outer: usize,
    /// Rows on the left (of a weight's gradient, on the right) are those of tokens, and are looked up.
    pub gather: bool,
    /// The matrices are `[inner, outer]` in the place of `[outer, inner]`.
    pub columns: bool,
    /// Adds to what is there.
    pub add: bool,
}

impl Product {
    /// From tokens to the width inside, and from there to tokens.
    pub fn forward(call: &Call) -> [Self; 2] {
        let plain = Self { inner: call.d, outer: call.width, gather: true, columns: false, add: false };
        [plain, Self { inner: call.width, outer: call.d, gather: false, ..plain }]
    }

    /// From gradients of outputs to the width inside, and from there to inputs: of the gate, and of the other half on top.
    pub fn backward(call: &Call) -> [Self; 3] {
        let hidden = Self { inner: call.d, outer: call.width, gather: false, columns: true, add: false };
        let rows = Self { inner: call.width, outer: call.d, ..hidden };
        [hidden, rows, Self { add: true, ..rows }]
    }

    /// Of gate and up projections, and of down projections.
    pub fn weight_grads(call: &Call) -> [Self; 2] {
        let wide = Self { inner: call.width, outer: call.d, gather: true, columns: false, add: false };
        [wide, Self { inner: call.d, outer: call.width, gather: false, ..wide }]
    }

    fn name(&self, kernel: &str) -> String {
        let Self { inner, outer, gather, columns, add } = *self;
        let mut name = format!("expert_{kernel} {inner} {outer}");
        let options = [(gather, " gather"), (columns, " columns"), (add, " add")];
        options.iter().filter(|(has, _)| *has).for_each(|(_, what)| name += what);
        name
    }

    /// Of `[rows, matrices, order, first, tiles, out]`: `out [places, outer]`.
    pub fn kernel(&self, call: &Call) -> Kernel {
        call.check();
        let (product, places) = (*self, call.places());
        let Self { inner, outer, gather, .. } = product;
        kernel!(
            self.name("product"),
            [call.tiles() as u32, (outer as u32).div_ceil(TILE), 1],
            CubeDim::new_2d(32, PLANES),
            expert_product as ExpertProduct,
            [
                rows: if gather { call.tokens } else { places } * inner, matrices: call.experts * inner * outer,
                order: places, first: call.experts + 1, tiles: 2 * call.tiles(), out: places * outer => 2
            ],
            { experts: u32 = call.experts as u32, per_token: u32 = call.per_token as u32 },
            product,
            BF16
        )
    }

    /// Of `[left, right, order, first, out]`: `out [experts, inner, outer]`.
    pub fn weight_grad(&self, call: &Call) -> Kernel {
        call.check();
        let (product, places) = (*self, call.places());
        let Self { inner, outer, gather, .. } = product;
        kernel!(
            self.name("weight_grad"),
            [(inner as u32).div_ceil(TILE), (outer as u32).div_ceil(TILE), call.experts as u32],
            CubeDim::new_2d(32, PLANES),
            expert_weight_grad as ExpertWeightGrad,
            [
                left: places * inner, right: if gather { call.tokens } else { places } * outer, order: places,
                first: call.experts + 1, out: call.experts * inner * outer => 2
            ],
            { per_token: u32 = call.per_token as u32 },
            product,
            BF16
        )
    }
}

/// Begins to copy columns `column ..` of rows `first .. limit`, those of tokens where `gather`. What lies outside becomes zero.
#[cube]
#[allow(clippy::too_many_arguments)]
fn copy_run<E: Float>(
    source: &[E],
    order: &[u32],
    tile: &mut [E],
    first: u32,
    limit: u32,
    column: u32,
    per_token: u32,
    #[comptime] width: usize,
    #[comptime] gather: bool,
) {
    let in_row = comptime!(TILE / 8);
    let mut at = UNIT_POS;
    while at < comptime!(TILE * TILE / 8) {
        let (row, c) = (at / in_row, at % in_row * 8);
        let mut from = 0u32.runtime();
        let mut length = 0usize.runtime();
        if first + row < limit && column + c < width as u32 {
            let mut own = first + row;
            if gather {
                own = order[own as usize] / per_token;
            }
            from = own * width as u32 + column + c;
            length = 8usize.runtime();
        }
        let from = from as usize;
        let to = (row * STRIDE as u32 + c) as usize;
        copy_async_checked(&source[from..from + length], &mut tile[to..to + 8], 8u32);
        at += CUBE_DIM;
    }
}

/// `out = rows · matrixᵀ`, run by run.
///
/// `rows [places or tokens, inner]`, `matrices [experts, outer, inner]` (or the last two exchanged), `out [places, outer]`. Cubes: `(tiles,
/// ⌈outer / TILE⌉)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn expert_product<E: Float>(
    rows: &[E],
    matrices: &[E],
    order: &[u32],
    first: &[u32],
    tiles: &[u32],
    out: &mut [Pair<E>],
    experts: u32,
    per_token: u32,
    #[comptime] product: Product,
    #[define(E)] _dtype: ElemType,
) {
    let (inner, outer) = comptime!((product.inner, product.outer));
    let numbers = comptime!(TILE as usize * STRIDE);
    let steps = comptime!((product.inner as u32).div_ceil(TILE));
    let mut lefts = Shared::<[E]>::new_aligned_slice(comptime!(2 * TILE as usize * STRIDE), 16usize);
    let mut rights = Shared::<[E]>::new_aligned_slice(comptime!(2 * TILE as usize * STRIDE), 16usize);

    let expert = tiles[(2 * CUBE_POS_X) as usize];
    if expert < experts {
        let start = tiles[(2 * CUBE_POS_X + 1) as usize];
        let limit = first[(expert + 1) as usize];
        let column = CUBE_POS_Y * TILE;
        // The matrices' rows, all experts' one after the other.
        let base = expert * comptime!((if product.columns { product.inner } else { product.outer }) as u32);

        let mut sums = zeros(comptime!(TILE as usize));
        for step in 0..steps + 1 {
            // The first round only copies, the last one only multiplies.
            if step < steps {
                let stage = (step % 2) as usize;
                let (k, left, right) = (
                    step * TILE,
                    &mut lefts[stage * numbers..(stage + 1) * numbers],
                    &mut rights[stage * numbers..(stage + 1) * numbers],
                );
                copy_run::<E>(rows, order, left, start, limit, k, per_token, inner, comptime!(product.gather));
                if comptime!(product.columns) {
                    let end = base + inner as u32;
                    copy_run::<E>(matrices, order, right, base + k, end, column, 1u32.runtime(), outer, false);
                } else {
                    let end = base + outer as u32;
                    copy_run::<E>(matrices, order, right, base + column, end, k, 1u32.runtime(), inner, false);
                }
            }
            commit_copies();
            if step > 0 {
                wait_for_all_but_last();
                sync_cube();
                let stage = ((step - 1) % 2) as usize;
                let left_now = &lefts[stage * numbers..(stage + 1) * numbers];
                let right_now = &rights[stage * numbers..(stage + 1) * numbers];
                #[unroll]
                for d in 0..TILE / 16 {
                    let a = left::<E>(left_now, UNIT_POS_Y * 16, d * 16, STRIDE);
                    if comptime!(product.columns) {
                        multiply_columns::<E>(&mut sums, &a, right_now, d * 16, comptime!(TILE as usize), STRIDE);
                    } else {
                        multiply_rows::<E>(&mut sums, &a, right_now, d * 16, comptime!(TILE as usize), STRIDE);
                    }
                }
                // The next round copies over what was read here.
                sync_cube();
            }
        }
        let row = start + UNIT_POS_Y * 16 + UNIT_POS_X / 4;
        store_tile::<E>(&sums, out, row, limit, column, outer, comptime!(product.add));
    }
}

/// Stores the sums of the 16 rows of a plane in columns `column ..` of rows of `width`: `row` is this lane's first.
#[cube]
#[allow(clippy::too_many_arguments)]
fn store_tile<E: Float>(
    sums: &Sequence<Fragment<f32>>,
    out: &mut [Pair<E>],
    row: u32,
    limit: u32,
    column: u32,
    #[comptime] width: usize,
    #[comptime] add: bool,
) {
    #[unroll]
    for r in 0..2usize {
        let row = row + r as u32 * 8;
        if row < limit {
            #[unroll]
            for n in 0..TILE as usize / 8 {
                let c = column + n as u32 * 8 + UNIT_POS_X % 4 * 2;
                if c < width as u32 {
                    let at = ((row * width as u32 + c) / 2) as usize;
                    let mut sum = sums.index(n)[r];
                    if add {
                        sum += Pair::<f32>::cast_from(out[at]);
                    }
                    out[at] = Pair::cast_from(sum);
                }
            }
        }
    }
}

/// Every expert's `out = leftᵀ · right` over its rows, zero where it has none.
///
/// `left [places, inner]`, `right [places or tokens, outer]`, `out [experts, inner, outer]`. Cubes: `(⌈inner / TILE⌉, ⌈outer / TILE⌉,
/// experts)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn expert_weight_grad<E: Float>(
    left: &[E],
    right: &[E],
    order: &[u32],
    first: &[u32],
    out: &mut [Pair<E>],
    per_token: u32,
    #[comptime] product: Product,
    #[define(E)] _dtype: ElemType,
) {
    let (inner, outer) = comptime!((product.inner, product.outer));
    let mut lefts = Shared::<[E]>::new_aligned_slice(comptime!(TILE as usize * STRIDE), 16usize);
    let mut rights = Shared::<[E]>::new_aligned_slice(comptime!(TILE as usize * STRIDE), 16usize);
    let (row, column, expert) = (CUBE_POS_X * TILE, CUBE_POS_Y * TILE, CUBE_POS_Z);
    let mut start = first[expert as usize];
    let limit = first[(expert + 1) as usize];

    let mut sums = zeros(comptime!(TILE as usize));
    while start < limit {
        // The last rows have been read.
        sync_cube();
        copy_run::<E>(left, order, &mut lefts, start, limit, row, 1u32.runtime(), inner, false);
        copy_run::<E>(right, order, &mut rights, start, limit, column, per_token, outer, comptime!(product.gather));
        commit_copies();
        wait_for_all();
        sync_cube();
        #[unroll]
        for d in 0..TILE / 16 {
            let a = left_of_transposed::<E>(&lefts, d * 16, UNIT_POS_Y * 16, STRIDE);
            multiply_columns::<E>(&mut sums, &a, &rights, d * 16, comptime!(TILE as usize), STRIDE);
        }
        start += TILE;
    }
    let base = expert * inner as u32;
    let own = base + row + UNIT_POS_Y * 16 + UNIT_POS_X / 4;
    store_tile::<E>(&sums, out, own, base + inner as u32, column, outer, false);
}
