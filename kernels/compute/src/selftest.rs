//! Every fast operator against its reference: outputs and every gradient by name.
//!
//! A [`Case`] is one call of an operator. It runs twice: in plain tensor operations in f64 on the CPU,
//! and as it would run anywhere else, on the device and in the precision asked for.

use crate::trace::{Ran, by_reference, trace};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16};

/// One call of an operator on numbers that are always the same.
pub struct Case {
    pub operator: &'static str,
    /// What is special about it: sizes, options.
    pub name: String,
    inputs: Vec<(&'static str, Vec<usize>)>,
    #[allow(clippy::type_complexity)]
    run: Box<dyn Fn(&Inputs) -> Tensor<1>>,
}

/// The inputs of a case, by name.
pub struct Inputs(Vec<(&'static str, Vec<usize>, Tensor<1>)>);

impl Inputs {
    /// How many numbers all of them have.
    pub fn elements(&self) -> usize {
        self.0.iter().map(|(.., values)| values.dims()[0]).sum()
    }

    /// # Panics
    /// When the case has no such input, or one of another rank.
    pub fn get<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (_, shape, values) =
            self.0.iter().find(|(have, ..)| *have == name).unwrap_or_else(|| panic!("the case has no input `{name}`"));
        values.clone().reshape(<[usize; D]>::try_from(shape.as_slice()).expect("the rank of the input"))
    }

    /// The same for an operator without a gradient, see [`constant`].
    pub fn plain<const D: usize>(&self, name: &str) -> Tensor<D> {
        let values = self.get(name);
        if values.device().is_autodiff() { values.inner() } else { values }
    }
}

/// The output of an operator without a gradient, on the tape where `input` is.
pub fn constant<const D: usize>(output: Tensor<1>, input: Tensor<D>) -> Tensor<1> {
    if input.device().is_autodiff() { Tensor::from_inner(output) + input.sum() * 0.0 } else { output }
}

/// The largest difference from the reference, as a share of the largest number of the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `output`, also without a tape, or the input whose gradient it is.
    pub of: &'static str,
    /// NaN where a number is not finite.
    pub relative: f64,
    /// Where, in row-major order.
    pub at: usize,
}

/// The largest difference that is rounding, by precision and device: products of f32 on tensor cores are TF32.
pub fn tolerance(dtype: DType, device: &Device) -> f64 {
    match dtype {
        DType::F64 => 1e-10,
        DType::BF16 => 3e-2,
        _ if *device == Device::flex() => 1e-4,
        _ => 1e-2,
    }
}

/// What a [`Case`] found.
#[derive(Clone, Debug)]
pub struct Found {
    pub differences: Vec<Difference>,
    /// What ran in the place of the reference.
    pub ran: Vec<Ran>,
}

impl Found {
    pub fn worst(&self) -> &Difference {
        let size = |d: &Difference| if d.relative.is_nan() { f64::INFINITY } else { d.relative };
        self.differences.iter().max_by(|a, b| size(a).total_cmp(&size(b))).expect("there is an output")
    }
}

impl Case {
    /// `run` gives the output, flat (several outputs one after the other).
    pub fn new(
        operator: &'static str,
        name: impl Into<String>,
        inputs: &[(&'static str, &[usize])],
        run: impl Fn(&Inputs) -> Tensor<1> + 'static,
    ) -> Self {
        let inputs = inputs.iter().map(|(name, shape)| (*name, shape.to_vec())).collect();
        Self { operator, name: name.into(), inputs, run: Box::new(run) }
    }

    /// Runs both, on the same numbers, and compares.
    pub fn check(&self, device: &Device, dtype: DType) -> Found {
        let truth = self.truth(dtype);
        let mut found = self.compare(&truth, self.results(device, dtype, dtype, |_| true));
        // Where no gradient is asked for another form may run.
        let (output, more) = trace(|| read(self.run(&self.inputs(device, dtype))));
        found.differences.push(difference("output without a tape", &truth[0], &output));
        found.ran.extend(more);
        found
    }

    /// What the reference gives in f64, of numbers that `exact` holds.
    fn truth(&self, exact: DType) -> Vec<Vec<f64>> {
        by_reference(|| self.results(&Device::flex(), DType::F64, exact, |_| true)).0
    }

    fn compare(&self, truth: &[Vec<f64>], (found, ran): (Vec<Vec<f64>>, Vec<Ran>)) -> Found {
        let names = std::iter::once("output").chain(self.inputs.iter().map(|(name, _)| *name));
        let differences =
            names.zip(truth.iter().zip(&found)).map(|(of, (truth, found))| difference(of, truth, found)).collect();
        Found { differences, ran }
    }

    /// The inputs, on a device with autodiff as leaves whose gradients are asked for.
    pub fn inputs(&self, device: &Device, dtype: DType) -> Inputs {
        self.leaves(device, dtype, dtype, |_| true)
    }

    /// The same, of numbers that `exact` holds, with the gradients that are `wanted` asked for.
    fn leaves(&self, device: &Device, dtype: DType, exact: DType, wanted: impl Fn(usize) -> bool) -> Inputs {
        let one = |(number, (name, shape)): (usize, &(&'static str, Vec<usize>))| {
            let values = numbers(number, shape.iter().product(), device, dtype, exact);
            let leaf = device.is_autodiff() && wanted(number);
            (*name, shape.clone(), if leaf { values.require_grad() } else { values })
        };
        Inputs(self.inputs.iter().enumerate().map(one).collect())
    }

    /// The output, flat.
    pub fn run(&self, inputs: &Inputs) -> Tensor<1> {
        (self.run)(inputs)
    }

    /// The output and the gradients of all inputs, those that are not `wanted` empty, of numbers that `exact` holds.
    fn results(
        &self,
        device: &Device,
        dtype: DType,
        exact: DType,
        wanted: impl Fn(usize) -> bool,
    ) -> (Vec<Vec<f64>>, Vec<Ran>) {
        let device = device.clone().autodiff();
        let inputs = self.leaves(&device, dtype, exact, wanted);
        let (output, ran) = trace(|| self.run(&inputs));
        // Every number of the output has a weight of its own in the loss.
        let weights = numbers(self.inputs.len(), output.dims()[0], &device, output.dtype(), exact);
        let gradients = (output.clone() * weights).sum().backward();
        let gradient = |x: &Tensor<1>| x.grad(&gradients).map_or_else(Vec::new, read);
        let results = std::iter::once(read(output)).chain(inputs.0.iter().map(|(.., x)| gradient(x)));
        (results.collect(), ran)
    }
}

fn read(x: Tensor<1>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn difference(of: &'static str, truth: &[f64], found: &[f64]) -> Difference {
    assert_eq!(truth.len(), found.len(), "{of}: as many numbers as the reference gives (none: no gradient)");
    let scale = truth.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let mut worst = Difference { of, relative: 0.0, at: 0 };
    for (at, (truth, found)) in truth.iter().zip(found).enumerate() {
        let relative = (truth - found).abs() / scale;
        if relative.is_nan() {
            return Difference { of, relative, at };
        }
        if relative > worst.relative {
            worst = Difference { of, relative, at };
        }
    }
    worst
}

/// About normally distributed, the same on every machine.
fn numbers(seed: usize, count: usize, device: &Device, dtype: DType, exact: DType) -> Tensor<1> {
    let rounded = |x: f32| if exact == DType::BF16 { bf16::from_f32(x).to_f32() } else { x };
    let mut state = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(seed as u64 + 1);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let numbers: Vec<f32> =
        (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() - 3.0).map(|x| rounded(x * 2f32.sqrt())).collect();
    Tensor::from_data(TensorData::new(numbers, [count]), (device, dtype))
}

/// The cases of all operators.
pub fn cases() -> Vec<Case> {
    [
        crate::adamw::cases(),
        crate::linear::cases(),
        crate::embedding::cases(),
        crate::cross_entropy::cases(),
        crate::experts::cases(),
        crate::softmax_attention::cases(),
        crate::differential_attention::cases(),
        crate::linear_attention::cases(),
        crate::product_attention::cases(),
        crate::rms_norm::cases(),
        crate::rope::cases(),
        crate::short_conv::cases(),
        crate::swiglu::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// In f64, where nothing but a mistake makes a difference: with all gradients asked for, and with each alone.
/// Every case must have taken its fast form.
#[cfg(test)]
pub fn agree(cases: Vec<Case>, tolerance: f64) {
    let (device, dtype) = (Device::flex(), DType::F64);
    for case in cases {
        let (operator, name, truth) = (case.operator, &case.name, case.truth(dtype));
        let check = |found: Found, asked: String| {
            let Difference { of, relative, at } = found.worst();
            assert!(*relative < tolerance, "{operator} ({name}{asked}): {of} differs by {relative:.1e} at {at}");
            let fast = |ran: &Ran| (ran.operator, ran.implementation) == (operator, crate::Implementation::Cpu);
            assert!(found.ran.iter().any(fast), "{operator} ({name}{asked}) ran as {:?}", found.ran);
        };
        check(case.check(&device, dtype), String::new());
        for (number, (input, _)) in case.inputs.iter().enumerate().filter(|(number, _)| !truth[number + 1].is_empty()) {
            let mut asked = vec![Vec::new(); truth.len()];
            asked[0] = truth[0].clone();
            asked[number + 1] = truth[number + 1].clone();
            let results = case.results(&device, dtype, dtype, |other| other == number);
            check(case.compare(&asked, results), format!(", gradient of {input} alone"));
        }
    }
}
