//! The loss as it runs on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::cross_entropy::in_chunks;
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::{Implementation, by_reference, trace};

fn check(
    emulator: &Emulator,
    dtype: DType,
    [tokens, d, vocab]: [usize; 3],
    chunk: Option<usize>,
    weight: impl Fn(usize) -> f32,
) {
    // One token far above the others, now and then, so that one logit is; as far as its rounding to 16 bits allows.
    let size = if dtype == DType::F32 { 4.0 } else { 1.0 };
    let spread = |(i, x): (usize, &f64)| size * if i / d % 7 == 5 { 2.0 * x } else { 0.5 * x };
    let hidden = rounded(numbers(1, tokens * d).iter().enumerate().map(spread));
    let matrix = numbers(2, vocab * d);
    let targets: Vec<i32> = (0..tokens).map(|t| ((t * 7 + 3) % vocab) as i32).collect();
    let weights: Vec<f32> = (0..tokens).map(weight).collect();
    let results = |dtype| {
        let (hidden, matrix) = (leaf(&hidden, [tokens, d], dtype), leaf(&matrix, [vocab, d], dtype));
        let loss = in_chunks(hidden.clone(), matrix.clone(), &targets, &weights, chunk);
        let gradients = (loss.clone() * 0.3).backward();
        [values(loss), values(hidden.grad(&gradients).unwrap()), values(matrix.grad(&gradients).unwrap())]
    };
    let expected = by_reference(|| results(DType::F64));
    let (found, ran) = trace(|| emulated(emulator.clone(), || results(dtype)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.02 };
    for (what, (found, expected)) in ["loss", "hidden", "weight"].into_iter().zip(found.iter().zip(&expected)) {
        let what = format!("{what} of {tokens} tokens of {vocab} in chunks of {chunk:?}, {dtype:?}");
        assert_close(&what, found, expected, tolerance);
    }
}

#[test]
fn the_loss_and_both_gradients() {
    let emulator = emulator();
    check(&emulator, DType::F32, [1, 3, 1], None, |_| 1.0);
    check(&emulator, DType::BF16, [9, 24, 63], None, |t| (t % 4 + 1) as f32 / 2.0);
    check(&emulator, DType::F32, [3, 8, 5002], None, |_| 1.0);
}

#[test]
fn chunks_add_up_and_tokens_that_do_not_count_have_no_gradient() {
    let emulator = emulator();
    let third = |t: usize| if t % 3 == 1 { 0.0 } else { t as f32 };
    check(&emulator, DType::F32, [75, 12, 130], Some(16), third);
    check(&emulator, DType::BF16, [75, 12, 132], Some(25), |_| 1.0);
}

#[test]
fn where_no_token_counts_the_loss_is_no_number_and_the_gradients_are_zero() {
    emulated(emulator(), || {
        let [hidden, matrix] = [1, 2].map(|seed| leaf(&numbers(seed, 6), [2, 3], DType::F32));
        let loss = in_chunks(hidden.clone(), matrix.clone(), &[0, 1], &[0.0; 2], None);
        assert!(values(loss.clone())[0].is_nan());
        let gradients = loss.sum().backward();
        let all = [hidden, matrix].map(|x| values(x.grad(&gradients).unwrap()));
        assert_eq!(all, [vec![0.0; 6], vec![0.0; 6]]);
    });
}
