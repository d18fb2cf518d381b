//! The gradient of a table on CUDA: tokens are sorted by their ids, and every row is the sum over its tokens.
//!
//! A cube sorts the tokens of [`GROUP`] neighbouring rows: it looks at every id once to count and once to place,
//! and begins after as many tokens as have smaller ids. So no cube waits for another, and nothing is added
//! up in an order that chance decides. A row that few tokens read is summed by one plane, one that many read by
//! all planes of a cube.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{PLANES, vector};
use crate::cuda::source::{Source, element};
use crate::cuda::{Gpu, Program};
use crate::operator::Operator;
use burn::tensor::{DType, Shape};
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};
use cubecl::prelude::*;

/// Rows of the table whose tokens one cube sorts.
pub const GROUP: u32 = 64;
/// Tokens of a tile: four for each unit.
const TILE: u32 = 32 * PLANES * EACH;
const EACH: u32 = 4;
/// Tokens of a row that one plane sums alone.
const FEW: u32 = 32;

/// Reads a tile of ids: `masks[i]` tells which of tokens `32 i ..` belong to the rows `base .. base + GROUP`, and `rows` to which.
/// Returns how many of this unit's tokens have smaller ids.
#[cube]
fn read_tile(ids: &[i32], masks: &mut [u32], rows: &mut [u32], tile: u32, tokens: u32, base: u32) -> u32 {
    let mut smaller = 0u32;
    #[unroll]
    for e in 0..EACH {
        // A plane's tokens of one turn lie side by side.
        let word = UNIT_POS_Y * EACH + e;
        let place = word * 32 + UNIT_POS_X;
        let token = tile * TILE + place;
        let mut id = u32::MAX.runtime();
        if token < tokens {
            id = u32::cast_from(ids[token as usize]);
        }
        let mine = id >= base && id < base + GROUP;
        smaller += select(id < base, 1u32, 0u32);
        rows[place as usize] = select(mine, id - base, 0u32);
        let ballot = plane_ballot(mine).extract(0usize);
        if UNIT_POS_X == 0 {
            masks[word as usize] = ballot;
        }
    }
    smaller
}

/// `order`: the tokens in the order of their ids, those of one id rising; of row `r`, places `first[r] .. first[r + 1]`. An id
/// that is not in the table is nowhere.
///
/// `ids, order [tokens]`, `first [vocab + 1]`. Cubes: `⌈vocab / GROUP⌉` of `(32, PLANES)`.
#[cube(launch_unchecked)]
pub fn embedding_sort(ids: &[i32], order: &mut [u32], first: &mut [u32], tokens: u32, vocab: u32) {
    let words = comptime!(PLANES * EACH);
    let mut masks = Shared::<[u32]>::new_slice(comptime!((PLANES * EACH) as usize));
    let mut rows = Shared::<[u32]>::new_slice(comptime!(TILE as usize));
    let mut counts = Shared::<[u32]>::new_slice(comptime!(GROUP as usize));
    let mut smaller = Shared::<[u32]>::new_slice(comptime!(PLANES as usize));

    let base = CUBE_POS_X * GROUP;
    let tiles = (tokens + TILE - 1) / TILE;
    // A unit to a row.
    let own = UNIT_POS;

    let mut before = 0u32;
    let mut count = 0u32;
    for tile in 0..tiles {
        before += read_tile(ids, &mut masks, &mut rows, tile, tokens, base);
        sync_cube();
        if own < GROUP {
            for word in 0..words {
                let mut left = masks[word as usize];
                while left != 0 {
                    let place = word * 32 + left.trailing_zeros();
                    count += select(rows[place as usize] == own, 1u32, 0u32);
                    left = left & (left - 1);
                }
            }
        }
        sync_cube();
    }
    let before = plane_sum(before);
    if UNIT_POS_X == 0 {
        smaller[UNIT_POS_Y as usize] = before;
    }
    if own < GROUP {
        counts[own as usize] = count;
    }
    sync_cube();

    let mut next = 0u32;
    if own < GROUP {
        for plane in 0..PLANES {
            next += smaller[plane as usize];
        }
        for row in 0..own {
            next += counts[row as usize];
        }
        let row = base + own;
        if row < vocab {
            first[row as usize] = next;
            if row == vocab - 1 {
                first[vocab as usize] = next + count;
            }
        }
    }
    for tile in 0..tiles {
        sync_cube();
        read_tile(ids, &mut masks, &mut rows, tile, tokens, base);
        sync_cube();
        if own < GROUP && base + own < vocab {
            for word in 0..words {
                let mut left = masks[word as usize];
                while left != 0 {
                    let place = word * 32 + left.trailing_zeros();
                    if rows[place as usize] == own {
                        order[next as usize] = tile * TILE + place;
                        next += 1;
                    }
                    left = left & (left - 1);
                }
            }
        }
    }
}

/// Every row of the table's gradient: the sum over `order[first[row] .. first[row + 1]]` of `grad`, zero where nobody asked.
///
/// `grad [tokens, width]`, `table_grad [vocab, width]`, the width in vectors. Cubes: `(⌈vocab / PLANES⌉, ⌈width / 32⌉)` of `(32,
/// PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn embedding_sums<E: Float, N: Size>(
    grad: &[Vector<E, N>],
    order: &[u32],
    first: &[u32],
    table_grad: &mut [Vector<E, N>],
    vocab: u32,
    width: u32,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let mut of_planes = Shared::<[Vector<f32, N>]>::new_slice(comptime!((32 * PLANES) as usize));
    let column = CUBE_POS_Y * 32 + UNIT_POS_X;
    let inside = column < width;
    let column = min(column, width - 1);

    let own = CUBE_POS_X * PLANES + UNIT_POS_Y;
    if own < vocab {
        let (from, to) = (first[own as usize], first[(own + 1) as usize]);
        if to - from <= FEW {
            let sum = sum_of::<E, N>(grad, order, from, to, 1u32, width, column);
            if inside {
                table_grad[(own * width + column) as usize] = Vector::cast_from(sum);
            }
        }
    }
    for plane in 0..PLANES {
        let row = CUBE_POS_X * PLANES + plane;
        if row < vocab {
            let (from, to) = (first[row as usize], first[(row + 1) as usize]);
            if to - from > FEW {
                // The last row's sums have been read.
                sync_cube();
                of_planes[UNIT_POS as usize] =
                    sum_of::<E, N>(grad, order, from + UNIT_POS_Y, to, PLANES.runtime(), width, column);
                sync_cube();
                if UNIT_POS_Y == 0 && inside {
                    let mut sum = Vector::<f32, N>::new(0.0);
                    #[unroll]
                    for part in 0..PLANES {
                        sum += of_planes[(part * 32 + UNIT_POS_X) as usize];
                    }
                    table_grad[(row * width + column) as usize] = Vector::cast_from(sum);
                }
            }
        }
    }
}

/// The sum over every `step`-th of the tokens `order[from .. to]`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn sum_of<E: Float, N: Size>(
    grad: &[Vector<E, N>],
    order: &[u32],
    from: u32,
    to: u32,
    step: u32,
    width: u32,
    column: u32,
) -> Vector<f32, N> {
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut at = from;
    while at < to {
        sum += Vector::<f32, N>::cast_from(grad[(order[at as usize] * width + column) as usize]);
        at += step;
    }
    sum
}

/// Tokens by their ids.
#[derive(Clone, Copy, Debug)]
pub struct Sort {
    pub tokens: usize,
    pub vocab: usize,
}

impl Sort {
    /// Of `[ids, order, first]`, i32 and u32.
    pub fn kernel(&self) -> Kernel {
        let Self { tokens, vocab } = *self;
        kernel!(
            "embedding_sort".to_string(),
            [(vocab as u32).div_ceil(GROUP), 1, 1],
            CubeDim::new_2d(32, PLANES),
            embedding_sort as EmbeddingSort,
            [ids: tokens, order: tokens, first: vocab + 1],
            { tokens: u32 = tokens as u32, vocab: u32 = vocab as u32 }
        )
    }
}

/// Sums of rows of `width` numbers over the sorted tokens.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub sort: Sort,
    pub width: usize,
    pub dtype: DType,
}

impl Call {
    /// Of `[grad, order, first, table_grad]`, after the sort.
    pub fn sums(&self) -> Kernel {
        let Self { sort: Sort { tokens, vocab }, width, dtype } = *self;
        let (element, suffix) = element(dtype);
        let vector = vector(width);
        let columns = (width / vector) as u32;
        kernel!(
            format!("embedding_sums by {vector}{suffix}"),
            [(vocab as u32).div_ceil(PLANES), columns.div_ceil(32), 1],
            CubeDim::new_2d(32, PLANES),
            embedding_sums as EmbeddingSums,
            [grad: tokens * width => vector, order: tokens, first: vocab + 1, table_grad: vocab * width => vector],
            { vocab: u32 = vocab as u32, width: u32 = columns },
            element,
            vector
        )
    }
}

/// The input is the table, whose rows are fetched as any others.
#[derive(Clone, Debug)]
pub struct GpuEmbedding<B: Gpu> {
    /// `[batch, time]`, in i32.
    pub ids: IntTensor<B>,
}

impl<B: Gpu> Operator<B, 1> for GpuEmbedding<B> {
    /// Of the table.
    type Saved = (Shape, DType);

    fn forward(&self, [table]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let table = table.expect("a table");
        let (shape, dtype, [batch, time]) = (table.shape(), table.dtype(), self.ids.shape().dims::<2>());
        let ids = B::int_reshape(self.ids.clone(), [batch * time].into());
        let rows = B::float_select(table, 0, ids);
        (B::float_reshape(rows, [batch, time, shape[1]].into()), (shape, dtype))
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        let (shape, dtype) = saved;
        assert_eq!(gradient.dtype(), dtype, "the gradient of a table's rows");
        let [vocab, width] = shape.dims();
        let tokens = self.ids.shape().num_elements();
        let call = Call { sort: Sort { tokens, vocab }, width, dtype };
        let ids = B::memory(self.ids.clone());
        let mut program = Program::new("embedding gradient");
        let (ids_, grad) = (program.input_of(DType::I32, &ids), program.input(&gradient));
        let table_grad = program.output(shape, call.dtype);
        let order = program.buffer([tokens], DType::U32);
        let first = program.buffer([vocab + 1], DType::U32);
        program.then(call.sort.kernel(), &[ids_, order, first]);
        program.then(call.sums(), &[grad, order, first, table_grad]);
        [B::execute(program, vec![ids, gradient]).pop()]
    }
}

/// What the table holds.
pub fn sources() -> Vec<Source> {
    let sort = Sort { tokens: 1, vocab: 1 };
    let sums = |dtype| Call { sort, width: 4, dtype }.sums();
    [sort.kernel(), sums(DType::BF16), sums(DType::F32)].map(|kernel| kernel.source()).into()
}
