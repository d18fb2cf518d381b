//! One update of one parameter by AdamW (Loshchilov and Hutter 2019), and the size of all gradients.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::assign_op_pattern)] // the kernels' language has neither
pub mod cuda;
mod reference;

use crate::operator::{choose, from_cpu, input, on_cpu};
use crate::trace::Implementation;
use burn::tensor::Tensor;

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
/// When shapes or dtypes do not fit together.
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
    let inputs = [input(weight), input(gradient), first.and_then(input), second.and_then(input)];
    let implementation = choose("adamw", &inputs.iter().flatten().collect::<Vec<_>>());
    let [weight, gradient, first, second] = inputs;
    let there = "a weight and its gradient are always there";
    let weight = Tensor::<D>::from_dispatch(weight.expect(there));
    let gradient = Tensor::<D>::from_dispatch(gradient.expect(there));
    let moments = first.zip(second).map(|(m, v)| [m, v].map(Tensor::from_dispatch));
    match implementation {
        Implementation::Cpu => {
            let moments = moments.map(|moments| moments.map(on_cpu));
            let (weight, moments) = cpu::adamw(on_cpu(weight), on_cpu(gradient), moments, update);
            (from_cpu(weight), moments.map(from_cpu))
        }
        _ => reference::adamw(weight, gradient, moments, update),
    }
}

/// `Σ x²` of each of `tensors`, `[tensors]`.
///
/// # Panics
/// When there are none, or their dtypes differ.
pub fn squares(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    let inputs: Vec<_> = tensors.into_iter().map(Tensor::into_dispatch).collect();
    let implementation = choose("squares", &inputs.iter().collect::<Vec<_>>());
    let tensors = inputs.into_iter().map(Tensor::<1>::from_dispatch);
    match implementation {
        Implementation::Cpu => from_cpu(cpu::squares(tensors.map(on_cpu).collect())),
        _ => reference::squares(tensors.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_reference;
    use burn::tensor::{Device, TensorData};

    fn numbers<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| ((i * 7 + seed) % 113) as f64 / 50.0 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), burn::tensor::DType::F64))
    }

    fn read<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter().collect()
    }

    /// Weight and moments after three updates.
    fn three(shape: [usize; 2], gradient: impl Fn(usize) -> Tensor<2>) -> [Vec<f64>; 3] {
        let (mut weight, mut moments) = (numbers(shape, 1), None);
        for t in 1..4 {
            let update = Update {
                betas: [0.9, 0.95],
                scale: 0.5,
                keep: 0.999,
                size: 0.01 / (1.0 - 0.9f64.powi(t)),
                spread: (1.0 - 0.95f64.powi(t)).powf(-0.5),
                epsilon: 1e-8,
            };
            let (w, m) = adamw(weight, gradient(t as usize), moments, update);
            (weight, moments) = (w, Some(m));
        }
        let [m, v] = moments.unwrap();
        [read(weight), read(m), read(v)]
    }

    #[test]
    fn the_pass_makes_the_updates_of_the_reference() {
        for shape in [[1, 1], [3, 25], [300, 200]] {
            let plain = |t| numbers(shape, t);
            let turned = |t| numbers([shape[1], shape[0]], t).transpose();
            for (found, truth) in [
                (three(shape, plain), by_reference(|| three(shape, plain))),
                (three(shape, turned), by_reference(|| three(shape, turned))),
            ] {
                let pairs = found.iter().flatten().zip(truth.iter().flatten());
                pairs.enumerate().for_each(|(i, (a, b))| assert!((a - b).abs() < 1e-12, "{shape:?} at {i}: {a}, {b}"));
            }
        }
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

    #[test]
    fn squares_are_summed_per_tensor() {
        let tensors = || vec![numbers([3], 1), numbers([70_000], 2), numbers([1], 3)];
        let truth = read(by_reference(|| squares(tensors())));
        let found = read(squares(tensors()));
        assert_eq!(found.len(), 3);
        found.iter().zip(truth).for_each(|(a, b)| assert!((a - b).abs() < 1e-9 * b, "{a}, {b}"));
    }
}
