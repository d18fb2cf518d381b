//! Tensors as memory: strided views of what comes in, and what goes out.

use super::{Mat, Real};
use burn::tensor::Bytes;
use burn_dispatch::backends::flex::{FlexTensor, Layout};

/// A tensor of rank `D` to read as it lies, views and broadcast axes (stride 0) included.
#[derive(Debug)]
pub struct Strided<'a, E, const D: usize> {
    data: &'a [E],
    pub shape: [usize; D],
    pub strides: [usize; D],
}

// Copying a view does not ask that `E` can be copied.
impl<E, const D: usize> Clone for Strided<'_, E, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E, const D: usize> Copy for Strided<'_, E, D> {}

impl<'a, E: Real, const D: usize> Strided<'a, E, D> {
    /// Axes of length 1 stand before those of a tensor that has fewer than `D`.
    ///
    /// # Panics
    /// When the tensor has more axes or another type, or a negative stride (see [`forwards`]).
    pub fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let missing = D.checked_sub(layout.num_dims()).expect("the rank of the tensor");
        let (mut shape, mut strides) = ([1; D], [0; D]);
        shape[missing..].copy_from_slice(layout.shape().as_slice());
        for (to, &stride) in strides[missing..].iter_mut().zip(layout.strides()) {
            *to = stride.try_into().expect("a stride that is not negative");
        }
        let data = &tensor.storage::<E>()[layout.start_offset()..];
        if shape.iter().all(|&n| n > 0) {
            let last: usize = shape.iter().zip(&strides).map(|(n, s)| (n - 1) * s).sum();
            assert!(last < data.len(), "a view beyond its data");
        }
        Self { data, shape, strides }
    }

    /// As if it had `shape`, where an axis of length 1 serves for any length.
    pub fn broadcast(self, shape: [usize; D]) -> Self {
        let mut strides = self.strides;
        for axis in 0..D {
            if self.shape[axis] != shape[axis] {
                assert_eq!(self.shape[axis], 1, "expected {shape:?}, got {:?}", self.shape);
                strides[axis] = 0;
            }
        }
        Self { shape, strides, ..self }
    }

    pub fn at(&self, index: [usize; D]) -> E {
        self.data[self.offset(index)]
    }

    pub fn offset(&self, index: [usize; D]) -> usize {
        index.iter().zip(&self.strides).map(|(i, s)| i * s).sum()
    }

    /// The contiguous run of `length` numbers along the last axis from `index` on.
    ///
    /// # Panics
    /// When the last axis has a stride other than 1.
    pub fn run(&self, index: [usize; D], length: usize) -> &'a [E] {
        assert!(self.strides[D - 1] == 1 || length <= 1, "the last axis is not contiguous");
        let start = self.offset(index);
        &self.data[start..start + length]
    }

    /// All of the memory from `index` on.
    pub fn run_from(&self, index: [usize; D]) -> &'a [E] {
        &self.data[self.offset(index)..]
    }

    /// The last two axes as a matrix, at `index` of the others (its last two entries are where the
    /// matrix begins).
    pub fn matrix(&self, index: [usize; D]) -> Mat<'a, E> {
        let size = [self.shape[D - 2] - index[D - 2], self.shape[D - 1] - index[D - 1]];
        Mat::new(&self.data[self.offset(index)..], size, [self.strides[D - 2], self.strides[D - 1]])
    }
}

/// `tensor` with no stride below zero and its last axis contiguous; copied only when it has to be.
pub fn forwards(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    let last = strides.len().checked_sub(1).map_or(1, |last| strides[last]);
    let one = tensor.layout().shape().as_slice().last() == Some(&1);
    if strides.iter().all(|&s| s >= 0) && (last == 1 || one) { tensor } else { tensor.to_contiguous() }
}

/// `tensor` with all axes but the last taken together, `[rows, last]`; copied only when they do not
/// lie as if they were one.
pub fn as_rows(tensor: FlexTensor) -> FlexTensor {
    let tensor = forwards(tensor);
    let shape = tensor.layout().shape().to_vec();
    let (&last, leading) = shape.split_last().expect("an axis");
    let count = leading.iter().product();
    let strides = tensor.layout().strides();
    // From the innermost outwards every axis goes on where the one inside it ends.
    let (mut step, mut length) = (0, 1);
    for (&n, &stride) in leading.iter().zip(strides).rev().filter(|(n, _)| **n > 1) {
        if length > 1 && stride != step * length {
            return as_rows(tensor.to_contiguous());
        }
        step = if length == 1 { stride } else { step };
        length *= n as isize;
    }
    let column = strides[leading.len()];
    let layout = Layout::new([count, last].into(), vec![step, column], tensor.layout().start_offset());
    tensor.with_layout(layout)
}

/// Memory for results, every number of which is written before it is read. In tests it begins as
/// NaN, so that one that was forgotten is seen.
pub fn buffer<E: Real>(length: usize) -> Vec<E> {
    if cfg!(test) {
        return vec![E::NAN; length];
    }
    let mut memory = Vec::with_capacity(length);
    // SAFETY: any bits are a number, and the memory is written before it is read (see above).
    #[allow(clippy::uninit_vec)]
    unsafe {
        memory.set_len(length)
    };
    memory
}

/// A tensor of numbers that lie in order.
pub fn output<E: Real, const D: usize>(values: Vec<E>, shape: [usize; D]) -> FlexTensor {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "as many numbers as {shape:?} has");
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), E::dtype())
}

/// The same in a shape that is known as the program runs.
pub fn output_like<E: Real>(values: Vec<E>, shape: &[usize]) -> FlexTensor {
    let layout = Layout::contiguous(shape.to_vec().into());
    let flat = [values.len()];
    assert_eq!(values.len(), layout.num_elements(), "as many numbers as {shape:?} has");
    output(values, flat).with_layout(layout)
}

/// A tensor of numbers that lie as [batch, time, heads, d], seen as `[batch, heads, time, d]`: heads
/// are merged and split without a copy.
pub fn output_heads<E: Real>(values: Vec<E>, [batch, heads, time, d]: [usize; 4]) -> FlexTensor {
    let tensor = output(values, [batch, time, heads, d]);
    let layout = tensor.layout().permute(&[0, 2, 1, 3]);
    tensor.with_layout(layout)
}
