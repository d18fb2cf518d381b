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
/// `x [batch, heads, time, width]`, whose rows begin where `strides [3]` says, `cos, sin [time, half]` → `y [batch, time, heads, width]`,
/// of `rows` rows.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn rope_rotate<E: Float, N: Size>(
    x: &[Vector<E, N>],
    strides: &[u32],
    cos: &[Vector<E, N>],
    sin: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    rows: u32,
    time: u32,
    heads: u32,
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
        let (t, head, batch) = (row / heads % time, row % heads, row / heads / time);
        let from = (batch * strides[0] + head * strides[1] + t * strides[2]) / N::value() as u32;
        let to = row * vectors;
        if item < half {
            let angle = (t * half + item) as usize;
            let c = Vector::<f32, N>::cast_from(cos[angle]);
            let s = Vector::<f32, N>::cast_from(sin[angle]) * Vector::new(direction);
            let (first, second) = places(item, half, comptime!(matches!(plan.pairs, Pairs::Interleaved)));
            let a = Vector::<f32, N>::cast_from(x[(from + first) as usize]);
            let b = Vector::<f32, N>::cast_from(x[(from + second) as usize]);
            y[(to + first) as usize] = Vector::cast_from(a * c - b * s);
            y[(to + second) as usize] = Vector::cast_from(b * c + a * s);
        } else {
            y[(to + item + half) as usize] = x[(from + item + half) as usize];
        }
    }
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub batch: usize,
    pub heads: usize,
    pub time: usize,
    pub plan: Plan,
    pub dtype: DType,
}

impl Call {
    /// Of `[x, strides, cos, sin, y]`; `back` turns by the same angles in the other direction.
    pub fn rotate(&self, back: bool) -> Kernel {
        let Self { batch, heads, time, plan, dtype } = *self;
        let rows = batch * heads * time;
        let Plan { width, half, pairs } = plan;
        assert!(half >= 1 && 2 * half <= width, "not a rotation: {self:?}");
        let (element, suffix) = element(dtype);
        let vector = plan.vector();
        kernel!(
            format!("rope_rotate {} of {width} {pairs:?}{suffix}", 2 * half),
            [(rows as u32 * plan.items()).div_ceil(UNITS), 1, 1],
            CubeDim::new_1d(UNITS),
            rope_rotate as RopeRotate,
            [x: rows * width => vector, strides: 3, cos: time * half => vector, sin: time * half => vector, y: rows * width => vector],
            {
                rows: u32 = rows as u32, time: u32 = time as u32, heads: u32 = heads as u32,
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
