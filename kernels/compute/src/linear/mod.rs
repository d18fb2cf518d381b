//! A matrix applied to every token: `y = x Wᵀ + b`; or several matrices, one beside the other.

mod cpu;
mod reference;

use crate::operator::{Fast, Second, choose, input, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn_dispatch::DispatchTensor;
use burn_dispatch::backends::Flex;

/// Shapes: `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let ([out, expected], given) = (weight.dims(), x.dims());
    assert_eq!(given[D - 1], expected, "expected [.., {expected}], got {given:?}");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [out], "a bias per row of the weight {:?}", weight.dims());
    }
    match fast([input(x), input(weight), bias.and_then(input)]) {
        Fast::Ran(y) => Tensor::from_dispatch(y),
        Fast::Reference([x, weight, bias]) => {
            let there = "tokens and a weight are always there";
            let (x, weight) = (x.expect(there), weight.expect(there));
            let bias = bias.map(Tensor::from_dispatch);
            reference::linear::<D>(Tensor::from_dispatch(x), Tensor::from_dispatch(weight), bias)
        }
    }
}

fn fast(inputs: [Option<DispatchTensor>; 3]) -> Fast<DispatchTensor, 3> {
    match choose("linear", inputs.iter().flatten()) {
        Implementation::Cpu => Fast::Ran(run_on_cpu(cpu::Linear, inputs)),
        _ => Fast::Reference(inputs),
    }
}

/// `x W_iᵀ` of every one of `weights`. On the CPU the gradient of the tokens is summed as it is formed, and a
/// few tokens share out the rows of all matrices at once.
///
/// Shapes: `x [.., in]`, `weights [out_i, in]` → `[.., out_i]`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn linears<const D: usize, const N: usize>(x: Tensor<D>, weights: [Tensor<2>; N]) -> [Tensor<D>; N] {
    const { assert!(N > 0 && N <= cpu::MOST, "from one matrix to eight") };
    let given = x.dims();
    for weight in &weights {
        let [_, expected] = weight.dims();
        assert_eq!(given[D - 1], expected, "expected [.., {expected}], got {given:?}");
    }
    let mut inputs = [const { None }; 1 + cpu::MOST];
    inputs[0] = input(x);
    inputs[1..].iter_mut().zip(weights).for_each(|(to, weight)| *to = input(weight));
    match fast_several(N, inputs) {
        Fast::Ran(outputs) => {
            let mut outputs = outputs.into_iter();
            std::array::from_fn(|_| Tensor::from_dispatch(outputs.next().expect("an output for every weight")))
        }
        Fast::Reference(inputs) => {
            let mut inputs = inputs.into_iter().flatten();
            let x = Tensor::<D>::from_dispatch(inputs.next().expect("tokens are always there"));
            let mut next = || Tensor::from_dispatch(inputs.next().expect("every weight is there"));
            std::array::from_fn(|_| reference::linear(x.clone(), next(), None))
        }
    }
}

fn fast_several(
    count: usize,
    inputs: [Option<DispatchTensor>; 1 + cpu::MOST],
) -> Fast<Vec<DispatchTensor>, { 1 + cpu::MOST }> {
    match choose("linear", inputs.iter().flatten()) {
        Implementation::Cpu => {
            let outputs: Vec<Second<Flex>> = (0..count).map(|_| Second::default()).collect();
            let nothing = run_on_cpu(cpu::Several { outputs: outputs.clone() }, inputs);
            Fast::Ran(outputs.iter().map(|output| output.beside(&nothing)).collect())
        }
        _ => Fast::Reference(inputs),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(name: &str, x: [usize; 3], out: usize, run: impl Fn(&Inputs) -> Tensor<3> + 'static) -> Case {
        let inputs: [(_, &[usize]); 3] = [("x", &x), ("weight", &[out, x[2]]), ("bias", &[out])];
        Case::new("linear", name, &inputs, move |x| run(x).reshape([-1]))
    }
    let biased = |x: &Inputs, tokens: Tensor<3>| linear(tokens, x.get("weight"), Some(x.get("bias")));
    fn several(
        name: &'static str,
        x: [usize; 3],
        [a, b, c]: [usize; 3],
        seen: fn([Tensor<1>; 3]) -> Vec<Tensor<1>>,
    ) -> Case {
        let inputs: [(_, &[usize]); 4] = [("x", &x), ("a", &[a, x[2]]), ("b", &[b, x[2]]), ("c", &[c, x[2]])];
        Case::new("linear", name, &inputs, move |x| {
            let all = linears(x.get::<3>("x"), ["a", "b", "c"].map(|name| x.get(name)));
            // Every input is seen, if not through the product.
            let [a, b, c] = ["a", "b", "c"].map(|name| x.get::<2>(name).sum());
            Tensor::cat(seen(all.map(|y| y.reshape([-1]))), 0) + (a + b + c) * 0.0
        })
    }
    vec![
        several("three matrices on a few tokens", [1, 3, 17], [5, 1, 30], |all| all.into()),
        several("three matrices on 75 tokens", [3, 25, 64], [100, 4, 64], |all| all.into()),
        several("three matrices, one unseen", [1, 6, 8], [5, 3, 2], |[a, _, c]| vec![a, c]),
        case("one token", [1, 1, 7], 5, move |x| biased(x, x.get("x"))),
        case("75 tokens, 64 to 100", [3, 25, 64], 100, move |x| biased(x, x.get("x"))),
        case("on all threads", [2, 128, 96], 128, move |x| biased(x, x.get("x"))),
        case("without a bias", [2, 10, 16], 3, |x| {
            linear(x.get::<3>("x"), x.get("weight"), None) + x.get::<1>("bias").unsqueeze()
        }),
        case("tokens that do not lie in order", [4, 6, 8], 5, move |x| biased(x, x.get::<3>("x").swap_dims(0, 1))),
        case("a part of wider rows", [4, 6, 8], 5, |x| {
            linear(x.get::<3>("x").narrow(2, 1, 6), x.get::<2>("weight").narrow(1, 2, 6), Some(x.get("bias")))
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_products_agree_with_the_reference_in_the_output_and_every_gradient() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    #[should_panic(expected = "expected [.., 4], got [2, 3, 5]")]
    fn tokens_of_another_width_are_refused() {
        let device = burn::tensor::Device::flex();
        linear(Tensor::<3>::zeros([2, 3, 5], &device), Tensor::zeros([7, 4], &device), None);
    }
}
