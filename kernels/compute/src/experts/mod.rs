//! Many small networks, of which every token is worked on by a few: `y_t = Σ_s w_ts · SwiGLU_{e(t, s)}(x_t)`.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::cuda::{Asked, with_gpu};
use crate::operator::{TOO_LARGE, choose_with_cuda, input, plain, run, run_on_cpu, whole, whole_off_tape};
use crate::selftest::{Case, Inputs, constant};
use crate::trace::{Because, Implementation};
use burn::tensor::{Int, Tensor, TensorData};
use std::ops::Range;

/// Of all experts, one behind the other: expert `e` is `down_e( silu(gate_e x) ⊙ up_e x )`.
#[derive(Clone, Debug)]
pub struct ExpertMatrices {
    /// `[experts, width, d]`.
    pub gate: Tensor<3>,
    /// `[experts, width, d]`.
    pub up: Tensor<3>,
    /// `[experts, d, width]`.
    pub down: Tensor<3>,
}

/// Who works on what, on the host: token `t` in its place `s` is worked on by expert `chosen[t · per_token + s]`.
#[derive(Clone, Debug)]
struct Routing {
    per_token: usize,
    /// The places `t · per_token + s` in the order of their experts, those of one rising.
    places: Vec<usize>,
    /// Where the places of every expert begin in `places`, and behind the last where they end.
    first: Vec<usize>,
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
        let mut first = vec![0];
        for mine in &places {
            first.push(first[first.len() - 1] + mine.len());
        }
        Self { per_token, places: places.concat(), first }
    }

    /// The places of expert `e`, in `places`.
    fn run(&self, e: usize) -> Range<usize> {
        self.first[e]..self.first[e + 1]
    }

    /// The experts that work on some token, each with its places.
    fn busy(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..self.first.len() - 1).map(move |e| (e, self.run(e))).filter(|(_, run)| !run.is_empty())
    }

    /// Where every place stands in `places`.
    fn back(&self) -> Vec<usize> {
        let mut back = vec![0; self.places.len()];
        self.places.iter().enumerate().for_each(|(row, &place)| back[place] = row);
        back
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
/// Shapes: `x [tokens, d]`, `weights` and `chosen [tokens, per_token]` → `[tokens, d]`. Of an expert that sees no token
/// the gradient is zeros.
///
/// # Panics
/// When there is no expert, when shapes or dtypes do not fit together, and when `chosen` names an expert that there is
/// not. CUDA kernels do not tell the last, they take the nearest: it has to come from [`route`].
pub fn experts(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, matrices: ExpertMatrices) -> Tensor<2> {
    let ([tokens, d], [_, per_token]) = (x.dims(), chosen.dims());
    assert!(
        per_token > 0 && weights.dims() == [tokens, per_token] && chosen.dims() == [tokens, per_token],
        "{tokens} tokens, weights {:?} and chosen experts {:?} do not fit together",
        weights.dims(),
        chosen.dims()
    );
    let ExpertMatrices { gate, up, down } = matrices;
    let [count, width, _] = gate.dims();
    assert!(count > 0, "there are no experts");
    let (wide, shapes) = ([count, width, d], [gate.dims(), up.dims(), down.dims()]);
    assert_eq!(
        shapes,
        [wide, wide, [count, d, width]],
        "gates, ups and downs of {count} experts on {d} numbers a token"
    );
    if tokens == 0 {
        return x;
    }
    let inputs = [input(x), input(weights), input(gate), input(up), input(down)];
    let call = cuda::Call { tokens, per_token, experts: count, d, width };
    match choose_with_cuda("experts", inputs.iter().flatten(), |asked| permits(asked, &call)) {
        Implementation::Cpu => {
            let operator = cpu::Experts(Routing::of(chosen, count));
            Tensor::from_dispatch(run_on_cpu::<_, 5>(operator, inputs))
        }
        Implementation::Cuda => {
            // A place that no expert has would leave the kernels with memory that nobody wrote, which they follow.
            let chosen = chosen.clamp(0, count as i64 - 1);
            with_gpu!(inputs, B => {
                let operator = cuda::GpuExperts::<B> { call, chosen: whole::<B, 2>(chosen) };
                Tensor::from_dispatch(run::<B, _, 5>(operator, inputs))
            })
        }
        Implementation::Reference => {
            let routing = Routing::of(chosen, count);
            let [x, weights, gate, up, down] = inputs.map(|x| x.expect("tokens, weights and matrices"));
            let [x, weights] = [x, weights].map(Tensor::from_dispatch);
            let [gate, up, down] = [gate, up, down].map(Tensor::from_dispatch);
            reference::experts(x, weights, &routing, &ExpertMatrices { gate, up, down })
        }
    }
}

/// That there are kernels for a call.
fn permits(asked: &Asked, call: &cuda::Call) -> Result<(), Because> {
    asked.on_tensor_cores(cuda::SHARED)?;
    if !call.fits() {
        return Err(Because::NoKernel("experts of such a width; there are some for multiples of 8"));
    }
    // The gradient of the matrices has an axis of its grid for experts.
    if call.places() * call.d.max(call.width) >= 1 << 31 || call.experts >= 1 << 16 {
        return Err(TOO_LARGE);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(name: &str, [tokens, k, experts_, d, width]: [usize; 5], choice: fn(usize, usize) -> usize) -> Case {
        let run = move |x: &Inputs| {
            let chosen = (0..tokens * k).map(|i| ((choice(i / k, experts_) + i % k) % experts_) as i32);
            let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [tokens, k]);
            let matrices = ExpertMatrices { gate: x.get("gate"), up: x.get("up"), down: x.get("down") };
            let tokens = x.get::<2>("x");
            let chosen = Tensor::from_data(chosen, &tokens.device());
            experts(tokens, x.get("weights"), chosen, matrices).reshape([-1])
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
    use crate::trace::by_reference;
    use burn::tensor::Device;

    /// `count` experts of width 3 on two numbers a token, all ones.
    fn ones(count: usize, device: &Device) -> ExpertMatrices {
        let of = |shape: [usize; 3]| Tensor::<3>::ones(shape, device);
        ExpertMatrices { gate: of([count, 3, 2]), up: of([count, 3, 2]), down: of([count, 2, 3]) }
    }

    #[test]
    fn the_grouped_products_agree_with_the_reference_in_the_output_and_every_gradient() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    fn the_gradient_of_an_expert_that_sees_no_token_is_zero() {
        let device = Device::flex().autodiff();
        let gradients = || {
            let ExpertMatrices { gate, up, down } = ones(2, &device);
            let leaves = [gate, up, down].map(|stack| stack.require_grad());
            let [gate, up, down] = leaves.clone();
            let (x, weights) = (Tensor::<2>::ones([4, 2], &device), Tensor::<2>::ones([4, 1], &device));
            let chosen = Tensor::from_data([[1]; 4], &device);
            let out = experts(x, weights, chosen, ExpertMatrices { gate, up, down });
            let gradients = out.sum().backward();
            leaves.map(|leaf| {
                let gradient = leaf.grad(&gradients).expect("a gradient of all experts");
                gradient.into_data().iter::<f32>().collect::<Vec<_>>()
            })
        };
        for gradient in [gradients(), by_reference(gradients)].concat() {
            let (first, second) = gradient.split_at(6);
            assert!(first.iter().all(|g| *g == 0.0) && second.iter().all(|g| *g > 0.0), "{gradient:?}");
        }
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
        let [x, weights] = [[0, 2], [0, 1]].map(|shape: [usize; 2]| Tensor::<2>::ones(shape, &device));
        let chosen = Tensor::<2, Int>::zeros([0, 1], &device);
        assert_eq!(experts(x, weights, chosen, ones(1, &device)).dims(), [0, 2]);
    }

    #[test]
    #[should_panic(expected = "expected experts below 2, got 2")]
    fn an_expert_that_there_is_not_is_refused() {
        let device = Device::flex();
        let [x, weights] = [[2, 2], [2, 1]].map(|shape: [usize; 2]| Tensor::<2>::ones(shape, &device));
        let chosen = Tensor::from_data([[0], [2]], &device);
        experts(x, weights, chosen, ones(2, &device));
    }

    #[test]
    #[should_panic(expected = "there are no experts")]
    fn no_experts_are_refused() {
        let device = Device::flex();
        let [x, weights] = [[1, 2], [1, 1]].map(|shape: [usize; 2]| Tensor::<2>::ones(shape, &device));
        experts(x, weights, Tensor::from_data([[0]], &device), ones(0, &device));
    }

    #[test]
    #[should_panic(expected = "gates, ups and downs of 2 experts on 2 numbers a token")]
    fn matrices_of_another_shape_are_refused() {
        let device = Device::flex();
        let [x, weights] = [[1, 2], [1, 1]].map(|shape: [usize; 2]| Tensor::<2>::ones(shape, &device));
        let ExpertMatrices { gate, up, .. } = ones(2, &device);
        let matrices = ExpertMatrices { down: up.clone(), gate, up };
        experts(x, weights, Tensor::from_data([[0]], &device), matrices);
    }
}
