use super::*;
use burn::tensor::{DType, Device, TensorData};

#[test]
fn the_runs_agree_with_the_reference_in_the_output_and_every_gradient() {
    crate::selftest::agree(cases(), 1e-10);
}

#[test]
fn tokens_in_steps_are_those_of_the_whole() {
    let numbers = |shape: [usize; 3]| {
        let values: Vec<f64> = (0..shape.iter().product()).map(|i| ((i * 7 + 3) % 11) as f64 / 5.0 - 1.0).collect();
        Tensor::<3>::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
    };
    let (x, weight) = (numbers([2, 9, 6]), numbers([1, 6, 4]).reshape([6, 4]));
    let (whole, end) = short_conv(x.clone(), weight.clone(), None, None);
    let (mut past, mut parts, mut start) = (None, Vec::new(), 0);
    for time in [1, 2, 5, 1] {
        let (y, next) = short_conv(x.clone().narrow(1, start, time), weight.clone(), None, past);
        (past, start) = (Some(next), start + time);
        parts.push(y);
    }
    let difference: f64 = (Tensor::cat(parts, 1) - whole).abs().max().into_scalar();
    assert!(difference < 1e-12, "{difference}");
    let difference: f64 = (past.expect("a past") - end).abs().max().into_scalar();
    assert_eq!(difference, 0.0);
}

#[test]
#[should_panic(expected = "the bias of 4 channels")]
fn a_bias_of_another_width_is_refused() {
    let device = Device::flex();
    let bias = Tensor::<1>::zeros([6], &device);
    short_conv(Tensor::zeros([1, 2, 4], &device), Tensor::zeros([4, 3], &device), Some(bias), None);
}

#[test]
fn without_tokens_the_past_gets_the_gradient_of_the_next_past_alone() {
    let device = Device::flex().autodiff();
    let past = Tensor::<3>::ones([1, 3, 4], &device).require_grad();
    let (y, next) =
        short_conv(Tensor::zeros([1, 0, 4], &device), Tensor::ones([4, 4], &device), None, Some(past.clone()));
    let gradient = past.grad(&(y.sum() + next.sum()).backward()).expect("a gradient");
    assert_eq!(gradient.into_data().iter::<f32>().collect::<Vec<_>>(), [1.0; 12]);
}
