//! Kernels one after the other on tensors: the one way from an operator to a GPU.
//!
//! A program says which memory there is and which kernels run on it. On a CUDA device it becomes one operation in burn's
//! stream ([`Gpu`] for `Cube`); in tests the same program is run by an emulator on the CPU ([`emulated`]), so that all but the
//! launch itself, sizes, order of arguments and gradients included, is tested without a GPU.

use super::kernel::Kernel;
use super::tune;
use crate::operator::Dispatched;
use burn::backend::fusion::custom::{CustomOpIr, HandleContainer, Operation, OperationIr, StreamId, TensorIr};
use burn::tensor::{DType, Shape, TensorData};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{ExecutionError, TensorMetadata};
use burn_cubecl::fusion::{CubeFusionHandle, FusionCubeRuntime};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use burn_dispatch::backends::{Cube, Flex};
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::cell::RefCell;
use std::sync::Arc;

/// Memory of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(usize);

/// What is in memory before the first kernel.
#[derive(Clone, Debug, PartialEq)]
enum Start {
    Input,
    /// The same, as it lies, where each of its rows lies in order and begins at a multiple of so many numbers.
    InputByRows(usize),
    Unwritten,
    Values(Vec<u8>),
    /// What this input has.
    Of(Id),
    /// Three numbers for each of these.
    Strides(Vec<Id>),
}

#[derive(Clone, Debug)]
struct Buffer {
    shape: Shape,
    dtype: DType,
    start: Start,
}

impl Buffer {
    fn count(&self) -> usize {
        self.shape.num_elements()
    }

    fn bytes(&self) -> usize {
        self.count() * self.dtype.size()
    }
}

/// Kernels that compute the same from the same arguments, of which one runs.
#[derive(Clone, Debug)]
struct Step {
    kernels: Vec<Kernel>,
    arguments: Vec<Id>,
}

/// Memory and the kernels that run on it.
#[derive(Clone, Debug)]
pub struct Program {
    name: &'static str,
    inputs: usize,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
    outputs: Vec<Id>,
}

impl Program {
    pub fn new(name: &'static str) -> Self {
        Self { name, inputs: 0, buffers: Vec::new(), steps: Vec::new(), outputs: Vec::new() }
    }

    fn add(&mut self, shape: Shape, dtype: DType, start: Start) -> Id {
        self.buffers.push(Buffer { shape, dtype, start });
        Id(self.buffers.len() - 1)
    }

    /// The memory of the next input, contiguous.
    ///
    /// # Panics
    /// After other memory.
    pub fn input(&mut self, tensor: &impl TensorMetadata) -> Id {
        assert_eq!(self.inputs, self.buffers.len(), "{}: inputs stand before other memory", self.name);
        self.inputs += 1;
        self.add(tensor.shape(), tensor.dtype(), Start::Input)
    }

    /// The memory of the next input, of four axes, as it lies: views are not copied where their rows lie in order and begin at
    /// multiples of `multiple` numbers. [`Program::strides`] tells kernels where.
    ///
    /// # Panics
    /// As [`Program::input`].
    pub fn input_by_rows(&mut self, tensor: &impl TensorMetadata, multiple: usize) -> Id {
        let id = self.input(tensor);
        self.buffers[id.0].start = Start::InputByRows(multiple);
        id
    }

    /// Numbers from one to the next along the first three axes of each of `memory`, in u32.
    pub fn strides(&mut self, memory: &[Id]) -> Id {
        self.add([3 * memory.len()].into(), DType::U32, Start::Strides(memory.into()))
    }

    /// The same, where kernels were compiled for this dtype: they would read another one as this.
    ///
    /// # Panics
    /// As [`Program::input`], and for another dtype.
    pub fn input_of(&mut self, dtype: DType, tensor: &impl TensorMetadata) -> Id {
        let (name, number, found) = (self.name, self.inputs, tensor.dtype());
        assert_eq!(found, dtype, "{name}: input {number} is {found:?}, its kernels read {dtype:?}");
        self.input(tensor)
    }

    /// New memory, every number of which a kernel writes before one reads it.
    pub fn buffer(&mut self, shape: impl Into<Shape>, dtype: DType) -> Id {
        self.add(shape.into(), dtype, Start::Unwritten)
    }

    /// New memory that is given back as a tensor; the first one given is the first output.
    pub fn output(&mut self, shape: impl Into<Shape>, dtype: DType) -> Id {
        let id = self.buffer(shape, dtype);
        self.outputs.push(id);
        id
    }

    /// An input that kernels change, given back as a tensor: in its own memory where nobody else holds that, elsewhere in a
    /// copy. Kernels take the result in the place of the input.
    ///
    /// # Panics
    /// When it is no input.
    pub fn changed(&mut self, input: Id) -> Id {
        let Buffer { shape, dtype, start } = self.buffers[input.0].clone();
        assert_eq!(start, Start::Input, "{}: what changes in place is an input", self.name);
        let id = self.add(shape, dtype, Start::Of(input));
        self.outputs.push(id);
        id
    }

    /// Numbers in f32.
    pub fn constant(&mut self, values: impl IntoIterator<Item = f32>) -> Id {
        self.values(DType::F32, values.into_iter().map(f32::to_le_bytes))
    }

    /// Numbers in i32.
    pub fn whole_constant(&mut self, values: impl IntoIterator<Item = i32>) -> Id {
        self.values(DType::I32, values.into_iter().map(i32::to_le_bytes))
    }

    fn values(&mut self, dtype: DType, words: impl Iterator<Item = [u8; 4]>) -> Id {
        let bytes: Vec<u8> = words.flatten().collect();
        self.add([bytes.len() / 4].into(), dtype, Start::Values(bytes))
    }

    /// For an argument that a kernel does not look at: memory that nothing else is in.
    pub fn nothing(&mut self) -> Id {
        self.buffer([1; 4], DType::F32)
    }

    /// Runs `kernel` next, on its arguments in their order.
    ///
    /// # Panics
    /// When the kernel has other arguments, or goes beyond one.
    pub fn then(&mut self, kernel: Kernel, arguments: &[Id]) {
        self.then_fastest(vec![kernel], arguments);
    }

    /// Runs one of `kernels` next, which compute the same: the one that a first trial on the device found the fastest.
    ///
    /// # Panics
    /// As [`Program::then`], and when there is none.
    pub fn then_fastest(&mut self, kernels: Vec<Kernel>, arguments: &[Id]) {
        assert!(!kernels.is_empty(), "{}: a step without a kernel", self.name);
        for id in arguments {
            let stale = self.buffers.iter().any(|buffer| buffer.start == Start::Of(*id));
            assert!(!stale, "{}: {} is given an input that changes in place", self.name, kernels[0].name);
            let changes = matches!(self.buffers[id.0].start, Start::Of(_));
            assert!(!changes || kernels.len() == 1, "{}: trials would change memory more than once", self.name);
        }
        for kernel in &kernels {
            let name = &kernel.name;
            assert_eq!(kernel.buffers.len(), arguments.len(), "{name}: arguments");
            for (visits, &Id(at)) in kernel.buffers.iter().zip(arguments) {
                let has = self.buffers[at].count();
                assert!(
                    has >= visits.count,
                    "{name}: `{}` has {has} numbers, {} are needed",
                    visits.name,
                    visits.count
                );
                // Kernels count in 32 bits.
                assert!(visits.count < 1 << 31, "{name}: `{}` is too large for 32-bit indices", visits.name);
            }
            let [x, y, z] = kernel.cubes;
            assert!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "{name}: too large for a grid: {:?}", kernel.cubes);
        }
        self.steps.push(Step { kernels, arguments: arguments.to_vec() });
    }

    /// What the memory of strides `of` these holds, where inputs lie as `views` of something else, or in order.
    fn steps_of(&self, of: &[Id], views: &[Option<[u32; 3]>]) -> Vec<u8> {
        let view = |&Id(at): &Id| views.get(at).copied().flatten();
        bytes_of(of.iter().map(|id| view(id).unwrap_or_else(|| steps_in_order(&self.buffers[id.0].shape))))
    }

    /// A step of no work launches nothing.
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.kernels[0].cubes.iter().all(|&n| n > 0))
    }
}

/// Memory that goes into a program or comes out of one. Floats and whole numbers are one type on the backends on which programs
/// run, and a tensor knows its dtype.
pub type Memory<B> = FloatTensor<B>;

/// What [`Program::strides`] has for memory of these, and whether a view that lies so may be read by rows.
fn steps(shape: &[usize], strides: &[usize], multiple: usize) -> Option<[u32; 3]> {
    let (&[.., width], &[.., last]) = (<&[usize; 4]>::try_from(shape).ok()?, <&[usize; 4]>::try_from(strides).ok()?);
    let leading = || shape[..3].iter().zip(strides).filter(|(n, _)| **n > 1);
    let end: usize = leading().map(|(n, stride)| (n - 1) * stride).sum();
    // Rows that lie one in the other are more numbers than their memory has.
    let by_rows = (last == 1 || width == 1)
        && shape.iter().product::<usize>() <= end + width
        && leading().all(|(_, &stride)| stride > 0 && stride.is_multiple_of(multiple))
        && end + width < 1 << 31;
    by_rows.then(|| std::array::from_fn(|axis| if shape[axis] > 1 { strides[axis] as u32 } else { 0 }))
}

/// The same of memory in order; an axis of one has no step there either.
fn steps_in_order(shape: &[usize]) -> [u32; 3] {
    let &[_, b, c, d] = <&[usize; 4]>::try_from(shape).expect("memory of four axes");
    let strides = [b * c * d, c * d, d];
    std::array::from_fn(|axis| if shape[axis] > 1 { strides[axis] as u32 } else { 0 })
}

fn bytes_of(steps: impl Iterator<Item = [u32; 3]>) -> Vec<u8> {
    steps.flatten().flat_map(u32::to_le_bytes).collect()
}

/// A backend on which programs run.
pub trait Gpu: Dispatched {
    /// Runs `program` on its inputs, and gives its outputs.
    fn execute(program: Program, inputs: Vec<Memory<Self>>) -> Vec<Memory<Self>>;

    /// Whole numbers as an input.
    fn memory(numbers: IntTensor<Self>) -> Memory<Self>;

    /// An output as whole numbers.
    fn numbers(memory: Memory<Self>) -> IntTensor<Self>;
}

impl Gpu for Cube {
    fn memory(numbers: IntTensor<Self>) -> Memory<Self> {
        numbers
    }

    fn numbers(memory: Memory<Self>) -> IntTensor<Self> {
        memory
    }

    /// Puts the program into the stream of operations, where what comes before and after is fused as ever.
    fn execute(program: Program, inputs: Vec<Memory<Self>>) -> Vec<Memory<Self>> {
        assert_eq!(program.inputs, inputs.len(), "{}: inputs", program.name);
        let client = inputs.first().expect("an operator has an input").client.clone();
        let output = |&Id(at): &Id| {
            let Buffer { shape, dtype, .. } = &program.buffers[at];
            TensorIr::uninit(client.create_empty_handle(), shape.clone(), *dtype)
        };
        let outputs: Vec<TensorIr> = program.outputs.iter().map(output).collect();
        let inputs: Vec<TensorIr> = inputs.into_iter().map(|x| x.into_ir()).collect();
        let ir = CustomOpIr::new(program.name, &inputs, &outputs);
        client.register(StreamId::current(), OperationIr::Custom(ir.clone()), Queued { ir, program })
    }
}

/// Runs `$body` with `$B` the backend of `$inputs`, which `choose` let through to CUDA kernels.
macro_rules! with_gpu {
    ($inputs:expr, $B:ident => $body:expr) => {{
        let first = $inputs.iter().flatten().next().expect("an operator has an input");
        match crate::operator::without_tape(&first.kind) {
            burn_dispatch::DispatchTensorKind::Flex(_) => {
                type $B = burn_dispatch::backends::Flex;
                $body
            }
            _ => {
                type $B = burn_dispatch::backends::Cube;
                $body
            }
        }
    }};
}
pub(crate) use with_gpu;

/// A program in the stream.
#[derive(Debug)]
struct Queued {
    ir: CustomOpIr,
    program: Program,
}

impl Operation<FusionCubeRuntime> for Queued {
    fn execute(&self, handles: &mut HandleContainer<CubeFusionHandle>) -> Result<(), ExecutionError> {
        let input = |x: &TensorIr| {
            let whole = x.dtype.is_int() || x.dtype.is_uint();
            let tensor: CubeTensor = if whole {
                handles.get_int_tensor::<CubeBackend>(x)
            } else {
                handles.get_float_tensor::<CubeBackend>(x)
            };
            assert_eq!(
                tensor.dtype, x.dtype,
                "{}: an input is not of the dtype that the stream gave it",
                self.program.name
            );
            tensor
        };
        let inputs = self.ir.inputs.iter().map(input).collect();
        for (ir, output) in self.ir.outputs.iter().zip(launch(&self.program, inputs)) {
            handles.register_float_tensor::<CubeBackend>(&ir.id, output);
        }
        Ok(())
    }
}

/// Launches every kernel on the client of the first input.
fn launch(program: &Program, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let (client, device): (Client, CubeDevice) = (inputs[0].client.clone(), inputs[0].device.clone());
    let placed = |(buffer, tensor): (&Buffer, CubeTensor)| match buffer.start {
        Start::InputByRows(multiple) => by_rows(tensor, multiple),
        _ => (in_order(tensor), None),
    };
    let (inputs, views): (Vec<CubeTensor>, Vec<Option<[u32; 3]>>) =
        program.buffers.iter().zip(inputs).map(placed).unzip();
    let fresh: Vec<Handle> = program.buffers[program.inputs..]
        .iter()
        .map(|buffer| match &buffer.start {
            Start::Values(values) => client.create_from_slice(values),
            Start::Strides(of) => client.create_from_slice(&program.steps_of(of, &views)),
            Start::Of(Id(input)) if inputs[*input].can_mut() => inputs[*input].handle.clone(),
            // A copy may have longer rows.
            Start::Of(Id(input)) => into_contiguous(inputs[*input].copy()).handle,
            Start::Input | Start::InputByRows(_) | Start::Unwritten => client.empty(buffer.bytes()),
        })
        .collect();
    let handles: Vec<Handle> = inputs.into_iter().map(|x| x.handle).chain(fresh).collect();
    for Step { kernels, arguments } in program.steps() {
        let memory = arguments.iter().map(|&Id(at)| (handles[at].clone(), program.buffers[at].dtype.size()));
        tune::launch_fastest(&client, &device, kernels, memory.collect());
    }
    let output = |&Id(at): &Id| {
        let Buffer { shape, dtype, .. } = &program.buffers[at];
        CubeTensor::new_contiguous(client.clone(), device.clone(), shape.clone(), handles[at].clone(), *dtype)
    };
    program.outputs.iter().map(output).collect()
}

/// `tensor` as it lies, and how; or in order.
fn by_rows(tensor: CubeTensor, multiple: usize) -> (CubeTensor, Option<[u32; 3]>) {
    let plain = tensor.qparams.is_none() && !tensor.meta.is_tiled() && is_aligned(&tensor);
    match steps(tensor.meta.shape(), tensor.meta.strides(), multiple).filter(|_| plain) {
        Some(steps) => (tensor, Some(steps)),
        None => (in_order(tensor), None),
    }
}

fn is_aligned(tensor: &CubeTensor) -> bool {
    tensor.handle.offset_start.unwrap_or(0).is_multiple_of(16)
}

/// `tensor` with its numbers one after the other from a 16-byte word on, as asynchronous copies take them.
fn in_order(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if is_aligned(&tensor) { tensor } else { into_contiguous(tensor.copy()) }
}

/// Memory of an emulator.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub dtype: DType,
    pub bytes: Vec<u8>,
}

/// Runs one of some kernels that compute the same on memory that it leaves changed. It refuses memory of another dtype
/// than the kernel was compiled for: a GPU would read it as that.
pub type Emulator = Arc<dyn Fn(&[Kernel], &mut [Numbers]) + Send + Sync>;

thread_local! {
    static EMULATOR: RefCell<Option<Emulator>> = const { RefCell::new(None) };
}

/// Runs `f` as if every tensor of this thread on the CPU were on a GPU: operators with CUDA kernels have theirs run by
/// `emulator`. Unwritten memory is NaN. For tests.
pub fn emulated<T>(emulator: Emulator, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Emulator>);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_emulator(self.0.take());
        }
    }
    let _restore = Restore(set_emulator(Some(emulator)));
    f()
}

/// Sets that of this thread and returns what it was.
pub(crate) fn set_emulator(emulator: Option<Emulator>) -> Option<Emulator> {
    EMULATOR.replace(emulator)
}

pub(crate) fn is_emulated() -> bool {
    EMULATOR.with_borrow(Option::is_some)
}

/// All that lies behind the first number of `x`, and the steps from one of its rows to the next.
fn by_rows_on_cpu(x: &Memory<Flex>, multiple: usize) -> Option<(Vec<u8>, [u32; 3])> {
    let (layout, size) = (x.layout(), x.dtype().size());
    let strides: Vec<usize> = layout.strides().iter().map(|&stride| stride.try_into().ok()).collect::<Option<_>>()?;
    let steps = steps(layout.shape().as_slice(), &strides, multiple)?;
    let start = layout.start_offset();
    let aligned = (start * size).is_multiple_of(16);
    aligned.then(|| (x.bytes()[start * size..].to_vec(), steps))
}

impl Gpu for Flex {
    fn memory(numbers: IntTensor<Self>) -> Memory<Self> {
        numbers
    }

    fn numbers(memory: Memory<Self>) -> IntTensor<Self> {
        memory
    }

    fn execute(program: Program, inputs: Vec<Memory<Self>>) -> Vec<Memory<Self>> {
        use burn_backend::ops::FloatTensorOps;
        let emulator =
            EMULATOR.with_borrow(Clone::clone).expect("CUDA kernels run on the CPU inside of `emulated` only");
        assert_eq!(program.inputs, inputs.len(), "{}: inputs", program.name);
        let device = inputs.first().expect("an operator has an input").device();
        let placed = |(buffer, x): (&Buffer, Memory<Self>)| {
            if let Start::InputByRows(multiple) = buffer.start
                && let Some((memory, steps)) = by_rows_on_cpu(&x, multiple)
            {
                return (memory, Some(steps));
            }
            let numbers = burn::tensor::read_sync(Flex::float_into_data(x)).expect("the numbers of a tensor");
            (numbers.as_bytes().to_vec(), None)
        };
        let (mut memory, views): (Vec<Vec<u8>>, Vec<_>) = program.buffers.iter().zip(inputs).map(placed).unzip();
        for buffer in &program.buffers[program.inputs..] {
            memory.push(match &buffer.start {
                Start::Values(values) => values.clone(),
                Start::Of(Id(input)) => memory[*input].clone(),
                Start::Strides(of) => program.steps_of(of, &views),
                Start::Input | Start::InputByRows(_) | Start::Unwritten => vec![0xff; buffer.bytes()],
            });
        }
        for Step { kernels, arguments } in program.steps() {
            let numbers = |&Id(at): &Id| Numbers { dtype: program.buffers[at].dtype, bytes: memory[at].clone() };
            let mut buffers: Vec<Numbers> = arguments.iter().map(numbers).collect();
            emulator(kernels, &mut buffers);
            for (&Id(at), buffer) in arguments.iter().zip(buffers) {
                memory[at] = buffer.bytes;
            }
        }
        let output = |&Id(at): &Id| {
            let Buffer { shape, dtype, .. } = &program.buffers[at];
            let bytes = std::mem::take(&mut memory[at]);
            Flex::float_from_data(TensorData::from_bytes_vec(bytes, shape.clone(), *dtype), &device)
        };
        program.outputs.iter().map(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_read_where_they_lie_if_their_rows_can_be_copied() {
        let [batch, heads, time, width] = [2, 4, 70, 16];
        let shape = [batch, heads, time, width];
        let of_tokens = [time * heads * width, width, heads * width, 1];
        assert_eq!(steps(&shape, &of_tokens, 8), Some([4480, 16, 64]));
        let in_a_room = [heads * 83 * width, 83 * width, width, 1];
        assert_eq!(steps(&shape, &in_a_room, 8), Some([5312, 1328, 16]));
        // An axis of one has no step.
        assert_eq!(steps(&[1, heads, time, 1], &[7, 1, heads, 9], 1), Some([0, 1, 4]));
        for (what, shape, strides) in [
            ("rows that lie across", shape, [4480, 1120, 1, 70]),
            ("heads that share their numbers", shape, [1120, 0, 16, 1]),
            ("rows that lie one in the other", shape, [560, 16 * 70, 8, 1]),
            ("rows that begin where no copy can", [batch, heads, time, 12], [12 * 280, 12, 12 * 4, 1]),
            ("steps beyond 32 bits", [2, 1, 1, 16], [1 << 31, 16, 16, 1]),
        ] {
            assert_eq!(steps(&shape, &strides, 8), None, "{what}");
        }
    }

    #[test]
    fn an_emulated_gpu_is_given_the_memory_of_a_view() {
        let device = burn::tensor::Device::flex();
        let x = burn::tensor::Tensor::<1, burn::tensor::Int>::arange(0..120, &device).float().reshape([1, 3, 5, 8]);
        let view = |x: burn::tensor::Tensor<4>| {
            by_rows_on_cpu(&crate::operator::plain::<Flex>(x.into_dispatch()), 4).map(|(memory, steps)| {
                let first = f32::from_le_bytes(memory[..4].try_into().expect("a number"));
                (first, memory.len() / 4, steps)
            })
        };
        assert_eq!(view(x.clone().swap_dims(1, 2)), Some((0.0, 120, [0, 8, 40])));
        assert_eq!(view(x.clone().narrow(2, 2, 3)), Some((16.0, 104, [0, 40, 8])));
        assert_eq!(view(x.swap_dims(2, 3)), None);
    }
}
