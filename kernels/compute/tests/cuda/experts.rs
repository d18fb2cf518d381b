//! Experts as they run on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::experts::cuda::route::comes_before;
use kernels::{Because, ExpertMatrices, Implementation, by_reference, experts, route, trace};

fn ids(tensor: Tensor<2, Int>) -> Vec<i64> {
    tensor.into_data().iter().collect()
}

#[test]
fn every_token_chooses_its_experts() {
    let emulator = emulator();
    for (tokens, per_token, experts) in [(1, 1, 1), (75, 2, 8), (70, 4, 100)] {
        // Few values, so that there are ties; a token whose shares are no numbers.
        let mut shares: Vec<f64> = numbers(1, tokens * experts).iter().map(|x| (x * 8.0).round()).collect();
        if tokens > 1 {
            shares[..experts].fill(f64::NAN);
        }
        let chosen = |dtype| ids(route(constant(&shares, [tokens, experts], dtype), per_token));
        let expected = by_reference(|| chosen(DType::F64));
        for dtype in [DType::BF16, DType::F32] {
            let (found, ran) = trace(|| emulated(emulator.clone(), || chosen(dtype)));
            assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
            assert_eq!(found, expected, "{tokens} tokens, {per_token} of {experts}, {dtype:?}");
        }
    }
}

#[test]
fn the_larger_share_comes_first_and_of_equal_ones_the_first_expert() {
    assert!(comes_before(2.0, 5, 1.0, 3) && !comes_before(1.0, 3, 2.0, 5));
    assert!(comes_before(1.0, 3, 1.0, 5) && !comes_before(1.0, 5, 1.0, 3));
    assert!(!comes_before(1.0, 3, 1.0, 3));
}

/// A leaf whose gradient is asked for, or not.
fn leaf_or_not<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType, wanted: bool) -> Tensor<D> {
    leaf(values, shape, dtype).set_require_grad(wanted)
}

fn gradient<const D: usize>(x: &Tensor<D>, gradients: &Gradients, wanted: bool) -> Vec<f64> {
    if wanted { values(x.grad(gradients).expect("a gradient")) } else { Vec::new() }
}

/// The output and the gradients of tokens, weights, gates, ups and downs, those that are not `wanted` empty.
fn results(dtype: DType, sizes: [usize; 4], chosen: &[[i64; 2]], wanted: [bool; 5]) -> [Vec<f64>; 6] {
    let [tokens, count, d, width] = sizes;
    let x = leaf_or_not(&numbers(1, tokens * d), [tokens, d], dtype, wanted[0]);
    let weights = leaf_or_not(&numbers(2, tokens * 2), [tokens, 2], dtype, wanted[1]);
    let stack = |seed: usize, shape: [usize; 3]| -> Tensor<3> {
        let numbers = rounded(numbers(seed, count * d * width).into_iter().map(|x| x / 4.0));
        leaf_or_not(&numbers, shape, dtype, wanted[seed - 2])
    };
    let [gate, up, down] = [stack(4, [count, width, d]), stack(5, [count, width, d]), stack(6, [count, d, width])];
    let matrices = ExpertMatrices { gate: gate.clone(), up: up.clone(), down: down.clone() };
    let ids = Tensor::<2, Int>::from_data(TensorData::new(chosen.concat(), [tokens, 2]), &Device::flex());
    let out = experts(x.clone(), weights.clone(), ids, matrices);
    let gradients = (out.clone() * constant(&numbers(3, tokens * d), [tokens, d], dtype)).sum().backward();
    [
        values(out),
        gradient(&x, &gradients, wanted[0]),
        gradient(&weights, &gradients, wanted[1]),
        gradient(&gate, &gradients, wanted[2]),
        gradient(&up, &gradients, wanted[3]),
        gradient(&down, &gradients, wanted[4]),
    ]
}

/// What the kernels make of `chosen` is what the reference makes of `meant`.
fn compare(emulator: &Emulator, sizes: [usize; 4], chosen: &[[i64; 2]], meant: &[[i64; 2]], wanted: [bool; 5]) {
    let expected = by_reference(|| results(DType::F64, sizes, meant, wanted));
    let (found, ran) = trace(|| emulated(emulator.clone(), || results(DType::BF16, sizes, chosen, wanted)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    let names = ["output", "tokens", "weights", "gates", "ups", "downs"];
    for (what, (found, expected)) in names.into_iter().zip(found.iter().zip(&expected)) {
        assert_close(&format!("{what} of {sizes:?}"), found, expected, 0.02);
    }
}

fn check(emulator: &Emulator, sizes: [usize; 4], chosen: impl Fn(usize) -> [i64; 2]) {
    let chosen: Vec<[i64; 2]> = (0..sizes[0]).map(chosen).collect();
    compare(emulator, sizes, &chosen, &chosen, [true; 5]);
}

#[test]
fn rows_go_to_their_experts_and_their_gradients_come_back() {
    let emulator = emulator();
    // Nobody chooses expert 3; expert 1 has more than one tile of rows.
    check(&emulator, [75, 5, 72, 24], |t| [1, [0, 2, 4][t % 3]]);
    check(&emulator, [1, 3, 72, 24], |_| [2, 0]);
}

#[test]
fn each_gradient_is_there_without_the_others() {
    let (emulator, chosen) = (emulator(), [[2, 0]; 3]);
    for alone in 0..5 {
        compare(&emulator, [3, 3, 72, 24], &chosen, &chosen, std::array::from_fn(|input| input == alone));
    }
}

#[test]
fn an_id_that_no_expert_has_is_that_of_the_nearest() {
    compare(&emulator(), [3, 3, 72, 24], &[[-1, 3], [1_000_000, 1], [-5, 0]], &[[0, 2], [2, 1], [0, 0]], [true; 5]);
}

#[test]
fn widths_that_tiles_do_not_fit_are_refused_with_the_reason() {
    let run = || results(DType::BF16, [2, 2, 12, 24], &[[0, 1], [1, 0]], [true; 5]);
    let (_, ran) = trace(|| emulated(emulator(), run));
    let reason = "experts of such a width; there are some for multiples of 8";
    assert_eq!(ran[0].because, Some(Because::NoKernel(reason)));
}
