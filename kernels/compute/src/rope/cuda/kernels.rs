//! One unit for a vector of pairs, or of channels that are kept.

use super::super::Pairs;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{UNITS, vector};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub width: usize,
    /// Pairs: half of the channels that are rotated.
    pub half: usize,
    pub pairs: Pairs,
}

impl Plan {
    /// Numbers that lie side by side in `x` and belong to one unit; interleaved, a unit has one pair.
    pub const fn vector(&self) -> usize {
        match self.pairs {
            // What divides all three divides their sums.
            Pairs::HalfSplit => vector(self.half | self.width),
            Pairs::Interleaved => 1,
        }
    }

    /// Units of a row.
    const fn items(&self) -> u32 {
        ((self.width - self.half) / self.vector()) as u32
    }
}

/// The two places of pair `j` in a row of vectors, of which `half` hold first halves.
#[cube]
fn places(j: u32, half: u32, #[comptime] interleaved: bool) -> (u32, u32) {
    if interleaved { (2 * j, 2 * j + 1) } else { (j, half + j) }
}

/// `(x, y)` becomes `(x cos − y sin, y cos + x sin)`; with `direction = −1` it is turned back.
///
/// `x, y [rows, width]`, `cos, sin [time, half]`, where row `r` is of token `r / between mod time`: `between` is 1 in
/// `[batch, heads, time, width]`, and the number of heads in `[batch, time, heads, width]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn rope_rotate<E: Float, N: Size>(
    x: &[Vector<E, N>],
    cos: &[Vector<E, N>],
    sin: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    rows: u32,
    time: u32,
    between: u32,
    direction: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let items = comptime!(plan.items());
    let half = comptime!((plan.half / plan.vector()) as u32);
    let vectors = comptime!((plan.width / plan.vector()) as u32);
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < rows * items {
        let (row, item) = (at / items, at % items);
        let start = row * vectors;
        if item < half {
            let angle = (row / between % time * half + item) as usize;
            let c = Vector::<f32, N>::cast_from(cos[angle]);
            let s = Vector::<f32, N>::cast_from(sin[angle]) * Vector::new(direction);
            let (first, second) = places(item, half, comptime!(matches!(plan.pairs, Pairs::Interleaved)));
            let a = Vector::<f32, N>::cast_from(x[(start + first) as usize]);
            let b = Vector::<f32, N>::cast_from(x[(start + second) as usize]);
            y[(start + first) as usize] = Vector::cast_from(a * c - b * s);
            y[(start + second) as usize] = Vector::cast_from(b * c + a * s);
        } else {
            let kept = (start + item + half) as usize;
            y[kept] = x[kept];
        }
    }
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub rows: usize,
    pub time: usize,
    /// Rows from one token to the next.
    pub between: usize,
    pub plan: Plan,
    pub dtype: DType,
}

impl Call {
    /// Of `[x, cos, sin, y]`; `back` turns by the same angles in the other direction.
    pub fn rotate(&self, back: bool) -> Kernel {
        let Self { rows, time, between, plan, dtype } = *self;
        let Plan { width, half, pairs } = plan;
        assert!(half >= 1 && 2 * half <= width, "not a rotation: {self:?}");
        let (element, suffix) = element(dtype);
        let vector = plan.vector();
        kernel!(
            format!("rope_rotate {} of {width} {pairs:?}{suffix}", 2 * half),
            [(rows as u32 * plan.items()).div_ceil(UNITS), 1, 1],
            CubeDim::new_1d(UNITS),
            rope_rotate as RopeRotate,
            [x: rows * width => vector, cos: time * half => vector, sin: time * half => vector, y: rows * width => vector],
            {
                rows: u32 = rows as u32, time: u32 = time as u32, between: u32 = between as u32,
                direction: f32 = if back { -1.0 } else { 1.0 }
            },
            plan,
            element,
            vector
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_items_of_a_row_cover_every_channel_once() {
        for (width, half) in [(16, 8), (60, 30), (100, 13), (128, 64), (7, 2), (64, 8), (256, 32), (12, 4)] {
            for pairs in [Pairs::HalfSplit, Pairs::Interleaved] {
                let plan = Plan { width, half, pairs };
                let (vector, halves) = (plan.vector() as u32, (half / plan.vector()) as u32);
                let mut visited = Vec::new();
                for item in 0..plan.items() {
                    if item < halves {
                        let (first, second) = places(item, halves, pairs == Pairs::Interleaved);
                        visited.extend([first, second]);
                    } else {
                        visited.push(item + halves);
                    }
                }
                visited.sort_unstable();
                assert_eq!(visited, (0..width as u32 / vector).collect::<Vec<_>>(), "{plan:?}");
            }
        }
    }
}
