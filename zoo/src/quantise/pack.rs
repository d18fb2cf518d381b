//! Codes of a few bits in whole bytes.

use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};

/// Codes `[…, count]` of `bits` bits, the lowest bit first, as `[…, ⌈count · bits / 8⌉]` bytes.
pub(super) fn pack<const D: usize>(codes: Tensor<D, Int>, bits: usize) -> Tensor<D, Int> {
    let mut shape = codes.dims();
    let count = shape[D - 1];
    let rows = shape.iter().product::<usize>() / count;
    let bytes = (count * bits).div_ceil(8);
    shape[D - 1] = bytes;
    let mut stream = digits(codes.cast(IntDType::I32).reshape([rows, count]), 1, bits);
    let missing = bytes * 8 - count * bits;
    if missing > 0 {
        let none = Tensor::zeros([rows, missing], (&stream.device(), stream.dtype()));
        stream = Tensor::cat(vec![stream, none], 1);
    }
    from_bits(stream, 8).reshape(shape).cast(IntDType::U8)
}

/// `count` codes of `bits` bits from each row of what [`pack`] made.
pub(super) fn unpack<const D: usize>(packed: Tensor<D, Int>, bits: usize, count: usize) -> Tensor<D, Int> {
    let mut shape = packed.dims();
    let bytes = shape[D - 1];
    let rows = shape.iter().product::<usize>() / bytes;
    shape[D - 1] = count;
    let packed = packed.cast(IntDType::I32);
    if bits == 8 {
        return packed;
    }
    let packed = packed.reshape([rows, bytes]);
    let codes = match 8 % bits {
        // No code is in two bytes, and none needs to become bits, of four bytes each.
        0 => digits(packed, bits, 8 / bits).narrow(1, 0, count),
        _ => from_bits(digits(packed, 1, 8).narrow(1, 0, count * bits), bits),
    };
    codes.reshape(shape)
}

/// `[rows, length]` → the `count` lowest digits of `bits` bits of each, the lowest first, `[rows, length · count]`.
fn digits(numbers: Tensor<2, Int>, bits: usize, count: usize) -> Tensor<2, Int> {
    let [rows, length] = numbers.dims();
    let powers = powers(bits, count, &numbers.device());
    (numbers.unsqueeze_dim::<3>(2) / powers).remainder_scalar(1i32 << bits).reshape([rows, length * count])
}

/// The numbers that so many digits of one bit make.
fn from_bits(stream: Tensor<2, Int>, bits: usize) -> Tensor<2, Int> {
    let [rows, length] = stream.dims();
    let powers = powers(1, bits, &stream.device());
    (stream.reshape([rows, length / bits, bits]) * powers).sum_dim(2).reshape([rows, length / bits])
}

/// What digits of `bits` bits count, the lowest first: `[1, 1, count]`.
fn powers(bits: usize, count: usize, device: &Device) -> Tensor<3, Int> {
    let values: Vec<i32> = (0..count).map(|digit| 1 << (digit * bits)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, count]), (device, DType::I32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_and_take_no_more_than_whole_bytes_per_row() {
        for bits in 1..=12 {
            for count in [1, 5, 8, 13] {
                let largest = (1 << bits) - 1;
                let codes: Vec<i32> = (0..2 * 3 * count).map(|i| (i * 2741 + largest) % (largest + 1)).collect();
                let codes =
                    Tensor::<3, Int>::from_data(TensorData::new(codes, [2, 3, count as usize]), &Device::flex());
                let packed = pack(codes.clone(), bits);
                assert_eq!(packed.dims(), [2, 3, (count as usize * bits).div_ceil(8)]);
                assert_eq!(packed.dtype().size(), 1, "a byte is a byte");
                let back = unpack(packed, bits, count as usize);
                let difference: i32 = (back - codes.cast(IntDType::I32)).abs().max().into_scalar();
                assert_eq!(difference, 0, "{count} codes of {bits} bits");
            }
        }
    }
}
