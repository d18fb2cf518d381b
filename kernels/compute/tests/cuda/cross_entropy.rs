//! The loss of rows of logits, run on the CPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::by_reference;
use kernels::cross_entropy::{cuda, of_logits};
use kernels::cuda::program::Emulator;

fn check(emulator: &Emulator, rows: usize, vocab: usize, weight: impl Fn(usize) -> f32) {
    // One logit far above the others, now and then.
    let spread = |(i, x): (usize, &f64)| if i % 97 == 5 { 40.0 + x } else { 8.0 * x };
    let logits = rounded(numbers(1, rows * vocab).iter().enumerate().map(spread));
    let targets: Vec<usize> = (0..rows).map(|t| (t * 7 + 3) % vocab).collect();
    let weights: Vec<f32> = (0..rows).map(weight).collect();
    let total: f32 = weights.iter().sum();
    let given = leaf(&logits, [rows, vocab], DType::F64);
    let loss = by_reference(|| {
        let targets: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
        of_logits(given.clone(), Tensor::from_data(TensorData::new(targets, [rows]), &Device::flex()), &weights)
    });
    let gradients = loss.backward();

    let means: Vec<f64> = weights.iter().map(|w| (w / total) as f64).collect();
    let mut buffers = vec![halves(&logits), words(targets), singles(&means), unwritten(rows, 4)];
    emulator(&[cuda::loss(rows, vocab, DType::BF16)], &mut buffers);
    let found: f64 = from_singles(&buffers[3]).iter().sum();
    assert_close(&format!("the loss of {rows} × {vocab}"), &[found], &values(loss), 1e-5);
    let expected = values(given.grad(&gradients).unwrap());
    assert_close(&format!("the gradient of {rows} × {vocab}"), &from_halves(&buffers[0]), &expected, 0.005);
}

#[test]
fn the_loss_and_the_gradient_in_place() {
    let emulator = emulator();
    check(&emulator, 1, 1, |_| 1.0);
    check(&emulator, 9, 63, |t| (t % 4) as f32 / 2.0);
    check(&emulator, 3, 5002, |_| 1.0);
    check(&emulator, 2, 1024, |t| t as f32);
}
