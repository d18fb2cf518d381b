use super::*;
use burn::tensor::{DType, Device, TensorData};

/// Reproducible numbers in (−1, 1), f64.
fn numbers<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

struct Case {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    beta: Tensor<3>,
    g: Tensor<3>,
    state: Tensor<4>,
}

fn unit(x: Tensor<4>) -> Tensor<4> {
    let norm = x.clone().square().sum_dim(3).sqrt();
    x / norm
}

fn case(time: usize) -> Case {
    let (batch, heads, d_key, d_value) = (2, 3, 5, 7);
    Case {
        q: unit(numbers(1, [batch, heads, time, d_key])),
        k: unit(numbers(2, [batch, heads, time, d_key])),
        v: numbers(3, [batch, heads, time, d_value]),
        beta: (numbers(4, [batch, heads, time]) + 1.0) * 0.5,
        g: (numbers(5, [batch, heads, time]) - 1.0) * 0.2,
        state: numbers(6, [batch, heads, d_key, d_value]),
    }
}

impl Case {
    fn run(&self, form: DeltaForm) -> (Tensor<4>, Tensor<4>) {
        gated_delta_rule(
            self.q.clone(),
            self.k.clone(),
            self.v.clone(),
            self.beta.clone(),
            self.g.clone(),
            Some(self.state.clone()),
            form,
        )
    }
}

fn error<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f64 {
    (a - b).abs().max().into_scalar::<f64>()
}

#[test]
fn chunked_equals_recurrent_for_lengths_that_are_no_multiple_of_the_chunk() {
    for time in [1, 2, 15, 16, 17, 63, 75] {
        let case = case(time);
        let (out, state) = case.run(DeltaForm::Recurrent);
        for chunk in [1, 4, 16, 64] {
            let (chunked, end) = case.run(DeltaForm::Chunked(chunk));
            assert!(error(out.clone(), chunked) < 1e-12, "output, time {time}, chunk {chunk}");
            assert!(error(state.clone(), end) < 1e-12, "state, time {time}, chunk {chunk}");
        }
    }
}

#[test]
fn in_single_precision_the_chunked_form_stays_within_1e_5() {
    let case = case(150);
    let (truth, _) = case.run(DeltaForm::Recurrent);
    let single = |x: &Tensor<4>| x.clone().cast(DType::F32);
    let (out, _) = gated_delta_rule(
        single(&case.q),
        single(&case.k),
        single(&case.v),
        case.beta.clone().cast(DType::F32),
        case.g.clone().cast(DType::F32),
        Some(single(&case.state)),
        DeltaForm::Chunked(64),
    );
    assert!(error(truth, out.cast(DType::F64)) < 1e-5);
}

#[test]
fn equal_keys_that_write_fully_do_not_lose_digits() {
    // The case in which the Neumann product fails: A has ones everywhere below the diagonal.
    let mut case = case(64);
    case.k = case.k.clone().narrow(2, 0, 1).repeat_dim(2, 64);
    case.beta = case.beta.ones_like();
    case.g = case.g.zeros_like();
    let (out, _) = case.run(DeltaForm::Recurrent);
    let (chunked, _) = case.run(DeltaForm::Chunked(64));
    assert!(error(out, chunked) < 1e-12);
}

#[test]
fn extreme_decays_stay_finite_forward_and_backward() {
    let case = case(32);
    let device = Device::flex().autodiff();
    let tracked = |x: Tensor<3>| Tensor::<3>::from_data(x.into_data(), (&device, DType::F64)).require_grad();
    let g = tracked(case.g.ones_like() * -300.0);
    let lift = |x: &Tensor<4>| Tensor::<4>::from_data(x.to_data(), (&device, DType::F64));
    let beta = Tensor::<3>::from_data(case.beta.to_data(), (&device, DType::F64));
    let (out, _) =
        gated_delta_rule(lift(&case.q), lift(&case.k), lift(&case.v), beta, g.clone(), None, DeltaForm::Chunked(16));
    assert!(out.clone().is_finite().all().into_scalar::<bool>());
    let gradients = out.sum().backward();
    let gradient = g.grad(&gradients).expect("g is tracked");
    assert!(gradient.is_finite().all().into_scalar::<bool>());
}

#[test]
fn the_effective_pattern_times_the_values_is_the_output() {
    let mut case = case(37);
    case.state = case.state.zeros_like();
    let (out, _) = case.run(DeltaForm::Recurrent);
    let pattern = effective_pattern(case.q.clone(), case.k.clone(), case.beta.clone(), case.g.clone());
    assert!(error(out, pattern.matmul(case.v.clone())) < 1e-10);
}
