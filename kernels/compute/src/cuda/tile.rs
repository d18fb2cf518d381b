//! Products of tiles on tensor cores: `mma.m16n8k16`, inputs of 16 bits, sums in f32.
//!
//! A plane (warp) of 32 lanes owns 16 rows of the result. A tile in shared memory is `rows` of
//! `stride` numbers, where the stride is the width plus [`PAD`]: with it the eight rows that one
//! phase of `ldmatrix` reads lie in different banks.
//!
//! | registers of lane `l` | rows | columns |
//! |---|---|---|
//! | result, per 8 columns: `[0] [1]` | `l/4`, `l/4 + 8` | `2 (l%4) + {0, 1}` |
//! | left, per 16 columns: `[0] [1] [2] [3]` | `l/4`, `l/4 + 8`, `l/4`, `l/4 + 8` | `2 (l%4) + {0, 1}`, the last two 8 to the right |
//! | right, per 8 columns: `[0] [1]` | `2 (l%4) + {0, 1}`, and 8 below | `l/4`; `[2] [3]` are those of the 8 columns to the right |
//!
//! So two neighbouring tiles of a result are, rounded to 16 bits, one left operand.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::frontend::barrier::copy_async_checked;
use cubecl::prelude::*;

/// Numbers added to a row in shared memory: 16 bytes.
pub const PAD: usize = 8;

/// Numbers of a row of `width` that are copied at once.
pub const fn vector(width: usize) -> usize {
    if width.is_multiple_of(8) { 8 } else { 4 }
}

/// Neighbouring numbers of a row.
pub type Pair<E> = Vector<E, Const<2>>;
/// The part of a tile that one lane holds.
pub type Fragment<E> = Array<Pair<E>>;

/// Row and column, in a left tile of 16 × 16, of the eight numbers whose address lane `lane` gives to `ldmatrix`.
#[cube]
pub fn left_address(lane: u32) -> (u32, u32) {
    (lane % 16, lane / 16 * 8)
}

/// The same for 16 columns of the right operand, kept as 16 rows (`Bᵀ`), by 16 of the depth.
#[cube]
pub fn right_transposed_address(lane: u32) -> (u32, u32) {
    (lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8)
}

/// The same for 16 of the depth by 16 columns of the right operand, kept as it is.
#[cube]
pub fn right_address(lane: u32) -> (u32, u32) {
    (lane % 16, lane / 16 * 8)
}

/// `columns / 8` tiles of zeros.
#[cube]
pub fn zeros(#[comptime] columns: usize) -> Sequence<Fragment<f32>> {
    let mut tiles = Sequence::<Fragment<f32>>::new();
    #[unroll]
    for _ in 0..columns / 8 {
        let mut tile = Fragment::<f32>::new(2usize);
        tile[0] = Pair::new(0.0);
        tile[1] = Pair::new(0.0);
        tiles.push(tile);
    }
    tiles
}

/// Two neighbouring tiles of a result as a left operand, rounded to `E`.
#[cube]
pub fn as_left<E: Float>(first: &Fragment<f32>, second: &Fragment<f32>) -> Fragment<E> {
    let mut left = Fragment::<E>::new(4usize);
    left[0] = Pair::cast_from(first[0]);
    left[1] = Pair::cast_from(first[1]);
    left[2] = Pair::cast_from(second[0]);
    left[3] = Pair::cast_from(second[1]);
    left
}

/// The 16 × 16 left operand at `tile[row.., column..]`.
#[cube]
pub fn left<E: Float>(tile: &[E], row: u32, column: u32, #[comptime] stride: usize) -> Fragment<E> {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let (r, c) = left_address(UNIT_POS_X);
    let at = ((row + r) * stride as u32 + column + c) as usize;
    def.load_matrix::<E, Const<2>>(&tile[at..at + 8], MatrixIdent::A, 4usize, false)
}

/// The 16 × 16 left operand whose transpose lies at `tile[row.., column..]`.
#[cube]
pub fn left_of_transposed<E: Float>(tile: &[E], row: u32, column: u32, #[comptime] stride: usize) -> Fragment<E> {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let (r, c) = right_transposed_address(UNIT_POS_X);
    let at = ((row + r) * stride as u32 + column + c) as usize;
    def.load_matrix::<E, Const<2>>(&tile[at..at + 8], MatrixIdent::A, 4usize, true)
}

/// The right operand of 16 columns that lie as rows (`Bᵀ`) at `tile[row.., column..]`.
#[cube]
pub fn right_of_rows<E: Float>(tile: &[E], row: u32, column: u32, #[comptime] stride: usize) -> Fragment<E> {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let (r, c) = right_transposed_address(UNIT_POS_X);
    let at = ((row + r) * stride as u32 + column + c) as usize;
    def.load_matrix::<E, Const<2>>(&tile[at..at + 8], MatrixIdent::B, 4usize, false)
}

/// `sums += left · right` for the 16 columns of `sums[first], sums[first + 1]`.
#[cube]
pub fn multiply<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    left: &Fragment<E>,
    right: &Fragment<E>,
    #[comptime] first: usize,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    #[unroll]
    for half in 0..2usize {
        let mut part = Fragment::<E>::new(2usize);
        part[0] = right[2 * half];
        part[1] = right[2 * half + 1];
        def.execute_inplace(left, &part, sums.index_mut(first + half));
    }
}

/// `sums += left · Bᵀ`, with 16 of the depth, from `column` on, of rows of `tile`: one row of `B`
/// for every column of `sums`.
#[cube]
pub fn multiply_rows<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    left: &Fragment<E>,
    tile: &[E],
    column: u32,
    #[comptime] columns: usize,
    #[comptime] stride: usize,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let (r, c) = right_transposed_address(UNIT_POS_X);
    #[unroll]
    for pair in 0..columns / 16 {
        let at = ((pair as u32 * 16 + r) * stride as u32 + column + c) as usize;
        let right = def.load_matrix::<E, Const<2>>(&tile[at..at + 8], MatrixIdent::B, 4usize, false);
        multiply::<E>(sums, left, &right, 2 * pair);
    }
}

/// `sums += left · B`, with the 16 rows of `tile` from `row` on.
#[cube]
pub fn multiply_columns<E: Float>(
    sums: &mut Sequence<Fragment<f32>>,
    left: &Fragment<E>,
    tile: &[E],
    row: u32,
    #[comptime] columns: usize,
    #[comptime] stride: usize,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let (r, c) = right_address(UNIT_POS_X);
    #[unroll]
    for pair in 0..columns / 16 {
        let at = ((row + r) * stride as u32 + pair as u32 * 16 + c) as usize;
        let right = def.load_matrix::<E, Const<2>>(&tile[at..at + 8], MatrixIdent::B, 4usize, true);
        multiply::<E>(sums, left, &right, 2 * pair);
    }
}

/// Where `head` of `batch` begins in input number `input`, and how far its rows are apart, by
/// [`strides`](crate::cuda::Program::strides).
#[cube]
pub fn place(strides: &[u32], batch: u32, head: u32, #[comptime] input: usize) -> (u32, u32) {
    let of = comptime!(3 * input);
    (batch * strides[of] + head * strides[of + 1], strides[of + 2])
}

/// Begins to copy `rows` rows, from row `first` on, into a tile of `depth` columns: the rows of `source` begin `stride`
/// numbers apart, the first of them at `base`. What lies outside of `limit` rows or of `columns` becomes zero.
///
/// `vector` numbers are copied at once: it divides `stride` and `columns`, and rows are aligned to it.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn copy_rows<E: Float>(
    source: &[E],
    tile: &mut [E],
    base: u32,
    first: u32,
    limit: u32,
    stride: u32,
    columns: u32,
    #[comptime] rows: usize,
    #[comptime] depth: usize,
    #[comptime] vector: usize,
) {
    let vectors = comptime!((rows * depth / vector) as u32);
    let in_row = comptime!((depth / vector) as u32);
    let mut at = UNIT_POS;
    while at < vectors {
        let row = at / in_row;
        let column = at % in_row * vector as u32;
        let inside = first + row < limit && column < columns;
        let from = select(inside, base + (first + row) * stride + column, base) as usize;
        let length = select(inside, vector as u32, 0u32) as usize;
        let to = (row * comptime!((depth + PAD) as u32) + column) as usize;
        copy_async_checked(&source[from..from + length], &mut tile[to..to + vector], vector as u32);
        at += CUBE_DIM;
    }
}

/// Stores the sums of the 16 rows of a plane, times `scale`: `row` is this lane's first, `base` the row before all, and they
/// stand `between` rows apart.
#[cube]
pub fn store_rows<E: Float>(
    sums: &Sequence<Fragment<f32>>,
    out: &mut [Pair<E>],
    base: u32,
    row: u32,
    limit: u32,
    between: u32,
    scale: f32,
    #[comptime] width: usize,
    #[comptime] depth: usize,
) {
    #[unroll]
    for r in 0..2usize {
        let row = row + r as u32 * 8;
        if row < limit {
            #[unroll]
            for n in 0..depth / 8 {
                let c = n as u32 * 8 + UNIT_POS_X % 4 * 2;
                if c < width as u32 {
                    let at = ((base + row * between) * width as u32 + c) / 2;
                    out[at as usize] = Pair::cast_from(sums.index(n)[r] * Pair::new(scale));
                }
            }
        }
    }
}

/// Ends a group of copies.
#[cube]
pub fn commit_copies() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until every copy of this lane has arrived.
#[cube]
pub fn wait_for_all() {
    gpu_asm!("cp.async.wait_group 0;");
}

/// Waits until all but the last group of copies of this lane have arrived.
#[cube]
pub fn wait_for_all_but_last() {
    gpu_asm!("cp.async.wait_group 1;");
}

/// `2^x` to two units in the last place; results below the normal numbers are zero.
#[cube]
pub fn exp2(x: f32) -> f32 {
    let y: f32;
    gpu_asm!("ex2.approx.ftz.f32 {y}, {x};", y = out(_) y, x = in(_) x, options(nomem));
    y
}

/// The sum over the four lanes that share the rows of a result.
#[cube]
pub fn row_sum(x: f32) -> f32 {
    let x = x + plane_shuffle_xor(x, 1);
    x + plane_shuffle_xor(x, 2)
}

/// The largest over the four lanes that share the rows of a result.
#[cube]
pub fn row_max(x: f32) -> f32 {
    let x = max(x, plane_shuffle_xor(x, 1));
    max(x, plane_shuffle_xor(x, 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cubecl::prelude::polyfills::mma::{col_index, row_index};

    /// What `ldmatrix.x4` gives lane `lane`: register `m` holds two numbers of the m-th 8 × 8 matrix, whose
    /// rows start where lanes `8 m ..` point; a transposed load exchanges rows and columns.
    fn loaded(lane: u32, register: u32, number: u32, address: fn(u32) -> (u32, u32), transposed: bool) -> (u32, u32) {
        let (row, column) = (lane / 4, lane % 4 * 2 + number);
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        let (r, c) = address(8 * register + row);
        (r, c + column)
    }

    #[test]
    fn every_lane_loads_the_numbers_that_the_product_reads() {
        for lane in 0..32 {
            for register in 0..4 {
                for number in 0..2 {
                    let i = register * 2 + number;
                    let left = loaded(lane, register, number, left_address, false);
                    let expected = |ident, i| (row_index(lane, i, 2, ident), col_index(lane, i, 2, ident));
                    assert_eq!(left, expected(MatrixIdent::A, i), "left: lane {lane}, register {register}");
                    let transposed = loaded(lane, register, number, right_transposed_address, true);
                    assert_eq!(
                        (transposed.1, transposed.0),
                        left,
                        "left of transposed: lane {lane}, register {register}"
                    );
                    // The right operand: two tiles of 8 columns, two registers each.
                    let (depth, column) = expected(MatrixIdent::B, i % 4);
                    let column = column + register / 2 * 8;
                    let (c, d) = loaded(lane, register, number, right_transposed_address, false);
                    assert_eq!((d, c), (depth, column), "right, transposed: lane {lane}, register {register}");
                    let right = loaded(lane, register, number, right_address, true);
                    assert_eq!(right, (depth, column), "right: lane {lane}, register {register}");
                }
            }
        }
    }

    #[test]
    fn two_tiles_of_a_result_lie_as_a_left_operand_does() {
        for lane in 0..32 {
            for i in 0..8 {
                let tile = i / 4; // `as_left` takes the first tile's two registers, then the second's
                let result = (
                    row_index(lane, i % 4, 1, MatrixIdent::Accumulator),
                    col_index(lane, i % 4, 1, MatrixIdent::Accumulator) + tile * 8,
                );
                let left = (row_index(lane, i, 2, MatrixIdent::A), col_index(lane, i, 2, MatrixIdent::A));
                assert_eq!(result, left, "lane {lane}, number {i}");
            }
        }
    }

    /// Eight rows, 16 bytes of each: the 32 banks of 4 bytes once.
    #[test]
    fn the_rows_of_a_phase_lie_in_different_banks() {
        for depth in (16..=256).step_by(16) {
            let mut banks: Vec<usize> =
                (0..8).flat_map(|row| (0..4).map(move |word| (row * (depth + PAD) / 2 + word) % 32)).collect();
            banks.sort_unstable();
            banks.dedup();
            assert_eq!(banks.len(), 32, "depth {depth}");
        }
    }
}
