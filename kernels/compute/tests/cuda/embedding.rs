//! The table's gradient, run on the CPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::cuda::program::Emulator;
use kernels::embedding::cuda::{Call, Sort};
use kernels::{by_reference, embedding};

fn check(emulator: &Emulator, tokens: usize, vocab: usize, width: usize, id: impl Fn(usize) -> usize) {
    let call = Call { sort: Sort { tokens, vocab }, width, dtype: DType::BF16 };
    let ids: Vec<usize> = (0..tokens).map(id).collect();
    let grad = numbers(1, tokens * width);
    let table = leaf(&numbers(2, vocab * width), [vocab, width], DType::F64);
    let out = by_reference(|| {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        embedding(table.clone(), Tensor::from_data(TensorData::new(ids, [1, tokens]), &Device::flex()))
    });
    let gradients = (out * constant(&grad, [1, tokens, width], DType::F64)).sum().backward();

    let mut buffers = vec![words(ids), unwritten(tokens, 4), unwritten(vocab + 1, 4)];
    emulator(&[call.sort.kernel()], &mut buffers);
    let (first, order) = (buffers.pop().unwrap(), buffers.pop().unwrap());
    let mut buffers = vec![halves(&grad), order, first, unwritten(vocab * width, 2)];
    emulator(&[call.sums()], &mut buffers);
    let expected = values(table.grad(&gradients).unwrap());
    assert_close(&format!("the gradient of {call:?}"), &from_halves(&buffers[3]), &expected, 0.005);
}

#[test]
fn every_row_is_the_sum_of_its_tokens() {
    let emulator = emulator();
    check(&emulator, 1, 1, 3, |_| 0);
    check(&emulator, 75, 300, 36, |t| (t * 11 + t * t / 7) % 300);
    // More tokens than a tile has, one row that most of them read.
    check(&emulator, 1500, 130, 132, |t| if t % 3 == 0 { t % 130 } else { 77 });
}
