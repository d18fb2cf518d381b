//! Many small networks, of which every token is worked on by a few: `y_t = Σ_s w_ts · SwiGLU_{e(t, s)}(x_t)`.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::operator::{Operator, choose, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn_dispatch::DispatchTensor;
use burn_dispatch::backends::Flex;

/// `down( silu(gate x) ⊙ up x )`, with `gate` and `up` of shape `[width, d]` and `down` of `[d, width]`.
#[derive(Clone, Debug)]
pub struct Expert {
    pub gate: Tensor<2>,
    pub up: Tensor<2>,
    pub down: Tensor<2>,
}

/// Who works on what: token `t` in its place `s` is worked on by expert `chosen[t · per_token + s]`.
#[derive(Clone, Debug)]
pub struct Routing {
    per_token: usize,
    /// The experts that work on some token, each with its places `t · per_token + s` in rising order.
    busy: Vec<(usize, Vec<usize>)>,
}

impl Routing {
    /// # Panics
    /// When `chosen` names an expert that there is not, or does not fill its last token.
    pub fn new(chosen: &[usize], per_token: usize, experts: usize) -> Self {
        assert!(chosen.len().is_multiple_of(per_token), "{} places, {per_token} per token", chosen.len());
        let mut places = vec![Vec::new(); experts];
        for (place, &expert) in chosen.iter().enumerate() {
            assert!(expert < experts, "expected experts below {experts}, got {expert}");
            places[expert].push(place);
        }
        let busy = places.into_iter().enumerate().filter(|(_, places)| !places.is_empty());
        Self { per_token, busy: busy.collect() }
    }
}

/// Shapes: `x [tokens, d]`, `weights [tokens, per_token]` → `[tokens, d]`. An expert that sees no token
/// gets no gradient.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn experts(x: Tensor<2>, weights: Tensor<2>, routing: &Routing, all: &[Expert]) -> Tensor<2> {
    let [tokens, d] = x.dims();
    assert_eq!(weights.dims(), [tokens, routing.per_token], "a weight for every place");
    let width = all.first().map_or(0, |expert| expert.gate.dims()[0]);
    for Expert { gate, up, down } in all {
        let shapes = [gate.dims(), up.dims(), down.dims()];
        assert_eq!(shapes, [[width, d], [width, d], [d, width]], "gate, up and down of an expert");
    }
    let matrices = |&(e, _): &(usize, Vec<usize>)| {
        let Expert { gate, up, down } = &all[e];
        [gate, up, down].map(|matrix| matrix.clone().into_dispatch())
    };
    let matrices: Vec<[DispatchTensor; 3]> = routing.busy.iter().map(matrices).collect();
    let [x, weights] = [x, weights].map(Tensor::into_dispatch);
    match choose("experts", &[&x, &weights].into_iter().chain(matrices.iter().flatten()).collect::<Vec<_>>()) {
        Implementation::Cpu => {
            // Burn's tape wants the number of inputs as the program is compiled.
            let groups = routing.busy.chunks(GROUP).zip(matrices.chunks(GROUP));
            let parts = groups.map(|(busy, matrices)| {
                let operator = cpu::Experts::new(busy, routing.per_token);
                let inputs = [&x, &weights].into_iter().chain(matrices.iter().flatten()).cloned();
                match matrices.len() {
                    ..=2 => run::<8>(operator, inputs),
                    3..=10 => run::<32>(operator, inputs),
                    _ => run::<{ 2 + 3 * GROUP }>(operator, inputs),
                }
            });
            parts.reduce(|a, b| a + b).expect("a token")
        }
        _ => reference::experts(Tensor::from_dispatch(x), Tensor::from_dispatch(weights), routing, all),
    }
}

/// Experts in one operation.
const GROUP: usize = 42;

fn run<const N: usize>(operator: cpu::Experts, inputs: impl Iterator<Item = DispatchTensor>) -> Tensor<2>
where
    cpu::Experts: Operator<Flex, N>,
{
    let mut inputs = inputs;
    Tensor::from_dispatch(run_on_cpu::<_, N>(operator, std::array::from_fn(|_| inputs.next())))
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(name: &str, [tokens, k, experts_, d, width]: [usize; 5], choice: fn(usize, usize) -> usize) -> Case {
        let run = move |x: &Inputs| {
            let chosen: Vec<usize> = (0..tokens * k).map(|i| (choice(i / k, experts_) + i % k) % experts_).collect();
            let of = |name: &str, e: usize, [rows, columns]: [usize; 2]| {
                x.get::<3>(name).narrow(0, e, 1).reshape([rows, columns])
            };
            let expert = |e: usize| Expert {
                gate: of("gate", e, [width, d]),
                up: of("up", e, [width, d]),
                down: of("down", e, [d, width]),
            };
            let all: Vec<Expert> = (0..experts_).map(expert).collect();
            experts(x.get("x"), x.get("weights"), &Routing::new(&chosen, k, experts_), &all).reshape([-1])
        };
        let wide = [experts_, width, d];
        let inputs: [(_, &[usize]); 5] = [
            ("x", &[tokens, d]),
            ("weights", &[tokens, k]),
            ("gate", &wide),
            ("up", &wide),
            ("down", &[experts_, d, width]),
        ];
        Case::new("experts", name, &inputs, run)
    }
    vec![
        case("one token, one expert", [1, 1, 1, 5, 3], |_, _| 0),
        case("two of eight, even loads", [75, 2, 8, 16, 24], |t, experts| t % experts),
        case("all tokens to two of four", [300, 2, 4, 12, 9], |_, _| 1),
        case("three of a hundred, uneven loads", [200, 3, 100, 8, 5], |t, experts| t * t % experts),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_grouped_products_agree_with_the_reference_in_the_output_and_every_gradient() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    fn an_expert_that_sees_no_token_gets_no_gradient() {
        let device = Device::flex().autodiff();
        let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &device).require_grad();
        let expert = || Expert { gate: ones([3, 2]), up: ones([3, 2]), down: ones([2, 3]) };
        let all = [expert(), expert()];
        let out = experts(ones([4, 2]), ones([4, 1]), &Routing::new(&[1; 4], 1, 2), &all);
        let gradients = out.sum().backward();
        assert!(all[0].gate.grad(&gradients).is_none() && all[1].gate.grad(&gradients).is_some());
    }

    #[test]
    #[should_panic(expected = "expected experts below 2, got 2")]
    fn an_expert_that_there_is_not_is_refused() {
        Routing::new(&[0, 2], 1, 2);
    }
}
