//! An operator with a backward of its own: how it is chosen, run and put on the gradient tape.

use crate::trace::{Implementation, by_reference, record, reference_only};
use burn::tensor::{DType, Int, Tensor};
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};
use burn_dispatch::backends::autodiff::checkpoint::base::Checkpointer;
use burn_dispatch::backends::autodiff::checkpoint::strategy::NoCheckpointing;
use burn_dispatch::backends::autodiff::grads::Gradients;
use burn_dispatch::backends::autodiff::ops::{Backward, Ops, OpsKind};
use burn_dispatch::backends::{Autodiff, Flex};
use burn_dispatch::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};
use std::fmt::Debug;
use std::marker::PhantomData;

/// A function of up to `N` tensors on one backend, and its gradient.
///
/// An absent input is `None` throughout. The backward of burn's tape has one output; what else an
/// operator gives (a log-sum-exp) goes into `Saved`.
pub trait Operator<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward needs.
    type Saved: Clone + Debug + Send + 'static;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; N]) -> (FloatTensor<B>, Self::Saved);

    /// The gradients of the inputs that are `wanted`; the others are ignored.
    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

/// The implementation for an operator over `inputs`, recorded for [`trace`](crate::trace()).
///
/// # Panics
/// When the inputs differ in dtype: on a GPU one would be read as the other.
pub fn choose(operator: &'static str, inputs: &[&DispatchTensor]) -> Implementation {
    let dtypes: Vec<DType> = inputs.iter().map(|x| x.dtype()).collect();
    assert!(dtypes.windows(2).all(|pair| pair[0] == pair[1]), "{operator}: inputs of several dtypes: {dtypes:?}");
    let real = matches!(dtypes.first(), Some(DType::F32 | DType::F64));
    let cpu = real && !reference_only() && inputs.iter().all(|x| on_flex(&x.kind));
    let implementation = if cpu { Implementation::Cpu } else { Implementation::Reference };
    record(operator, implementation);
    implementation
}

/// The same for an operator without a backward: where an input is tracked, the reference runs.
pub fn choose_untracked(operator: &'static str, inputs: &[&DispatchTensor]) -> Implementation {
    if inputs.iter().any(|x| is_tracked(&x.kind)) {
        by_reference(|| choose(operator, inputs))
    } else {
        choose(operator, inputs)
    }
}

fn is_tracked(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Autodiff(inner) => match &**inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => tensor.is_tracked(),
            _ => true,
        },
        _ => false,
    }
}

fn on_flex(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Flex(_) => true,
        DispatchTensorKind::Autodiff(inner) => on_flex(inner),
        _ => false,
    }
}

/// `tensor`, ready to be an input.
pub fn input<const D: usize>(tensor: Tensor<D>) -> Option<DispatchTensor> {
    Some(tensor.into_dispatch())
}

/// What `choose` let through to the CPU, where no gradient is asked for.
pub fn on_cpu<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    plain(tensor.into_dispatch().kind)
}

pub fn from_cpu<const D: usize>(tensor: FloatTensor<Flex>) -> Tensor<D> {
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(tensor));
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled })
}

/// The whole numbers of a tensor that lies on the CPU.
pub fn whole_numbers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<u32> {
    tensor.into_data().iter::<u32>().collect()
}

/// Runs `operator` on the CPU and puts it on the tape where an input is tracked.
pub fn run_on_cpu<O: Operator<Flex, N>, const N: usize>(
    operator: O,
    inputs: [Option<DispatchTensor>; N],
) -> DispatchTensor {
    let context = inputs.iter().flatten().fold(DispatchAutodiffContext::Disabled, |all, x| all.merge(x.autodiff));
    let kinds = inputs.map(|x| x.map(|x| x.kind));
    if context == DispatchAutodiffContext::Disabled {
        let (output, _) = operator.forward(kinds.map(|kind| kind.map(plain)));
        let kind = DispatchTensorKind::Flex(BackendTensor::Float(output));
        return DispatchTensor { kind, autodiff: context };
    }
    let output = tracked(operator, kinds.map(|kind| kind.map(lifted)));
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(output));
    DispatchTensor { kind: DispatchTensorKind::Autodiff(Box::new(kind)), autodiff: context }
}

fn plain(kind: DispatchTensorKind) -> FloatTensor<Flex> {
    match kind {
        DispatchTensorKind::Flex(tensor) => tensor.float(),
        other => unreachable!("`choose` lets tensors of the CPU through, this is {other:?}"),
    }
}

/// A constant becomes a leaf without gradient.
fn lifted(kind: DispatchTensorKind) -> FloatTensor<Autodiff<Flex>> {
    match kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(tensor) => tensor.autodiff(),
            other => unreachable!("`choose` lets tensors of the CPU through, this is {other:?}"),
        },
        other => FloatTensor::<Autodiff<Flex>>::new(plain(other)),
    }
}

fn tracked<O: Operator<Flex, N>, const N: usize>(
    operator: O,
    inputs: [Option<FloatTensor<Autodiff<Flex>>>; N],
) -> FloatTensor<Autodiff<Flex>> {
    let absent = || {
        let nothing = burn_dispatch::backends::flex::FlexTensor::zeros([1].into(), DType::F32);
        FloatTensor::<Autodiff<Flex>>::new(nothing).node()
    };
    let nodes = inputs.each_ref().map(|x| x.as_ref().map_or_else(absent, |x| x.node()));
    let (output, saved) = operator.forward(inputs.map(|x| x.map(|x| x.into_primitive())));
    // The output is kept whatever the strategy of gradient checkpointing: nothing here is cheap.
    match (Rule::<O>(PhantomData)).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((operator, saved), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

struct Rule<O>(PhantomData<O>);

impl<O> Debug for Rule<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<O>())
    }
}

impl<B: Backend, O: Operator<B, N>, const N: usize> Backward<B, N> for Rule<O> {
    type State = (O, O::Saved);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (operator, saved) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = operator.backward(saved, gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                let gradient = gradient.expect("a gradient for every input that wants one");
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
