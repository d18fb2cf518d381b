//! Experts as they run on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::experts::cuda::route::comes_before;
use kernels::{Because, Expert, Implementation, by_reference, experts, route, trace};

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

/// The output and the gradients of tokens, weights, gates, ups and downs; zeros where there is none.
fn results(dtype: DType, [tokens, count, d, width]: [usize; 4], chosen: &[[i64; 2]]) -> [Vec<f64>; 6] {
    let x = leaf(&numbers(1, tokens * d), [tokens, d], dtype);
    let weights = leaf(&numbers(2, tokens * 2), [tokens, 2], dtype);
    let matrices = |seed: usize, shape: [usize; 2]| -> Vec<Tensor<2>> {
        let numbers = rounded(numbers(seed, count * d * width).into_iter().map(|x| x / 4.0));
        numbers.chunks(d * width).map(|matrix| leaf(matrix, shape, dtype)).collect()
    };
    let [gates, ups, downs] = [(4, [width, d]), (5, [width, d]), (6, [d, width])].map(|(seed, of)| matrices(seed, of));
    let expert = |e: usize| Expert { gate: gates[e].clone(), up: ups[e].clone(), down: downs[e].clone() };
    let ids = chosen.concat();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [tokens, 2]), &Device::flex());
    let out = experts(x.clone(), weights.clone(), ids, (0..count).map(expert).collect());
    let gradients = (out.clone() * constant(&numbers(3, tokens * d), [tokens, d], dtype)).sum().backward();
    let of = |x: &Tensor<2>| x.grad(&gradients).map_or_else(|| vec![0.0; x.shape().num_elements()], values);
    let all = |matrices: &[Tensor<2>]| matrices.iter().flat_map(of).collect();
    [values(out), of(&x), of(&weights), all(&gates), all(&ups), all(&downs)]
}

fn check(emulator: &Emulator, sizes: [usize; 4], chosen: impl Fn(usize) -> [i64; 2]) {
    let chosen: Vec<[i64; 2]> = (0..sizes[0]).map(chosen).collect();
    let expected = by_reference(|| results(DType::F64, sizes, &chosen));
    let (found, ran) = trace(|| emulated(emulator.clone(), || results(DType::BF16, sizes, &chosen)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    let names = ["output", "tokens", "weights", "gates", "ups", "downs"];
    for (what, (found, expected)) in names.into_iter().zip(found.iter().zip(&expected)) {
        assert_close(&format!("{what} of {sizes:?}"), found, expected, 0.02);
    }
}

#[test]
fn rows_go_to_their_experts_and_their_gradients_come_back() {
    let emulator = emulator();
    // Nobody chooses expert 3; expert 1 has more than one tile of rows.
    check(&emulator, [75, 5, 72, 24], |t| [1, [0, 2, 4][t % 3]]);
    check(&emulator, [1, 3, 72, 24], |_| [2, 0]);
}

#[test]
fn widths_that_tiles_do_not_fit_are_refused_with_the_reason() {
    let run = || results(DType::BF16, [2, 2, 12, 24], &[[0, 1], [1, 0]]);
    let (_, ran) = trace(|| emulated(emulator(), run));
    let reason = "experts of such a width; there are some for multiples of 8";
    assert_eq!(ran[0].because, Some(Because::NoKernel(reason)));
}
