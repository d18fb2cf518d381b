//! A matrix applied to every token: `y = x Wᵀ + b`.

mod cpu;
mod reference;

use crate::operator::{choose, input, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;

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
    let inputs = [input(x), input(weight), bias.and_then(input)];
    match choose("linear", &inputs.iter().flatten().collect::<Vec<_>>()) {
        Implementation::Cpu => Tensor::from_dispatch(run_on_cpu(cpu::Linear, inputs)),
        _ => {
            let [x, weight, bias] = inputs;
            let there = "tokens and a weight are always there";
            let (x, weight) = (x.expect(there), weight.expect(there));
            let bias = bias.map(Tensor::from_dispatch);
            reference::linear::<D>(Tensor::from_dispatch(x), Tensor::from_dispatch(weight), bias)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(name: &str, x: [usize; 3], out: usize, run: impl Fn(&Inputs) -> Tensor<3> + 'static) -> Case {
        let inputs: [(_, &[usize]); 3] = [("x", &x), ("weight", &[out, x[2]]), ("bias", &[out])];
        Case::new("linear", name, &inputs, move |x| run(x).reshape([-1]))
    }
    let biased = |x: &Inputs, tokens: Tensor<3>| linear(tokens, x.get("weight"), Some(x.get("bias")));
    vec![
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
