//! The table's gradient as it runs on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::{Implementation, by_reference, embedding, trace};

fn check(emulator: &Emulator, dtype: DType, [batch, time, vocab, width]: [usize; 4], id: impl Fn(usize) -> usize) {
    let grad = numbers(1, batch * time * width);
    let results = |dtype| {
        let table = leaf(&numbers(2, vocab * width), [vocab, width], dtype);
        let ids: Vec<i64> = (0..batch * time).map(|t| id(t) as i64).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, time]), &Device::flex());
        let out = embedding(table.clone(), ids);
        let gradients = (out.clone() * constant(&grad, [batch, time, width], dtype)).sum().backward();
        [values(out), values(table.grad(&gradients).unwrap())]
    };
    let [expected, expected_grad] = by_reference(|| results(DType::F64));
    let ([found, found_grad], ran) = trace(|| emulated(emulator.clone(), || results(dtype)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    let what = format!("{batch} × {time} tokens of {vocab}, width {width}, {dtype:?}");
    assert_eq!(found, expected, "the rows, {what}");
    let tolerance = if dtype == DType::F32 { 1e-6 } else { 0.005 };
    assert_close(&format!("the gradient, {what}"), &found_grad, &expected_grad, tolerance);
}

#[test]
fn every_row_is_the_sum_of_its_tokens() {
    let emulator = emulator();
    check(&emulator, DType::BF16, [1, 1, 1, 3], |_| 0);
    check(&emulator, DType::F32, [3, 25, 300, 36], |t| (t * 11 + t * t / 7) % 300);
    // More tokens than a tile has, one row that most of them read.
    check(&emulator, DType::BF16, [2, 750, 130, 132], |t| if t % 3 == 0 { t % 130 } else { 77 });
}
