//! Root-mean-square normalisation (Zhang and Sennrich 2019), with the gate that linear mixers put
//! around it, and its relative of unit length.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{Fast, Second, choose_with_cuda, input, run as run_on, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn_backend::TensorMetadata;
use burn_dispatch::DispatchTensor;
use cpu::{AddNorm, Norm};

/// `NormOptions::from(eps)` multiplies by the weight as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    pub eps: f64,
    /// Multiplies by `1 + w` in the place of `w`.
    pub zero_centred: bool,
}

impl From<f64> for NormOptions {
    fn from(eps: f64) -> Self {
        Self { eps, zero_centred: false }
    }
}

/// What becomes of the logits of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    Sigmoid,
    Silu,
}

/// Where a gate stands: it multiplies what is normed, or the norm of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatePlace {
    Before,
    After,
}

/// What stands beside the input of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beside {
    /// The logits of a gate.
    Gate(Activation, GatePlace),
    /// What is added to the input first.
    Residual,
}

impl Beside {
    const fn gate(self) -> Option<(Activation, GatePlace)> {
        match self {
            Self::Gate(activation, place) => Some((activation, place)),
            Self::Residual => None,
        }
    }
}

/// `y = x / √(mean(x²) + ε) ∘ w`, over the last axis.
///
/// Shapes: `x […, channels]` of up to four axes, `weight [channels]`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, options: impl Into<NormOptions>) -> Tensor<D> {
    run("rms_norm", rms(options.into(), None), x, Some(weight), None)
}

/// `[rms_norm(s), s]` of the sum `s = x + more`: what the next layer reads, and the residual stream.
///
/// Shapes: `x, more […, channels]` of up to four axes, `weight [channels]`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    more: Tensor<D>,
    weight: Tensor<1>,
    options: impl Into<NormOptions>,
) -> [Tensor<D>; 2] {
    let norm = rms(options.into(), Some(Beside::Residual));
    match fast_sum(norm, checked("add_rms_norm", x, Some(weight), Some(more))) {
        Fast::Ran(both) => both.map(Tensor::from_dispatch),
        Fast::Reference([x, weight, more]) => {
            let there = "a sum and the weight of its norm are always there";
            let [x, more] = [x, more].map(|x| Tensor::<D>::from_dispatch(x.expect(there)));
            let sum = x + more;
            [reference::norm(&norm, sum.clone(), weight.map(Tensor::from_dispatch), None), sum]
        }
    }
}

/// `rms_norm(x) ∘ φ(z)`, or `rms_norm(x ∘ φ(z))` with the gate before.
///
/// Shapes: `x, z […, channels]` of up to four axes, `weight [channels]`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn gated_rms_norm<const D: usize>(
    x: Tensor<D>,
    z: Tensor<D>,
    weight: Tensor<1>,
    activation: Activation,
    place: GatePlace,
    options: impl Into<NormOptions>,
) -> Tensor<D> {
    let norm = rms(options.into(), Some(Beside::Gate(activation, place)));
    run("gated_rms_norm", norm, x, Some(weight), Some(z))
}

/// `y = scale · x / √(Σ x² + ε)`, over the last axis: queries and keys of the delta rule.
///
/// Shapes: `x […, channels]` of up to four axes.
pub fn l2_norm<const D: usize>(x: Tensor<D>, eps: f64, scale: f64) -> Tensor<D> {
    run("l2_norm", Norm { mean: false, offset: 0.0, beside: None, eps, scale }, x, None, None)
}

fn rms(NormOptions { eps, zero_centred }: NormOptions, beside: Option<Beside>) -> Norm {
    Norm { mean: true, offset: if zero_centred { 1.0 } else { 0.0 }, beside, eps, scale: 1.0 }
}

/// The inputs.
fn checked<const D: usize>(
    name: &'static str,
    x: Tensor<D>,
    weight: Option<Tensor<1>>,
    z: Option<Tensor<D>>,
) -> [Option<DispatchTensor>; 3] {
    let shape = x.dims();
    let channels = shape[D - 1];
    if let Some(weight) = &weight {
        assert_eq!(weight.dims(), [channels], "the weight of an input {shape:?}");
    }
    if let Some(z) = &z {
        assert_eq!(z.dims(), shape, "{name}: what stands beside an input has its shape");
    }
    [input(x), weight.and_then(input), z.and_then(input)]
}

fn chosen(name: &'static str, norm: &Norm, inputs: &[Option<DispatchTensor>; 3]) -> Implementation {
    let channels = *inputs[0].as_ref().expect("an input").shape().last().expect("an axis");
    choose_with_cuda(name, inputs.iter().flatten(), |asked| cuda::permits(asked, norm, channels))
}

fn fast(name: &'static str, norm: Norm, inputs: [Option<DispatchTensor>; 3]) -> Fast<DispatchTensor, 3> {
    match chosen(name, &norm, &inputs) {
        Implementation::Cpu => Fast::Ran(run_on_cpu(norm, inputs)),
        Implementation::Cuda => with_gpu!(inputs, B => Fast::Ran(run_on::<B, _, 3>(cuda::GpuNorm(norm), inputs))),
        Implementation::Reference => Fast::Reference(inputs),
    }
}

fn fast_sum(norm: Norm, inputs: [Option<DispatchTensor>; 3]) -> Fast<[DispatchTensor; 2], 3> {
    match chosen("add_rms_norm", &norm, &inputs) {
        Implementation::Cpu => {
            let sum = Second::default();
            let normed = run_on_cpu(AddNorm { norm, sum: sum.clone() }, inputs);
            let sum = sum.beside(&normed);
            Fast::Ran([normed, sum])
        }
        Implementation::Cuda => with_gpu!(inputs, B => {
            let sum = Second::default();
            let normed = run_on::<B, _, 3>(cuda::GpuAddNorm { norm: cuda::GpuNorm(norm), sum: sum.clone() }, inputs);
            let sum = sum.beside(&normed);
            Fast::Ran([normed, sum])
        }),
        Implementation::Reference => Fast::Reference(inputs),
    }
}

fn run<const D: usize>(
    name: &'static str,
    norm: Norm,
    x: Tensor<D>,
    weight: Option<Tensor<1>>,
    z: Option<Tensor<D>>,
) -> Tensor<D> {
    match fast(name, norm, checked(name, x, weight, z)) {
        Fast::Ran(y) => Tensor::from_dispatch(y),
        Fast::Reference([x, weight, z]) => {
            let [x, z] = [x, z].map(|x| x.map(Tensor::from_dispatch));
            reference::norm(&norm, x.expect("an input"), weight.map(Tensor::from_dispatch), z)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    fn case<const D: usize>(
        operator: &'static str,
        name: String,
        shape: [usize; D],
        run: impl Fn(&Inputs) -> Tensor<D> + 'static,
    ) -> Case {
        let weight = [shape[D - 1]];
        let mut inputs: Vec<(&'static str, &[usize])> = vec![("x", &shape)];
        if operator != "l2_norm" {
            inputs.push(("weight", &weight));
        }
        if operator == "gated_rms_norm" {
            inputs.push(("z", &shape));
        }
        Case::new(operator, name, &inputs, move |x| run(x).reshape([-1]))
    }
    let plain = |[batch, heads, time, d]: [usize; 4]| {
        case("rms_norm", format!("{batch} × {heads} heads × {time} × {d}"), [batch, heads, time, d], |x| {
            rms_norm(x.get::<4>("x"), x.get("weight"), 1e-5)
        })
    };
    let gated = |activation, place| {
        case("gated_rms_norm", format!("{activation:?} {place:?}"), [2, 75, 3, 60], move |x| {
            let heads = |name| x.get::<4>(name).swap_dims(1, 2);
            gated_rms_norm(heads("x"), heads("z"), x.get("weight"), activation, place, 1e-5)
        })
    };
    let added = |name: &str, shape: [usize; 3], zero_centred: bool, both: bool| {
        let inputs: [(_, &[usize]); 3] = [("x", &shape), ("more", &shape), ("weight", &shape[2..])];
        Case::new("add_rms_norm", name, &inputs, move |x| {
            let options = NormOptions { eps: 1e-5, zero_centred };
            let [normed, sum] = add_rms_norm(x.get::<3>("x"), x.get("more"), x.get("weight"), options);
            let normed = normed.reshape([-1]);
            if both { Tensor::cat(vec![normed, sum.reshape([-1])], 0) } else { normed }
        })
    };
    use Activation::{Sigmoid, Silu};
    use GatePlace::{After, Before};
    vec![
        added("one token", [1, 1, 16], false, true),
        added("2 × 75 tokens, zero-centred", [2, 75, 100], true, true),
        added("1100 wide tokens", [1, 1100, 516], false, true),
        added("500 tokens, of which only the norm is used", [1, 500, 256], false, false),
        plain([1, 1, 1, 16]),
        plain([2, 2, 63, 60]),
        plain([1, 3, 75, 100]),
        plain([2, 2, 500, 64]),
        plain([1, 1, 1100, 516]),
        plain([1, 1, 3, 5000]),
        case("rms_norm", "2000 tokens of 256 channels, zero-centred".into(), [2, 1000, 256], |x| {
            rms_norm(x.get::<3>("x"), x.get("weight"), NormOptions { zero_centred: true, eps: 1e-6 })
        }),
        case("rms_norm", "heads side by side, every second token".into(), [2, 150, 3, 128], |x| {
            let x_heads = x.get::<4>("x").slice_dim(1, burn::tensor::s![..;2]).swap_dims(1, 2);
            rms_norm(x_heads, x.get("weight"), 1e-5)
        }),
        case("l2_norm", "heads side by side".into(), [2, 75, 3, 64], |x| {
            l2_norm(x.get::<4>("x").swap_dims(1, 2), 1e-6, 0.125)
        }),
        gated(Silu, After),
        gated(Sigmoid, After),
        gated(Silu, Before),
        gated(Sigmoid, Before),
    ]
}
