//! Tensors as rows along their last axis, whatever the order of the other axes in memory.

use super::{Real, for_each};
use burn::tensor::Bytes;
use burn_dispatch::backends::flex::{FlexTensor, Layout};
use std::ops::Range;

/// The rows of a tensor of up to four axes, in the order in which they lie in memory. Results written
/// in this order lie as the tensor does: heads stay split or merged as they are.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Of four axes; those in front that the tensor lacks have length 1.
    shape: [usize; 4],
    /// The first three axes, from the outermost in memory to the innermost.
    order: [usize; 3],
    rank: usize,
}

impl Rows {
    /// # Panics
    /// When the tensor has more than four axes, or none.
    pub fn of(tensor: &FlexTensor) -> Self {
        let layout = tensor.layout();
        let rank = layout.num_dims();
        assert!((1..=4).contains(&rank), "a tensor of {rank} axes");
        let (mut shape, mut strides) = ([1; 4], [isize::MAX; 4]);
        shape[4 - rank..].copy_from_slice(layout.shape().as_slice());
        strides[4 - rank..].copy_from_slice(layout.strides());
        let mut order = [0, 1, 2];
        order.sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
        Self { shape, order, rank }
    }

    pub fn count(&self) -> usize {
        self.shape[..3].iter().product()
    }

    pub fn width(&self) -> usize {
        self.shape[3]
    }

    /// Rows that one thread works on at a time.
    fn unit(&self) -> usize {
        (32_768 / self.width().max(1)).max(1)
    }

    /// Into how many units the rows are divided; it depends on the shape alone.
    pub fn units(&self) -> usize {
        self.count().div_ceil(self.unit())
    }

    /// Calls `f(unit, rows)` for every unit, on several threads.
    pub fn for_units(&self, f: impl Fn(usize, Range<usize>) + Send + Sync) {
        let work = 4 * self.count() * self.width();
        for_each(self.units(), work, |unit| {
            let first = unit * self.unit();
            f(unit, first..self.count().min(first + self.unit()));
        });
    }

    /// Calls `f` with every row of `rows` counted from its first, and where in the tensor it begins.
    #[inline(always)]
    pub fn each(&self, rows: Range<usize>, mut f: impl FnMut(usize, [usize; 4])) {
        let sizes = self.order.map(|axis| self.shape[axis]);
        let inner = sizes[2];
        let mut at = [rows.start / inner / sizes[1], rows.start / inner % sizes[1], rows.start % inner];
        for row in 0..rows.len() {
            let mut index = [0; 4];
            self.order.iter().zip(at).for_each(|(&axis, i)| index[axis] = i);
            f(row, index);
            for place in (0..3).rev() {
                at[place] += 1;
                if at[place] < sizes[place] {
                    break;
                }
                at[place] = 0;
            }
        }
    }

    /// The tensor whose rows these are, in this order.
    pub fn output<E: Real>(&self, values: Vec<E>) -> FlexTensor {
        assert_eq!(values.len(), self.count() * self.width(), "as many numbers as {:?} has", self.shape);
        let mut strides = [0; 4];
        let mut stride = self.width();
        for &axis in self.order.iter().rev() {
            strides[axis] = stride as isize;
            stride *= self.shape[axis];
        }
        strides[3] = 1;
        let first = 4 - self.rank;
        let layout = Layout::new(self.shape[first..].to_vec().into(), strides[first..].to_vec(), 0);
        FlexTensor::new(Bytes::from_elems(values), layout, E::dtype())
    }
}
