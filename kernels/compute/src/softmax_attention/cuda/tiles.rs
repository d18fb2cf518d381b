//! What the three passes over tiles share.

use super::plan::{Gate, Plan};
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// Where the strides of queries, keys and values stand; behind them those of the gate, or of the output's gradient, and of the bias.
pub const QUERY: usize = 0;
pub const KEY: usize = 1;
pub const VALUE: usize = 2;
pub const FOURTH: usize = 3;
pub const BIAS: usize = 4;
/// Numbers of all strides.
pub const STRIDES: usize = 15;

/// Begins to copy `rows` rows of `width` numbers from `first` on, of each of `maps`, into one tile after the other; of `limit`
/// rows of `head`, whose maps are heads one after the other.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn copy_maps<E: Float>(
    source: &[E],
    tiles: &mut [E],
    strides: &[u32],
    batch: u32,
    head: u32,
    first: u32,
    limit: u32,
    #[comptime] input: usize,
    #[comptime] rows: usize,
    #[comptime] width: usize,
    #[comptime] maps: usize,
) {
    let size = comptime!(rows * Plan::stride(width));
    #[unroll]
    for map in 0..maps {
        let (base, stride) = place(strides, batch, head * maps as u32 + comptime!(map as u32), input);
        copy_rows::<E>(
            source,
            &mut tiles[map * size..(map + 1) * size],
            base,
            first,
            limit,
            stride,
            width as u32,
            rows,
            comptime!(Plan::depth(width)),
            comptime!(vector(width)),
        );
    }
}

/// The same for rows as wide as keys, of `maps`, and rows as wide as values, into one of the two stages of their tiles.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn copy_stage<E: Float>(
    keys: &[E],
    values: &[E],
    key_tiles: &mut [E],
    value_tiles: &mut [E],
    stage: usize,
    strides: &[u32],
    batch: u32,
    head: u32,
    first: u32,
    limit: u32,
    #[comptime] inputs: [usize; 2],
    #[comptime] maps: usize,
    #[comptime] step: usize,
    #[comptime] plan: Plan,
) {
    let size = comptime!(maps * step * Plan::stride(plan.width));
    let value_size = comptime!(step * Plan::stride(plan.value_width));
    let key_tiles = &mut key_tiles[stage * size..(stage + 1) * size];
    let value_tiles = &mut value_tiles[stage * value_size..(stage + 1) * value_size];
    let [of_keys, of_values] = comptime!(inputs);
    copy_maps::<E>(keys, key_tiles, strides, batch, head, first, limit, of_keys, step, plan.width, maps);
    copy_maps::<E>(values, value_tiles, strides, batch, head, first, limit, of_values, step, plan.value_width, 1usize);
}

/// The first row of map `map`, where every head has `rows` rows of each of its `maps`; `base` is that of a head of one.
#[cube]
pub fn of_map(base: u32, rows: u32, #[comptime] map: u32, #[comptime] maps: u32) -> u32 {
    base * maps + map * rows
}

/// `sums += own · othersᵀ` for the 16 rows of a plane of `own`, from `row` on, and `columns` rows of `others`, all of `width` numbers.
#[cube]
pub fn add_products<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    own: &[E],
    row: u32,
    others: &[E],
    #[comptime] columns: usize,
    #[comptime] width: usize,
) {
    let depth = comptime!(Plan::depth(width));
    let stride = comptime!(Plan::stride(width));
    #[unroll]
    for d in 0..depth / 16 {
        let rows = left::<E>(own, row, d as u32 * 16, stride);
        multiply_rows::<E>(sums, &rows, others, d as u32 * 16, columns, stride);
    }
}

/// `sums += weights · tile`, of `rows` rows of `width` numbers; the weights are rounded to `E`.
#[cube]
pub fn add_weighted<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    weights: &Sequence<Fragment<f32>>,
    tile: &[E],
    #[comptime] rows: usize,
    #[comptime] width: usize,
) {
    #[unroll]
    for k in 0..rows / 16 {
        let rounded = as_left::<E>(weights.index(2 * k), weights.index(2 * k + 1));
        multiply_columns::<E>(
            sums,
            &rounded,
            tile,
            k as u32 * 16,
            comptime!(Plan::depth(width)),
            comptime!(Plan::stride(width)),
        );
    }
}

/// The share of a map's weights in the pattern of row `row`.
#[cube]
pub fn share_of_map(lambda: &[f32], row: u32, #[comptime] map: usize) -> f32 {
    let mut share = 1.0f32.runtime();
    if comptime!(map == 1) {
        share = -lambda[row as usize];
    }
    share
}

/// What multiplies numbers `c, c + 1` of a row of the output; the row's numbers of the gate begin at `row`.
#[cube]
pub fn gate_of<E: Float>(gate: &[E], row: u32, c: u32, #[comptime] plan: Plan) -> Pair<f32> {
    let mut pair = Pair::<f32>::new(1.0);
    if comptime!(plan.gate == Gate::Row) {
        pair = Pair::new(f32::cast_from(gate[row as usize]));
    }
    if comptime!(plan.gate == Gate::Channel) {
        let at = (row + c) as usize;
        pair.insert(0usize, f32::cast_from(gate[at]));
        pair.insert(1usize, f32::cast_from(gate[at + 1]));
    }
    pair
}
