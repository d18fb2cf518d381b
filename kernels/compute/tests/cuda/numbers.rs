//! Numbers as tensors of the reference and of the emulated GPU, and compared.

use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use kernels::cuda::program::Numbers;

/// Numbers of a known sequence in (−1, 1) that bf16 holds exactly.
pub fn numbers(seed: usize, count: usize) -> Vec<f64> {
    let mut state = seed as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64 / (1u64 << 24) as f64) * 2.0 - 1.0
    };
    rounded((0..count).map(|_| next()))
}

/// What bf16 holds of them.
pub fn rounded(numbers: impl IntoIterator<Item = f64>) -> Vec<f64> {
    numbers.into_iter().map(|x| bf16::from_f64(x).to_f64()).collect()
}

/// Without a tape.
pub fn constant<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), dtype))
}

/// A leaf of the tape.
pub fn leaf<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex().autodiff(), dtype)).require_grad()
}

/// Its numbers, in order.
pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    // Relative to the largest: what rounding of inputs to 16 bits leaves is of that size.
    let size = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    assert_within(what, found, expected, &vec![tolerance * size; expected.len()]);
}

pub fn assert_within(what: &str, found: &[f64], expected: &[f64], allowed: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, ((f, e), allowed)) in found.iter().zip(expected).zip(allowed).enumerate() {
        assert!((f - e).abs() <= *allowed, "{what}[{i}]: {f}, expected {e} within {allowed}");
    }
}

/// What a kernel is given directly.
pub fn singles(numbers: &[f64]) -> Numbers {
    Numbers { dtype: DType::F32, bytes: numbers.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect() }
}

pub fn from_singles(numbers: &Numbers) -> Vec<f64> {
    numbers.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
}
