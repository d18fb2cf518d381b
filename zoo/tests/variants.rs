//! What the variants of softmax attention must agree with where they meet each other.

mod common;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use common::*;
use zoo::*;

fn seeded() -> Init {
    Init::new(7, 0.3, 0.3, 2, &Device::flex())
}

fn input(time: usize) -> Tensor<3> {
    numbers(11, [2, time, D_MODEL], &Device::flex())
}

/// The largest difference between what two mixers make of the same input.
fn difference(a: &impl Mixer, b: &impl Mixer) -> f64 {
    largest(a.forward(input(9), &mut Silent) - b.forward(input(9), &mut Silent))
}

/// `param` with `values` in row-major order.
fn set<const D: usize>(param: &Param<Tensor<D>>, values: Vec<f64>) -> Param<Tensor<D>> {
    param.clone().map(|old| {
        let like = (&old.device(), old.dtype());
        Tensor::from_data(TensorData::new(values.clone(), old.dims()), like)
    })
}

#[test]
fn gates_that_forget_nothing_leave_plain_attention() {
    let config = ForgettingConfig { bias: 800.0, ..ForgettingConfig::new(4) };
    let forgetting = double(config.init(D_MODEL, &mut seeded()));
    assert_eq!(difference(&forgetting, &forgetting.attention), 0.0);
}

#[test]
fn a_constant_gate_is_alibi_with_that_slope() {
    let mut forgetting = double(ForgettingConfig::new(4).init(D_MODEL, &mut seeded()));
    forgetting.forget_proj.weight = forgetting.forget_proj.weight.map(|w| w * 0.0);
    // σ(b) = e^{−m} for the published slopes 2^{−2}, 2^{−4}, 2^{−6}, 2^{−8} of four heads.
    let bias = [2, 4, 6, 8].map(|power| -(2f64.powi(-power).exp_m1()).ln());
    forgetting.forget_bias = set(&forgetting.forget_bias, bias.to_vec());
    let alibi = SoftmaxConfig { position: Position::Alibi {}, ..SoftmaxConfig::new(4) };
    let alibi = double(alibi.init(D_MODEL, &mut seeded()));
    let plain = SoftmaxConfig { position: Position::None {}, ..SoftmaxConfig::new(4) };
    assert!(difference(&forgetting, &alibi) < 1e-12);
    assert!(difference(&forgetting, &double(plain.init(D_MODEL, &mut seeded()))) > 1e-3);
}

#[test]
fn a_gate_that_closes_hides_everything_before_it() {
    let forgetting = double(ForgettingConfig::new(4).init(D_MODEL, &mut seeded()));
    let mut close = Patch::new("forget", |_, value: Value| {
        let gate: Tensor<3> = value.tensor();
        let shut = gate.clone().narrow(2, 5, 1) * 0.0;
        Value::new(gate.slice_assign([0..2, 0..4, 5..6], shut))
    });
    let whole = forgetting.forward(input(9), &mut close);
    let late = forgetting.forward(input(9).narrow(1, 5, 4), &mut Silent);
    assert!(largest(whole.narrow(1, 5, 4) - late) < 1e-12);
}
