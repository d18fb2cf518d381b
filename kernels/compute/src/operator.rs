//! An operator with a backward of its own: how it is chosen, run and put on the gradient tape.

use crate::cuda;
use crate::trace::{Because, Implementation, Ran, by_reference, record, reference_only, say};
use burn::tensor::{DType, Int, IntDType, Shape, Tensor};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Backend, TensorMetadata};
use burn_dispatch::backends::autodiff::checkpoint::base::Checkpointer;
use burn_dispatch::backends::autodiff::checkpoint::strategy::NoCheckpointing;
use burn_dispatch::backends::autodiff::grads::Gradients;
use burn_dispatch::backends::autodiff::ops::{Backward, Ops, OpsKind};
use burn_dispatch::backends::{Autodiff, Cube, Flex};
use burn_dispatch::{BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};
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

/// A backend of tensors that are dispatched.
pub trait Dispatched: Backend {
    fn open(kind: DispatchTensorKind) -> BackendTensor<Self>;
    fn close(tensor: BackendTensor<Self>) -> DispatchTensorKind;
}

impl Dispatched for Flex {
    fn open(kind: DispatchTensorKind) -> BackendTensor<Self> {
        match kind {
            DispatchTensorKind::Flex(tensor) => tensor,
            other => unreachable!("`choose` lets tensors of the CPU through, this is {other:?}"),
        }
    }

    fn close(tensor: BackendTensor<Self>) -> DispatchTensorKind {
        DispatchTensorKind::Flex(tensor)
    }
}

impl Dispatched for Cube {
    fn open(kind: DispatchTensorKind) -> BackendTensor<Self> {
        match kind {
            DispatchTensorKind::Cube(tensor) => tensor,
            other => unreachable!("`choose` lets tensors of a GPU through, this is {other:?}"),
        }
    }

    fn close(tensor: BackendTensor<Self>) -> DispatchTensorKind {
        DispatchTensorKind::Cube(tensor)
    }
}

/// Said of an operator without CUDA kernels.
const NO_KERNELS: Because = Because::NoKernel("this operator");

/// Said of sizes beyond what kernels count, in 32 bits, or a grid has.
pub const TOO_LARGE: Because = Because::NoKernel("so many numbers or heads: more than 32-bit indices or a grid reach");

/// The implementation for an operator over `inputs` that has no CUDA kernels, recorded for
/// [`trace`](crate::trace()).
///
/// # Panics
/// When the inputs differ in dtype: on a GPU one would be read as the other.
pub fn choose<'a>(operator: &'static str, inputs: impl Iterator<Item = &'a DispatchTensor> + Clone) -> Implementation {
    choose_with_cuda(operator, inputs, |_| Err(NO_KERNELS))
}

/// The same for an operator with CUDA kernels and without a backward: where an input is tracked, the reference runs.
pub fn choose_untracked<'a>(
    operator: &'static str,
    inputs: impl Iterator<Item = &'a DispatchTensor> + Clone,
    kernels: impl FnOnce(&cuda::Asked) -> Result<(), Because>,
) -> Implementation {
    if inputs.clone().any(Dispatch::is_tracked) {
        by_reference(|| choose(operator, inputs))
    } else {
        choose_with_cuda(operator, inputs, kernels)
    }
}

/// The same for an operator with CUDA kernels, which says whether they can be had for a call.
pub fn choose_with_cuda<'a>(
    operator: &'static str,
    inputs: impl Iterator<Item = &'a DispatchTensor> + Clone,
    kernels: impl FnOnce(&cuda::Asked) -> Result<(), Because>,
) -> Implementation {
    let (implementation, because) = match inputs.clone().next() {
        Some(first) => {
            let dtypes = inputs.clone().map(|x| x.dtype());
            if dtypes.clone().any(|dtype| dtype != first.dtype()) {
                panic!("{operator}: inputs of several dtypes: {:?}", dtypes.collect::<Vec<_>>());
            }
            one_of(operator, first, inputs, kernels)
        }
        None => (Implementation::Reference, None),
    };
    record(Ran { operator, implementation, because });
    implementation
}

/// The implementation, and why it is the reference. All inputs have the dtype of the `first`.
fn one_of<'a>(
    operator: &'static str,
    first: &DispatchTensor,
    mut inputs: impl Iterator<Item = &'a DispatchTensor> + Clone,
    kernels: impl FnOnce(&cuda::Asked) -> Result<(), Because>,
) -> (Implementation, Option<Because>) {
    let everywhere = |is: fn(&DispatchTensorKind) -> bool| inputs.clone().all(|x| is(without_tape(&x.kind)));
    let on_flex = everywhere(|kind| matches!(kind, DispatchTensorKind::Flex(_)));
    let on_cube = everywhere(|kind| matches!(kind, DispatchTensorKind::Cube(_)));
    let too_large = inputs.clone().any(|x| x.shape().num_elements() >= 1 << 31);
    let kernels = |asked: &_| if too_large { Err(TOO_LARGE) } else { kernels(asked) };
    if reference_only() {
        (Implementation::Reference, None)
    } else if on_cube || (on_flex && cuda::is_emulated()) {
        match cuda::permitted(operator, &first.kind, first.dtype(), inputs.any(Dispatch::is_tracked), kernels) {
            Ok(()) => (Implementation::Cuda, None),
            Err(because) => {
                if on_cube && because != NO_KERNELS {
                    say(operator, because);
                }
                (Implementation::Reference, Some(because))
            }
        }
    } else if on_flex && matches!(first.dtype(), DType::F32 | DType::F64) {
        (Implementation::Cpu, None)
    } else if on_flex && matches!(first.dtype(), DType::F16 | DType::BF16) {
        say(operator, Because::HalfPrecision);
        (Implementation::Reference, Some(Because::HalfPrecision))
    } else {
        (Implementation::Reference, None)
    }
}

/// Where a tensor lies, on the tape or not.
pub fn without_tape(kind: &DispatchTensorKind) -> &DispatchTensorKind {
    match kind {
        DispatchTensorKind::Autodiff(inner) => inner,
        kind => kind,
    }
}

/// What a fast form makes of its inputs.
///
/// Functions that return it are not generic. A function for tensors of any rank is compiled wherever it is called, in a
/// cell of a notebook too, and the backends behind an operator are some thousand functions.
pub enum Fast<T, const N: usize> {
    Ran(T),
    /// It is the reference that runs, on these inputs.
    Reference([Option<DispatchTensor>; N]),
}

/// `tensor`, ready to be an input.
pub fn input<const D: usize>(tensor: Tensor<D>) -> Option<DispatchTensor> {
    Some(tensor.into_dispatch())
}

/// What `choose` let through, where no gradient is asked for.
pub fn plain<B: Dispatched>(tensor: DispatchTensor) -> FloatTensor<B> {
    B::open(tensor.kind).float()
}

/// # Panics
/// When an input of an operator without a gradient is of a device with autodiff.
pub fn off_the_tape<'a>(operator: &str, mut inputs: impl Iterator<Item = &'a DispatchTensor>) {
    assert!(
        inputs.all(|x| !matches!(x.kind, DispatchTensorKind::Autodiff(_))),
        "{operator} has no gradient: it takes tensors off the tape (`Tensor::inner`)"
    );
}

/// The way back.
pub fn off_tape<B: Dispatched>(tensor: FloatTensor<B>) -> DispatchTensor {
    DispatchTensor { kind: B::close(BackendTensor::Float(tensor)), autodiff: DispatchAutodiffContext::Disabled }
}

/// The way back of whole numbers.
pub fn whole_off_tape<B: Dispatched>(numbers: IntTensor<B>) -> DispatchTensor {
    DispatchTensor { kind: B::close(BackendTensor::Int(numbers)), autodiff: DispatchAutodiffContext::Disabled }
}

fn on_tape<B: Dispatched>(tensor: FloatTensor<Autodiff<B>>, autodiff: DispatchAutodiffContext) -> DispatchTensor {
    let kind = B::close(BackendTensor::Autodiff(tensor));
    DispatchTensor { kind: DispatchTensorKind::Autodiff(Box::new(kind)), autodiff }
}

/// The whole numbers of a tensor that lies on the CPU.
pub fn whole_numbers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<u32> {
    tensor.into_data().iter::<u32>().collect()
}

/// Whole numbers beside inputs that `choose` let through, as kernels read them: in i32.
pub fn whole<B: Dispatched, const D: usize>(numbers: Tensor<D, Int>) -> IntTensor<B> {
    let numbers = if numbers.dtype() == DType::I32 { numbers } else { numbers.cast(IntDType::I32) };
    B::open(without_tape(&numbers.into_dispatch().kind).clone()).int()
}

/// Runs `operator` on the CPU and puts it on the tape where an input is tracked.
pub fn run_on_cpu<O: Operator<Flex, N>, const N: usize>(
    operator: O,
    inputs: [Option<DispatchTensor>; N],
) -> DispatchTensor {
    run::<Flex, O, N>(operator, inputs)
}

/// Runs `operator` and puts it on the tape where an input is tracked.
pub fn run<B: Dispatched, O: Operator<B, N>, const N: usize>(
    operator: O,
    mut inputs: [Option<DispatchTensor>; N],
) -> DispatchTensor {
    let context = inputs.iter().flatten().fold(DispatchAutodiffContext::Disabled, |all, x| all.merge(x.autodiff));
    if context == DispatchAutodiffContext::Disabled {
        // Not `map`, which moves a tensor of some 200 bytes three times: noticeable where a token is decoded.
        let inputs = std::array::from_fn(|i| inputs[i].take().map(plain::<B>));
        return off_tape::<B>(operator.forward(inputs).0);
    }
    on_tape::<B>(tracked(operator, inputs.map(|x| x.map(|x| lifted::<B>(x.kind)))), context)
}

/// A second output, which the operator holds beside its first one.
///
/// On the tape it hangs on the first output, so that its gradient is here before the operator's backward
/// runs.
#[derive(Clone, Debug)]
pub struct Second<B: Backend>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Backend> Default for Second<B> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<B: Dispatched> Second<B> {
    /// The output, by the operator's forward.
    pub fn put(&self, output: FloatTensor<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
    }

    /// Its gradient, for the operator's backward; `None` where the loss does not depend on it.
    pub fn gradient(&self) -> Option<FloatTensor<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The output that was put here, to the other output of the operator.
    pub fn beside(&self, first: &DispatchTensor) -> DispatchTensor {
        let output = self.gradient().expect("a forward that put its second output");
        let autodiff = first.autodiff;
        if autodiff == DispatchAutodiffContext::Disabled {
            return off_tape::<B>(output);
        }
        let shape = first.shape();
        let node = lifted::<B>(first.clone().kind).node();
        let output = match Hung.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((self.clone(), shape), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        on_tape::<B>(output, autodiff)
    }
}

#[derive(Debug)]
struct Hung;

impl<B: Dispatched> Backward<B, 1> for Hung {
    type State = (Second<B>, Shape);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (second, shape) = ops.state;
        if let [Some(first)] = &ops.parents {
            // The operator's backward runs when its first output has a gradient.
            grads.register::<B>(first.id, B::float_zeros(shape, &gradient.device(), gradient.dtype().into()));
        }
        second.put(gradient);
    }
}

/// A constant becomes a leaf without gradient.
fn lifted<B: Dispatched>(kind: DispatchTensorKind) -> FloatTensor<Autodiff<B>> {
    match kind {
        DispatchTensorKind::Autodiff(inner) => B::open(*inner).autodiff(),
        other => FloatTensor::<Autodiff<B>>::new(B::open(other).float()),
    }
}

fn tracked<B: Dispatched, O: Operator<B, N>, const N: usize>(
    operator: O,
    inputs: [Option<FloatTensor<Autodiff<B>>>; N],
) -> FloatTensor<Autodiff<B>> {
    let any = inputs.iter().flatten().next().expect("an operator has an input").primitive().clone();
    // A leaf without gradient; only its place on the tape is used.
    let absent = || FloatTensor::<Autodiff<B>>::new(any.clone()).node();
    let nodes = inputs.each_ref().map(|x| x.as_ref().map_or_else(absent, |x| x.node()));
    drop(any);
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
