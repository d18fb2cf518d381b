//! Norms on CUDA. Inputs in f32 or bf16; all sums are f32.

pub mod kernels;

use super::cpu::Norm;
use super::{Activation, Beside, GatePlace};
use crate::cuda::rows::sum_columns;
use crate::cuda::source::Source;
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, Second};
use crate::trace::Because;
use burn::tensor::DType;
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};
use kernels::{Call, Plan};

/// The inputs are `x, weight, z`.
#[derive(Clone, Debug)]
pub struct GpuNorm(pub Norm);

/// A norm of `x + z`, which is the second output.
#[derive(Clone, Debug)]
pub struct GpuAddNorm<B: Backend> {
    pub norm: GpuNorm,
    pub sum: Second<B>,
}

#[derive(Clone, Debug)]
pub struct Saved<T> {
    /// With the sum in the place of `x` where there is one, and no `z` beside it.
    inputs: [Option<T>; 3],
    /// One over the root of every row.
    inverse: T,
}

impl Norm {
    fn plan(&self, width: usize, weight: bool) -> Plan {
        Plan { width, mean: self.mean, weight, beside: self.beside }
    }
}

/// Whether there are kernels for rows of `width` numbers.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, norm: &Norm, width: usize) -> Result<(), Because> {
    if !norm.plan(width, true).fits() {
        return Err(Because::NoKernel("rows wider than 8192"));
    }
    asked.in_f32()
}

impl GpuNorm {
    fn call<B: Gpu>(&self, inputs: &[Option<FloatTensor<B>>; 3]) -> Call {
        let x = x_of::<B>(inputs);
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let Norm { eps, offset, scale, .. } = self.0;
        let plan = self.0.plan(width, inputs[1].is_some());
        Call { rows: shape.num_elements() / width, eps, offset, scale, plan, dtype: x.dtype() }
    }
}

fn x_of<B: Gpu>(inputs: &[Option<FloatTensor<B>>; 3]) -> &FloatTensor<B> {
    inputs[0].as_ref().expect("an input")
}

impl<B: Gpu> Operator<B, 3> for GpuNorm {
    type Saved = Saved<FloatTensor<B>>;

    fn forward(&self, mut inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let call = self.call::<B>(&inputs);
        let mut program = Program::new("rms_norm");
        let ids = inputs.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let nothing = program.nothing();
        let [x, weight, z] = ids.map(|id| id.unwrap_or(nothing));
        let shape = x_of::<B>(&inputs).shape();
        let adds = self.0.beside == Some(Beside::Residual);
        let y = program.output(shape.clone(), call.dtype);
        let inverse = program.output([call.rows], DType::F32);
        let sum = if adds { program.output(shape, call.dtype) } else { nothing };
        program.then(call.forward(), &[x, weight, z, y, inverse, sum]);
        let mut outputs = B::execute(program, inputs.clone().into_iter().flatten().collect()).into_iter();
        let mut next = || outputs.next().expect("an output for every one that was asked for");
        let (y, inverse) = (next(), next());
        if adds {
            (inputs[0], inputs[2]) = (Some(next()), None);
        }
        (y, Saved { inputs, inverse })
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, _: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        self.gradients::<B>(saved, gradient, None)
    }
}

impl GpuNorm {
    /// With `of_sum` the gradient of the sum, where there is one.
    fn gradients<B: Gpu>(
        &self,
        saved: Saved<FloatTensor<B>>,
        gradient: FloatTensor<B>,
        of_sum: Option<FloatTensor<B>>,
    ) -> [Option<FloatTensor<B>>; 3] {
        let Saved { mut inputs, inverse } = saved;
        let adds = of_sum.is_some();
        inputs[2] = inputs[2].take().or(of_sum);
        let mut call = self.call::<B>(&inputs);
        if inputs[2].is_none() {
            call.plan.beside = None;
        }
        assert_eq!(gradient.dtype(), call.dtype, "the gradient of a norm");
        let shape = x_of::<B>(&inputs).shape();
        let width = call.plan.width;
        let mut program = Program::new("rms_norm gradient");
        let ids = inputs.each_ref().map(|x| x.as_ref().map(|x| program.input(x)));
        let (inverse_, y_grad) = (program.input(&inverse), program.input(&gradient));
        let nothing = program.nothing();
        let (weighted, gated) = (ids[1].is_some(), ids[2].is_some() && !adds);
        let [x, weight, z] = ids.map(|id| id.unwrap_or(nothing));
        let x_grad = program.output(shape.clone(), call.dtype);
        let z_grad = if gated { program.output(shape, call.dtype) } else { nothing };
        let parts = if weighted { program.buffer([call.plan.parts(call.rows), width], DType::F32) } else { nothing };
        program.then(call.backward(), &[x, weight, z, inverse_, y_grad, x_grad, z_grad, parts]);
        if weighted {
            let weight_grad = program.output([width], call.dtype);
            program.then(call.weight_grad(), &[parts, weight_grad]);
        }
        let inputs = inputs.into_iter().flatten().chain([inverse, gradient]);
        let mut outputs = B::execute(program, inputs.collect()).into_iter();
        let mut next = |there: bool| there.then(|| outputs.next().expect("an output for every one that was asked for"));
        let (x_grad, z_grad) = (next(true), next(gated));
        [x_grad, next(weighted), z_grad]
    }
}

impl<B: Gpu> Operator<B, 3> for GpuAddNorm<B> {
    type Saved = Saved<FloatTensor<B>>;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let (y, saved) = <GpuNorm as Operator<B, 3>>::forward(&self.norm, inputs);
        self.sum.put(x_of::<B>(&saved.inputs).clone());
        (y, saved)
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, _: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        let [x_grad, weight_grad, _] = self.norm.gradients::<B>(saved, gradient, self.sum.gradient());
        [x_grad.clone(), weight_grad, x_grad]
    }
}

const PLAIN: Plan = Plan { width: 128, mean: true, weight: true, beside: None };

fn both(plan: Plan, dtype: DType) -> Vec<Source> {
    let call = Call { rows: 1, eps: 1e-6, offset: 0.0, scale: 1.0, plan, dtype };
    [call.forward(), call.backward()].map(|kernel| kernel.source()).into()
}

/// What the table holds of norms of heads and of tokens, and the sums for the gradients of all weights.
pub fn sources() -> Vec<Source> {
    let mut sources = both(PLAIN, DType::BF16);
    sources.extend(both(PLAIN, DType::F32));
    sources.extend(both(Plan { width: 2048, ..PLAIN }, DType::BF16));
    sources.extend([DType::BF16, DType::F32].map(|dtype| sum_columns(1, 1, dtype).source()));
    sources
}

/// Of the gated norm of linear mixers, and of the widest rows.
pub fn gated_sources() -> Vec<Source> {
    let gated = |place, width| Plan { beside: Some(Beside::Gate(Activation::Silu, place)), width, ..PLAIN };
    let mut sources = both(gated(GatePlace::After, 128), DType::BF16);
    sources.extend(both(gated(GatePlace::Before, 8192), DType::BF16));
    sources
}

/// Of the norm of a sum.
pub fn add_sources() -> Vec<Source> {
    let plan = Plan { beside: Some(Beside::Residual), ..PLAIN };
    let mut sources = both(plan, DType::BF16);
    sources.extend(both(Plan { width: 2048, ..plan }, DType::BF16));
    sources
}

/// Of rows of unit length.
pub fn l2_sources() -> Vec<Source> {
    both(Plan { mean: false, weight: false, ..PLAIN }, DType::BF16)
}
