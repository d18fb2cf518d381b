//! A tensor that grows along one axis, a token at a time.

use burn::tensor::Tensor;
use kernels::Room;

/// The tokens `start .. end` of a tensor with room for as many more: a token is written to its place, and all
/// are copied only when the room is used up.
#[derive(Clone, Debug)]
pub struct Growing {
    room: Room,
    axis: usize,
    start: usize,
    end: usize,
}

impl Growing {
    pub fn new<const D: usize>(tokens: Tensor<D>, axis: usize) -> Self {
        let end = tokens.dims()[axis];
        Self { room: room_for(end, &tokens, axis).write(tokens, axis, 0), axis, start: 0, end }
    }

    pub fn length(&self) -> usize {
        self.end - self.start
    }

    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.room.shape().to_vec();
        shape[self.axis] = self.length();
        shape
    }

    pub fn bytes(&self) -> usize {
        self.shape().iter().product::<usize>() * self.room.dtype().size()
    }

    /// The last `count` tokens.
    ///
    /// While a view of them is alive, the next [`push`](Self::push) copies all there are.
    pub fn last<const D: usize>(&self, count: usize) -> Tensor<D> {
        self.room.part(self.axis, self.end - count, count)
    }

    /// Forgets all but the last `most` tokens.
    pub fn keep(&mut self, most: Option<usize>) {
        if let Some(most) = most {
            self.start = self.start.max(self.end.saturating_sub(most));
        }
    }

    pub fn push<const D: usize>(self, tokens: Tensor<D>) -> Self {
        let Self { room, axis, start, end } = self;
        let time = tokens.dims()[axis];
        if end + time <= room.shape()[axis] {
            return Self { room: room.write(tokens, axis, end), axis, start, end: end + time };
        }
        let kept = room.part::<D>(axis, start, end - start);
        let length = end - start + time;
        let room = room_for(length, &tokens, axis).write(kept, axis, 0);
        Self { room: room.write(tokens, axis, length - time), axis, start: 0, end: length }
    }
}

/// For `length` tokens like these, and as many more.
fn room_for<const D: usize>(length: usize, tokens: &Tensor<D>, axis: usize) -> Room {
    let mut shape = tokens.dims();
    shape[axis] = (2 * length).max(64);
    Room::new(Tensor::<D>::zeros(shape, (&tokens.device(), tokens.dtype())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int};

    #[test]
    fn tokens_come_back_in_order_across_every_growth_and_within_a_window() {
        let device = Device::flex();
        let all = Tensor::<1, Int>::arange(0..600, &device).float().reshape([2, 100, 3]);
        for most in [None, Some(7)] {
            let mut growing = Growing::new(all.clone().narrow(1, 0, 2), 1);
            let mut seen = 2;
            for time in [1, 3, 70, 1, 1, 22] {
                growing = growing.push(all.clone().narrow(1, seen, time));
                growing.keep(most);
                seen += time;
                let kept = most.map_or(seen, |most: usize| most.min(seen));
                assert_eq!(growing.shape(), [2, kept, 3]);
                assert_eq!(growing.bytes(), 2 * kept * 3 * 4);
                let expected = all.clone().narrow(1, seen - kept, kept).into_data();
                assert_eq!(growing.last::<3>(kept).into_data(), expected, "after {seen}");
            }
        }
    }
}
