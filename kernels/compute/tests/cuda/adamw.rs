//! The update of a weight and the size of gradients as they run on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::adamw::Update;
use kernels::cuda::emulated;
use kernels::{Because, Implementation, adamw, by_reference, squares, trace};

#[test]
fn the_squares_of_every_gradient_are_summed() {
    let gradients: Vec<Vec<f64>> = [3, 70_002, 20_000].iter().map(|&count| numbers(count, count)).collect();
    let results = |dtype| values(squares(gradients.iter().map(|g| constant(g, [g.len()], dtype)).collect()));
    let expected = by_reference(|| results(DType::F64));
    let (found, ran) = trace(|| emulated(emulator(), || results(DType::F32)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    for (found, expected) in found.iter().zip(&expected) {
        assert_close("squares", &[*found], &[*expected], 1e-5);
    }
}

#[test]
fn a_weight_and_its_moments_are_updated_from_the_first_step_on() {
    let emulator = emulator();
    for shape in [[1, 1], [3, 25], [182, 11]] {
        let count = shape[0] * shape[1];
        let results = |dtype| {
            let (mut weight, mut moments) = (constant(&numbers(1, count), shape, dtype), None);
            let held = weight.clone();
            for t in 1..4 {
                let update = Update {
                    betas: [0.9, 0.95],
                    scale: 0.7 / f64::from(t),
                    keep: 0.99,
                    size: 0.01 / (1.0 - 0.9f64.powi(t)),
                    spread: (1.0 - 0.95f64.powi(t)).powf(-0.5),
                    epsilon: 1e-8,
                };
                let gradient = constant(&numbers(t as usize + 1, count), shape, dtype);
                let (after, both) = adamw(weight, gradient, moments, update);
                (weight, moments) = (after, Some(both));
            }
            assert_eq!(values(held), numbers(1, count), "what somebody else holds has changed");
            let [first, second] = moments.unwrap().map(values);
            [values(weight), first, second]
        };
        let expected = by_reference(|| results(DType::F64));
        let (found, ran) = trace(|| emulated(emulator.clone(), || results(DType::F32)));
        assert!(ran.iter().all(|ran| ran.implementation == Implementation::Cuda), "{ran:?}");
        for (what, (found, expected)) in ["weight", "first", "second"].into_iter().zip(found.iter().zip(&expected)) {
            assert_close(&format!("{what} of {shape:?}"), found, expected, 1e-5);
        }
    }
}

#[test]
fn another_dtype_is_refused_with_the_reason() {
    let run = || squares(vec![constant(&[1.0], [1], DType::BF16)]);
    let (_, ran) = trace(|| emulated(emulator(), run));
    assert_eq!(ran[0].because, Some(Because::NoKernel("this dtype; there is one for f32")));
}
