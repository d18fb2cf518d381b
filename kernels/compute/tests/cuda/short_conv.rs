//! The short convolution as it runs on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::cuda::emulated;
use kernels::{Implementation, by_reference, short_conv, trace};

#[test]
fn the_convolution_and_its_gradients() {
    let emulator = emulator();
    let taps = 4;
    let sizes = [(1, 1, 3, true), (2, 75, 20, true), (1, 2, 5, true), (2, 9, 20, false)];
    for ((batch, time, channels, more), dtype) in sizes.iter().flat_map(|&s| [(s, DType::BF16), (s, DType::F32)]) {
        let results = |dtype| {
            let make = |seed, shape: [usize; 3]| leaf(&numbers(seed, shape.iter().product()), shape, dtype);
            let x = make(1, [batch, time, channels]);
            let weight = make(2, [1, channels, taps]);
            let bias = more.then(|| make(3, [1, 1, channels]));
            let past = more.then(|| make(4, [batch, taps - 1, channels]));
            let (y, _) = short_conv(
                x.clone(),
                weight.clone().reshape([channels, taps]),
                bias.clone().map(|bias| bias.reshape([channels])),
                past.clone(),
            );
            let gradients = (y.clone() * make(5, [batch, time, channels])).sum().backward();
            let mut found = vec![("the output", values(y))];
            let inputs = [("x", Some(x)), ("the weights", Some(weight)), ("the bias", bias), ("the past", past)];
            found.extend(inputs.into_iter().filter_map(|(name, x)| Some((name, values(x?.grad(&gradients).unwrap())))));
            found
        };
        let expected = by_reference(|| results(DType::F64));
        let (found, ran) = trace(|| emulated(emulator.clone(), || results(dtype)));
        assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.005 };
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let what = format!("{name}, {batch} × {time} × {channels} in {dtype:?}");
            assert_close(&what, found, expected, tolerance);
        }
    }
}
