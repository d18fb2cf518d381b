//! Many small networks, of which every token is worked on by a few: `y_t = Σ_s w_ts · SwiGLU_{e(t, s)}(x_t)`.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::cuda::{Asked, with_gpu};
use crate::operator::{
    Operator, TOO_LARGE, choose_with_cuda, input, plain, run as run_on, run_on_cpu, whole, whole_off_tape,
};
use crate::selftest::{Case, Inputs, constant};
use crate::trace::{Because, Implementation};
use burn::tensor::{Int, Tensor, TensorData};
use burn_dispatch::DispatchTensor;
use burn_dispatch::backends::Flex;

/// `down( silu(gate x) ⊙ up x )`, with `gate` and `up` of shape `[width, d]` and `down` of `[d, width]`.
#[derive(Clone, Debug)]
pub struct Expert {
    pub gate: Tensor<2>,
    pub up: Tensor<2>,
    pub down: Tensor<2>,
}

/// Who works on what, on the host: token `t` in its place `s` is worked on by expert `chosen[t · per_token + s]`.
#[derive(Clone, Debug)]
struct Routing {
    per_token: usize,
    /// The experts that work on some token, each with its places `t · per_token + s` in rising order.
    busy: Vec<(usize, Vec<usize>)>,
}

impl Routing {
    /// # Panics
    /// When `chosen` names an expert that there is not.
    fn of(chosen: Tensor<2, Int>, experts: usize) -> Self {
        let [_, per_token] = chosen.dims();
        let mut places = vec![Vec::new(); experts];
        for (place, expert) in chosen.into_data().iter::<i64>().enumerate() {
            match usize::try_from(expert) {
                Ok(expert) if expert < experts => places[expert].push(place),
                _ => panic!("expected experts below {experts}, got {expert}"),
            }
        }
        let busy = places.into_iter().enumerate().filter(|(_, places)| !places.is_empty());
        Self { per_token, busy: busy.collect() }
    }
}

/// The `per_token` experts of every token with the largest shares, the largest first; of equal ones the first comes
/// first; what is no number counts as the lowest. The choice has no gradient.
///
/// Shapes: `shares [tokens, experts]` → `[tokens, per_token]`, in i32.
///
/// # Panics
/// When there are not as many experts.
pub fn route(shares: Tensor<2>, per_token: usize) -> Tensor<2, Int> {
    let [tokens, experts] = shares.dims();
    assert!(1 <= per_token && per_token <= experts, "expected 1 to {experts} experts per token, got {per_token}");
    let device = shares.device();
    let shares = if device.is_autodiff() { shares.inner() } else { shares };
    let inputs = [input(shares)];
    match choose_with_cuda("route", inputs.iter().flatten(), Asked::in_f32) {
        Implementation::Cuda => with_gpu!(inputs, B => {
            let [shares] = inputs.map(|x| plain::<B>(x.expect("shares are always there")));
            Tensor::from_dispatch(whole_off_tape::<B>(cuda::route::<B>(shares, per_token)))
        }),
        // Plain tensor operations would sort on the host as well.
        host => {
            let [shares] = inputs.map(|x| Tensor::from_dispatch(x.expect("shares are always there")));
            let route = if host == Implementation::Cpu { cpu::route } else { reference::route };
            let chosen = route(shares, per_token);
            Tensor::from_data(TensorData::new(chosen, [tokens, per_token]), &device)
        }
    }
}

/// Token `t` is worked on by the experts `chosen[t]`, with their weights `weights[t]`.
///
/// Shapes: `x [tokens, d]`, `weights` and `chosen [tokens, per_token]` → `[tokens, d]`. An expert that sees no token
/// gets no gradient; from the CUDA kernels, which do not tell the host who that is, it gets one of zeros.
///
/// # Panics
/// When shapes or dtypes do not fit together, and when `chosen` names an expert that there is not, which CUDA kernels
/// do not tell: it has to come from [`route`].
pub fn experts(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, all: Vec<Expert>) -> Tensor<2> {
    let ([tokens, d], [_, per_token], count) = (x.dims(), chosen.dims(), all.len());
    assert!(
        weights.dims() == [tokens, per_token] && chosen.dims() == [tokens, per_token],
        "{tokens} tokens, weights {:?} and chosen experts {:?} do not fit together",
        weights.dims(),
        chosen.dims()
    );
    let width = all.first().map_or(0, |expert| expert.gate.dims()[0]);
    for Expert { gate, up, down } in &all {
        let shapes = [gate.dims(), up.dims(), down.dims()];
        assert_eq!(shapes, [[width, d], [width, d], [d, width]], "gate, up and down of an expert");
    }
    if tokens == 0 {
        return x;
    }
    let matrices = all.into_iter().map(|Expert { gate, up, down }| [gate, up, down].map(Tensor::into_dispatch));
    let matrices: Vec<[DispatchTensor; 3]> = matrices.collect();
    let [x, weights] = [x, weights].map(Tensor::into_dispatch);
    let given = [&x, &weights].into_iter().chain(matrices.iter().flatten());
    let call = cuda::Call { tokens, per_token, experts: count, d, width };
    match choose_with_cuda("experts", given, |asked| permits(asked, &call)) {
        Implementation::Cpu => {
            let routing = Routing::of(chosen, count);
            let [x, weights] = [&x, &weights];
            // Burn's tape wants the number of inputs as the program is compiled.
            let parts = routing.busy.chunks(GROUP).map(|busy| {
                let operator = cpu::Experts::new(busy, per_token);
                let matrices = busy.iter().flat_map(|(e, _)| &matrices[*e]);
                let inputs = [x, weights].into_iter().chain(matrices).cloned();
                match busy.len() {
                    ..=2 => run::<8>(operator, inputs),
                    3..=10 => run::<32>(operator, inputs),
                    _ => run::<{ 2 + 3 * GROUP }>(operator, inputs),
                }
            });
            parts.reduce(|a, b| a + b).expect("a token")
        }
        Implementation::Cuda => {
            // Which of them are needed is not known here: all of them, one behind the other.
            let joined = |m: usize| {
                let each = matrices.iter().map(|of| Tensor::<2>::from_dispatch(of[m].clone()));
                input(Tensor::cat(each.collect(), 0))
            };
            let inputs = [Some(x), Some(weights), joined(0), joined(1), joined(2)];
            with_gpu!(inputs, B => {
                let operator = cuda::GpuExperts::<B> { call, chosen: whole::<B, 2>(chosen) };
                Tensor::from_dispatch(run_on::<B, _, 5>(operator, inputs))
            })
        }
        Implementation::Reference => {
            let routing = Routing::of(chosen, count);
            let expert = |of: [DispatchTensor; 3]| {
                let [gate, up, down] = of.map(Tensor::from_dispatch);
                Expert { gate, up, down }
            };
            let all: Vec<Expert> = matrices.into_iter().map(expert).collect();
            reference::experts(Tensor::from_dispatch(x), Tensor::from_dispatch(weights), &routing, &all)
        }
    }
}

/// That there are kernels for a call.
fn permits(asked: &Asked, call: &cuda::Call) -> Result<(), Because> {
    asked.on_tensor_cores(cuda::SHARED)?;
    if !call.fits() {
        return Err(Because::NoKernel("experts of such a width; there are some for multiples of 8"));
    }
    if call.places() * call.d.max(call.width) >= 1 << 31 {
        return Err(TOO_LARGE);
    }
    Ok(())
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
            let chosen = (0..tokens * k).map(|i| ((choice(i / k, experts_) + i % k) % experts_) as i32);
            let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [tokens, k]);
            let of = |name: &str, e: usize, [rows, columns]: [usize; 2]| {
                x.get::<3>(name).narrow(0, e, 1).reshape([rows, columns])
            };
            let expert = |e: usize| Expert {
                gate: of("gate", e, [width, d]),
                up: of("up", e, [width, d]),
                down: of("down", e, [d, width]),
            };
            let all: Vec<Expert> = (0..experts_).map(expert).collect();
            let tokens = x.get::<2>("x");
            let chosen = Tensor::from_data(chosen, &tokens.device());
            experts(tokens, x.get("weights"), chosen, all).reshape([-1])
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
    let choice = |name: &str, shape: [usize; 2], per_token: usize| {
        Case::new("route", name, &[("shares", &shape)], move |x: &Inputs| {
            let shares = x.get::<2>("shares");
            let chosen = route(x.plain("shares"), per_token).reshape([-1]).float().cast(shares.dtype());
            constant(chosen, shares)
        })
    };
    vec![
        choice("one of one", [3, 1], 1),
        choice("two of eight", [75, 8], 2),
        choice("four of a hundred", [70, 100], 4),
        case("one token, one expert", [1, 1, 1, 5, 3], |_, _| 0),
        case("two of eight, even loads", [75, 2, 8, 16, 24], |t, experts| t % experts),
        case("one of four, wider than a tile", [70, 1, 4, 72, 80], |t, _| t % 2),
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
        let chosen = Tensor::from_data([[1]; 4], &device);
        let out = experts(ones([4, 2]), ones([4, 1]), chosen, all.to_vec());
        let gradients = out.sum().backward();
        assert!(all[0].gate.grad(&gradients).is_none() && all[1].gate.grad(&gradients).is_some());
    }

    #[test]
    fn the_largest_shares_are_chosen_of_equal_ones_the_first_and_no_number_last() {
        let shares = [[0.1, 0.4, 0.4, 0.1], [f32::NAN, 0.0, 0.0, 1.0], [f32::NEG_INFINITY, f32::NAN, 0.5, f32::NAN]];
        let chosen = route(Tensor::from_data(shares, &Device::flex()), 3);
        assert_eq!(chosen.into_data().iter::<i32>().collect::<Vec<_>>(), [1, 2, 0, 3, 1, 2, 2, 0, 1]);
    }

    #[test]
    fn no_tokens_are_worked_on_by_nobody() {
        let device = Device::flex().autodiff();
        let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &device);
        let expert = Expert { gate: ones([3, 2]), up: ones([3, 2]), down: ones([2, 3]) };
        let chosen = Tensor::<2, Int>::zeros([0, 1], &device);
        assert_eq!(experts(ones([0, 2]), ones([0, 1]), chosen, vec![expert]).dims(), [0, 2]);
    }

    #[test]
    #[should_panic(expected = "expected experts below 2, got 2")]
    fn an_expert_that_there_is_not_is_refused() {
        let device = Device::flex();
        let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &device);
        let expert = Expert { gate: ones([3, 2]), up: ones([3, 2]), down: ones([2, 3]) };
        let chosen = Tensor::from_data([[0], [2]], &device);
        experts(ones([2, 2]), ones([2, 1]), chosen, vec![expert.clone(), expert]);
    }
}
