//! One update of one parameter by AdamW (Loshchilov and Hutter 2019), and the size of all gradients.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::cuda::with_gpu;
use crate::operator::{Dispatched, Fast, choose_with_cuda, input, off_tape, off_the_tape, plain};
use crate::selftest::{Case, Inputs, constant};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn_backend::tensor::FloatTensor as Plain;
use burn_dispatch::DispatchTensor;
use burn_dispatch::backends::Flex;

/// ```text
/// g ← scale · gradient
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// w ← keep · w − size · m / (spread · √v + ε)
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Update {
    pub betas: [f64; 2],
    /// The clipping.
    pub scale: f64,
    /// `1 − lr · decay`.
    pub keep: f64,
    /// `lr / (1 − β₁ᵗ)`.
    pub size: f64,
    /// `1 / √(1 − β₂ᵗ)`.
    pub spread: f64,
    pub epsilon: f64,
}

/// The weight and its moments after the update; they are zero before the first. Everything is read and
/// written once, in place where nobody else holds it.
///
/// # Panics
/// When shapes or dtypes do not fit together, and for tensors on a tape: an update has no gradient.
pub fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    moments: Option<[Tensor<1>; 2]>,
    update: Update,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let shape = weight.dims();
    assert_eq!(gradient.dims(), shape, "the gradient of a weight {shape:?}");
    let count = weight.shape().num_elements();
    if let Some(moments) = &moments {
        assert!(moments.iter().all(|m| m.dims() == [count]), "moments of a weight {shape:?}: {moments:?}");
    }
    let [first, second] = moments.map_or([None, None], |moments| moments.map(Some));
    match fast([input(weight), input(gradient), first.and_then(input), second.and_then(input)], update) {
        Fast::Ran((weight, moments)) => (Tensor::from_dispatch(weight), moments.map(Tensor::from_dispatch)),
        Fast::Reference([weight, gradient, first, second]) => {
            let [weight, gradient] = [weight, gradient].map(|x| Tensor::from_dispatch(x.expect(THERE)));
            let moments = first.zip(second).map(|moments| <[_; 2]>::from(moments).map(Tensor::from_dispatch));
            reference::adamw(weight, gradient, moments, update)
        }
    }
}

const THERE: &str = "a weight and its gradient are always there";

/// A weight and its moments.
type Updated<T> = (T, [T; 2]);

fn fast(inputs: [Option<DispatchTensor>; 4], update: Update) -> Fast<Updated<DispatchTensor>, 4> {
    off_the_tape("adamw", inputs.iter().flatten());
    match choose_with_cuda("adamw", inputs.iter().flatten(), |asked| asked.of_f32()) {
        Implementation::Cpu => {
            Fast::Ran(opened::<Flex>(inputs, |weight, gradient, moments| cpu::adamw(weight, gradient, moments, update)))
        }
        Implementation::Cuda => with_gpu!(inputs, B => Fast::Ran(opened::<B>(inputs, |weight, gradient, moments| {
            cuda::adamw::<B>(weight, gradient, moments, &update)
        }))),
        Implementation::Reference => Fast::Reference(inputs),
    }
}

/// Runs `update` on what lies in the inputs.
fn opened<B: Dispatched>(
    inputs: [Option<DispatchTensor>; 4],
    update: impl FnOnce(Plain<B>, Plain<B>, Option<[Plain<B>; 2]>) -> Updated<Plain<B>>,
) -> Updated<DispatchTensor> {
    let [weight, gradient, first, second] = inputs.map(|x| x.map(plain::<B>));
    let moments = first.zip(second).map(<[_; 2]>::from);
    let (weight, moments) = update(weight.expect(THERE), gradient.expect(THERE), moments);
    (off_tape::<B>(weight), moments.map(off_tape::<B>))
}

/// `Σ x²` of each of `tensors`, `[tensors]`.
///
/// # Panics
/// When there are none, their dtypes differ, or they are on a tape.
pub fn squares(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    let inputs: Vec<_> = tensors.into_iter().map(input).collect();
    off_the_tape("squares", inputs.iter().flatten());
    match choose_with_cuda("squares", inputs.iter().flatten(), |asked| asked.of_f32()) {
        Implementation::Cpu => {
            let tensors = inputs.into_iter().flatten().map(plain::<Flex>).collect();
            Tensor::from_dispatch(off_tape::<Flex>(cpu::squares(tensors)))
        }
        Implementation::Cuda => with_gpu!(inputs, B => {
            let tensors = inputs.into_iter().flatten().map(plain::<B>).collect();
            Tensor::from_dispatch(off_tape::<B>(cuda::squares::<B>(tensors)))
        }),
        Implementation::Reference => {
            reference::squares(inputs.into_iter().flatten().map(Tensor::from_dispatch).collect())
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    /// Three updates by gradients that shrink.
    fn case(name: &str, shape: [usize; 2], gradient: fn(Tensor<2>) -> Tensor<2>) -> Case {
        updates(name, shape, gradient, false)
    }
    /// The same, of numbers that somebody may hold beside.
    fn updates(name: &str, shape: [usize; 2], gradient: fn(Tensor<2>) -> Tensor<2>, held: bool) -> Case {
        let [rows, columns] = shape;
        let run = move |x: &Inputs| {
            let (mut weight, mut moments) = (x.plain::<2>("weight"), None);
            for t in 1..4 {
                let update = Update {
                    betas: [0.9, 0.95],
                    scale: 0.5 / f64::from(t),
                    keep: 0.999,
                    size: 0.01 / (1.0 - 0.9f64.powi(t)),
                    spread: (1.0 - 0.95f64.powi(t)).powf(-0.5),
                    epsilon: 1e-8,
                };
                let _held = held.then(|| (weight.clone(), moments.clone()));
                let (after, both) = adamw(weight, gradient(x.plain("gradient")), moments, update);
                (weight, moments) = (after, Some(both));
            }
            let [first, second] = moments.expect("three updates");
            constant(Tensor::cat(vec![weight.reshape([-1]), first, second], 0), x.get::<2>("weight"))
        };
        Case::new("adamw", name, &[("weight", &shape), ("gradient", &[rows * columns, 1])], run)
    }
    let squares_of = |name: &str, counts: [usize; 2]| {
        Case::new("squares", name, &[("a", &counts[..1]), ("b", &counts[1..])], |x: &Inputs| {
            constant(squares(vec![x.plain("a"), x.plain("b")]), x.get::<1>("a"))
        })
    };
    vec![
        case("one number", [1, 1], |g| g.reshape([1, 1])),
        case("75 numbers", [3, 25], |g| g.reshape([3, 25])),
        case("on several threads", [300, 200], |g| g.reshape([300, 200])),
        updates("numbers that somebody holds", [5, 96], |g| g.reshape([5, 96]), true),
        case("a gradient that lies by columns", [60, 100], |g| g.reshape([100, 60]).transpose()),
        squares_of("three numbers and one", [3, 1]),
        squares_of("on several threads", [70_000, 2_000]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn numbers<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| ((i * 7 + seed) % 113) as f64 / 50.0 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), burn::tensor::DType::F64))
    }

    #[test]
    #[should_panic(expected = "adamw has no gradient: it takes tensors off the tape (`Tensor::inner`)")]
    fn weights_on_a_tape_are_refused() {
        let weight = Tensor::<2>::ones([2, 3], &Device::flex().autodiff());
        let update = Update { betas: [0.9, 0.99], scale: 1.0, keep: 1.0, size: 0.1, spread: 1.0, epsilon: 1e-8 };
        adamw(weight.clone(), weight, None, update);
    }

    fn read<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter().collect()
    }

    #[test]
    fn the_passes_agree_with_the_reference() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    fn what_somebody_else_holds_stays_as_it_is() {
        let weight = numbers([5, 5], 3);
        let held = weight.clone();
        let update = Update { betas: [0.9, 0.95], scale: 1.0, keep: 0.9, size: 1.0, spread: 1.0, epsilon: 1e-8 };
        let (first, moments) = adamw(weight, numbers([5, 5], 4), None, update);
        let kept = moments.clone();
        let before = kept.clone().map(read);
        let (second, _) = adamw(first.clone(), numbers([5, 5], 4), Some(moments), update);
        assert_eq!(read(held), read(numbers([5, 5], 3)));
        assert_eq!(kept.map(read), before);
        assert_ne!(read(first), read(second));
    }
}
