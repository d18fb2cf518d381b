//! The loss of a language model, together with its output matrix: the logits are never there as a
//! whole, nor is their softmax.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::cuda::with_gpu;
use crate::operator::{choose_with_cuda, input, run, run_on_cpu};
use crate::selftest::Case;
use crate::trace::Implementation;
use burn::tensor::{Int, Tensor, TensorData};
pub use reference::of_logits;

/// `Σ_t w_t · −log softmax(W h_t)[target_t] / Σ_t w_t`, in nats per counted token, `[1]`.
///
/// Shapes: `hidden [tokens, d]`, `weight [vocab, d]`, a target and a weight `w` for every token. Tokens of
/// weight 0 are left out. NaN when no token counts. Inputs of 16 bits have a loss in f32.
///
/// # Panics
/// When shapes or dtypes do not fit together, or a target is not in the vocabulary.
pub fn cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: &[i32], weights: &[f32]) -> Tensor<1> {
    in_chunks(hidden, weight, targets, weights, None)
}

/// The same with `chunk` rows of logits at a time, or as many as were chosen for the device.
///
/// # Panics
/// As [`cross_entropy`], and for a chunk of no rows.
pub fn in_chunks(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: &[i32],
    weights: &[f32],
    chunk: Option<usize>,
) -> Tensor<1> {
    let ([tokens, d], [vocab, width]) = (hidden.dims(), weight.dims());
    assert!(
        d == width && targets.len() == tokens && weights.len() == tokens,
        "tokens {:?}, an output matrix {:?}, {} targets and {} weights do not fit together",
        hidden.dims(),
        weight.dims(),
        targets.len(),
        weights.len()
    );
    if let Some(target) = targets.iter().find(|&&target| target < 0 || target as usize >= vocab) {
        panic!("expected targets below {vocab}, got {target}");
    }
    assert!(chunk != Some(0), "a chunk of no rows of logits");
    let inputs = [input(hidden), input(weight)];
    let gradients = inputs.iter().flatten().any(|x| x.autodiff != Default::default());
    let operator = || cpu::CrossEntropy { targets: targets.into(), weights: weights.into(), gradients, chunk };
    match choose_with_cuda("cross_entropy", inputs.iter().flatten(), |asked| asked.in_f32()) {
        Implementation::Cpu => Tensor::from_dispatch(run_on_cpu(operator(), inputs)),
        Implementation::Cuda => with_gpu!(inputs, B => {
            Tensor::from_dispatch(run::<B, _, 2>(cuda::GpuCrossEntropy(operator()), inputs))
        }),
        Implementation::Reference => {
            let [hidden, weight] = inputs.map(|x| Tensor::<2>::from_dispatch(x.expect("both are always there")));
            let targets = TensorData::new(targets.to_vec(), [tokens]);
            let targets = Tensor::<1, Int>::from_data(targets, &hidden.device());
            of_logits(hidden.matmul(weight.transpose()), targets, weights)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(
        name: &str,
        [tokens, d, vocab]: [usize; 3],
        chunk: impl Into<Option<usize>>,
        weight: fn(usize) -> f32,
    ) -> Case {
        let chunk = chunk.into();
        let run = move |x: &crate::selftest::Inputs| {
            let targets: Vec<i32> = (0..tokens).map(|t| ((t * 7 + 3) % vocab) as i32).collect();
            let weights: Vec<f32> = (0..tokens).map(weight).collect();
            in_chunks(x.get("hidden"), x.get("weight"), &targets, &weights, chunk)
        };
        Case::new("cross_entropy", name, &[("hidden", &[tokens, d]), ("weight", &[vocab, d])], run)
    }
    vec![
        case("one token", [1, 5, 3], None, |_| 1.0),
        case("a vocabulary of 1", [3, 5, 1], None, |_| 1.0),
        case("all count", [75, 16, 100], None, |_| 1.0),
        case("a large vocabulary", [3, 8, 5002], None, |_| 1.0),
        case("more tokens than are worked on at once", [600, 16, 63], 256, |_| 1.0),
        case("one in three counts, in two chunks", [601, 16, 100], 150, |t| if t % 3 == 1 { 1.0 } else { 0.0 }),
        case("weights", [75, 60, 33], None, |t| (t % 4) as f32 / 2.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn the_chunks_agree_with_the_reference_in_the_output_and_every_gradient() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    fn inputs_of_16_bits_have_a_loss_in_f32_and_gradients_of_their_own() {
        let device = Device::flex();
        for case in cases() {
            let worst = case.check(&device, DType::BF16).worst().clone();
            assert!(worst.relative < crate::selftest::tolerance(DType::BF16, &device), "{}: {worst:?}", case.name);
        }
        let ones = |rows| Tensor::<2>::ones([rows, 3], (&device, DType::BF16));
        assert_eq!(cross_entropy(ones(2), ones(4), &[0, 1], &[1.0; 2]).dtype(), DType::F32);
    }

    #[test]
    fn a_factor_on_the_loss_reaches_the_gradients() {
        let device = Device::flex().autodiff();
        let tensor = |rows: usize, seed: usize| {
            let values: Vec<f32> = (0..rows * 3).map(|i| ((i * 5 + seed) % 7) as f32 / 3.0).collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows, 3]), &device).require_grad()
        };
        let (hidden, weight) = (tensor(4, 1), tensor(5, 2));
        let gradient = |factor: f64| {
            let loss = cross_entropy(hidden.clone(), weight.clone(), &[0, 4, 2, 1], &[1.0; 4]) * factor;
            let gradients = loss.backward();
            [&hidden, &weight].map(|x| x.grad(&gradients).expect("a gradient"))
        };
        for (plain, scaled) in gradient(1.0).into_iter().zip(gradient(4.0)) {
            assert_eq!((plain * 4.0).into_data(), scaled.into_data());
        }
    }

    #[test]
    fn nothing_that_counts_gives_nan_rather_than_zero() {
        let device = Device::flex();
        let loss = cross_entropy(Tensor::ones([2, 3], &device), Tensor::ones([4, 3], &device), &[0, 1], &[0.0; 2]);
        assert!(loss.into_scalar::<f32>().is_nan());
    }

    #[test]
    #[should_panic(expected = "expected targets below 4, got 4")]
    fn a_target_outside_the_vocabulary_is_refused() {
        let device = Device::flex();
        cross_entropy(Tensor::ones([2, 3], &device), Tensor::ones([4, 3], &device), &[0, 4], &[1.0; 2]);
    }
}
