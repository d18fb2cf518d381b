//! An operator with a backward of its own: how it is chosen, run and put on the gradient tape.

use crate::trace::{Implementation, by_reference, record, reference_only};
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_backend::ops::FloatTensorOps;
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
use std::sync::{Arc, Mutex, PoisonError};

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
    Tensor::from_dispatch(off_tape(tensor))
}

fn off_tape(tensor: FloatTensor<Flex>) -> DispatchTensor {
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(tensor));
    DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled }
}

fn on_tape(tensor: FloatTensor<Autodiff<Flex>>, autodiff: DispatchAutodiffContext) -> DispatchTensor {
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor));
    DispatchTensor { kind: DispatchTensorKind::Autodiff(Box::new(kind)), autodiff }
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
        return off_tape(operator.forward(kinds.map(|kind| kind.map(plain))).0);
    }
    on_tape(tracked(operator, kinds.map(|kind| kind.map(lifted))), context)
}

/// A second output, which the operator holds beside its first one.
///
/// On the tape it hangs on the first output, so that its gradient is here before the operator's backward
/// runs.
#[derive(Clone, Debug, Default)]
pub struct Second(Arc<Mutex<Option<FloatTensor<Flex>>>>);

impl Second {
    /// The output, by the operator's forward.
    pub fn put(&self, output: FloatTensor<Flex>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
    }

    /// Its gradient, for the operator's backward; `None` where the loss does not depend on it.
    pub fn gradient(&self) -> Option<FloatTensor<Flex>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The output that was put here, to the other output of the operator.
    pub fn beside(&self, first: &DispatchTensor) -> DispatchTensor {
        let output = self.gradient().expect("a forward that put its second output");
        let autodiff = first.autodiff;
        if autodiff == DispatchAutodiffContext::Disabled {
            return off_tape(output);
        }
        let shape = first.shape();
        let node = lifted(first.clone().kind).node();
        let output = match Hung.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((self.clone(), shape), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        on_tape(output, autodiff)
    }
}

#[derive(Debug)]
struct Hung;

impl Backward<Flex, 1> for Hung {
    type State = (Second, Shape);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let (second, shape) = ops.state;
        if let [Some(first)] = &ops.parents {
            // The operator's backward runs when its first output has a gradient.
            grads.register::<Flex>(first.id, Flex::float_zeros(shape, &gradient.device(), gradient.dtype().into()));
        }
        second.put(gradient);
    }
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
