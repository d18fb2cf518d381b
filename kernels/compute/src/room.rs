//! Memory of a tensor that grows along one axis: keys and values of the tokens so far.

use crate::cpu::{Real, with_real};
use crate::operator::{off_tape, plain};
use burn::tensor::{DType, Shape, Tensor};
use burn_backend::TensorMetadata;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;
use burn_dispatch::{DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};

/// A tensor whose rank is not in its type. On the CPU it is written and looked at without a tensor operation, of which decoding
/// would need several a token for every layer's keys and values.
#[derive(Clone, Debug)]
pub struct Room(DispatchTensor);

impl Room {
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }

    pub fn shape(&self) -> Shape {
        self.0.shape()
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// With `part` in the places `at ..` of `axis`: in its own memory where nobody else holds that, else in a copy.
    ///
    /// # Panics
    /// When the part does not fit into the room.
    pub fn write<const D: usize>(self, part: Tensor<D>, axis: usize, at: usize) -> Self {
        let (shape, room) = (part.dims(), self.shape());
        let fits = |i: usize| if i == axis { at + shape[i] <= room[i] } else { shape[i] == room[i] };
        assert!(
            room.num_dims() == D && axis < D && (0..D).all(fits),
            "{shape:?} at {at} of axis {axis} of a room of {room:?}"
        );
        let part = Self::new(part);
        if self.is_plain() && part.is_plain() && self.dtype() == part.dtype() {
            let [mut room, part] = [self, part].map(|x| plain::<Flex>(x.0).to_contiguous());
            with_real!(room.dtype(), E => copy::<E>(&mut room, part, axis, at));
            return Self(off_tape::<Flex>(room));
        }
        Self::new(assign(Tensor::<D>::from_dispatch(self.0), Tensor::from_dispatch(part.0), axis, at))
    }

    /// The places `from .. from + count` of `axis`: a view.
    ///
    /// # Panics
    /// When there are not as many, or for another rank.
    pub fn part<const D: usize>(&self, axis: usize, from: usize, count: usize) -> Tensor<D> {
        let shape = self.shape();
        assert!(
            shape.num_dims() == D && axis < D && from + count <= shape[axis],
            "rank {D}, {count} from {from} on of axis {axis} of a room of {shape:?}"
        );
        if !self.is_plain() {
            return Tensor::from_dispatch(self.0.clone()).narrow(axis, from, count);
        }
        let room = plain::<Flex>(self.0.clone());
        let layout = room.layout().narrow(axis, from, count);
        Tensor::from_dispatch(off_tape::<Flex>(room.with_layout(layout)))
    }

    /// Whether it lies on the CPU, off the tape, in a dtype of the operators there.
    fn is_plain(&self) -> bool {
        matches!(self.0.kind, DispatchTensorKind::Flex(_))
            && self.0.autodiff == DispatchAutodiffContext::Disabled
            && matches!(self.dtype(), DType::F32 | DType::F64)
    }
}

fn assign<const D: usize>(room: Tensor<D>, part: Tensor<D>, axis: usize, at: usize) -> Tensor<D> {
    let shape = part.dims();
    let ranges: [_; D] = std::array::from_fn(|i| if i == axis { at..at + shape[i] } else { 0..shape[i] });
    room.slice_assign(ranges, part)
}

/// Both contiguous.
fn copy<E: Real>(room: &mut FlexTensor, part: FlexTensor, axis: usize, at: usize) {
    let (to, from) = (room.layout().shape().to_vec(), part.layout().shape().to_vec());
    let inner: usize = to[axis + 1..].iter().product();
    let (stride, length) = (to[axis] * inner, from[axis] * inner);
    if length == 0 {
        return;
    }
    let [first, start] = [room.layout().start_offset(), part.layout().start_offset()];
    let outer: usize = from[..axis].iter().product();
    let numbers = &part.storage::<E>()[start..start + outer * length];
    let rows = &mut room.storage_mut::<E>()[first..first + outer * stride];
    for (row, numbers) in rows.chunks_exact_mut(stride).zip(numbers.chunks_exact(length)) {
        row[at * inner..][..length].copy_from_slice(numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int};

    fn numbers(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::<1, Int>::arange(0..shape.iter().product::<usize>() as i64, device).float().reshape(shape)
    }

    /// Both ways, and views of heads that lie side by side.
    #[test]
    fn what_is_written_along_every_axis_is_what_slices_assign() {
        let device = Device::flex();
        for (axis, at) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            for device in [device.clone(), device.clone().autodiff()] {
                let room = numbers([2, 3, 4, 5], &device);
                let mut shape = [4, 2, 3, 5];
                shape[[1, 2, 0, 3][axis]] = 1;
                let part = numbers(shape, &device).permute([1, 2, 0, 3]).mul_scalar(-1.0);
                let expected = assign(room.clone(), part.clone(), axis, at).into_data();
                let written = Room::new(room.clone()).write(part, axis, at);
                let extent = [2, 3, 4, 5][axis];
                assert_eq!(written.part::<4>(axis, 0, extent).into_data(), expected, "axis {axis}");
                let one = written.part::<4>(axis, at, 1).into_data();
                assert_eq!(one, Tensor::<4>::from_data(expected, &device).narrow(axis, at, 1).into_data());
                // The room that was given is another's.
                assert_eq!(room.into_data(), numbers([2, 3, 4, 5], &device).into_data());
            }
        }
    }

    #[test]
    #[should_panic(expected = "[1, 1, 2, 5] at 3 of axis 2 of a room of")]
    fn a_part_that_does_not_fit_is_refused() {
        let device = Device::flex();
        Room::new(numbers([1, 1, 4, 5], &device)).write(numbers([1, 1, 2, 5], &device), 2, 3);
    }
}
