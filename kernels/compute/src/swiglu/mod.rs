//! The gated unit of SwiGLU (Shazeer 2020), between its projections.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{Fast, choose_with_cuda, input, run as run_on, run_on_cpu};
use crate::selftest::Case;
use crate::trace::Implementation;
use burn::tensor::{Tensor, activation::silu};
use burn_dispatch::DispatchTensor;

/// `silu(gate) ∘ up`, both of the same shape and of up to four axes.
///
/// # Panics
/// When shapes or dtypes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "both factors have one shape");
    match fast([input(gate), input(up)]) {
        Fast::Ran(y) => Tensor::from_dispatch(y),
        Fast::Reference(inputs) => {
            let [gate, up] = inputs.map(|x| Tensor::from_dispatch(x.expect("both are there")));
            silu(gate) * up
        }
    }
}

fn fast(inputs: [Option<DispatchTensor>; 2]) -> Fast<DispatchTensor, 2> {
    match choose_with_cuda("swiglu", inputs.iter().flatten(), |asked| asked.in_f32()) {
        Implementation::Cpu => Fast::Ran(run_on_cpu(cpu::SwiGlu, inputs)),
        Implementation::Cuda => with_gpu!(inputs, B => Fast::Ran(run_on::<B, _, 2>(cuda::GpuSwiGlu, inputs))),
        Implementation::Reference => Fast::Reference(inputs),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |shape: [usize; 3]| {
        Case::new("swiglu", format!("{shape:?}"), &[("gate", &shape), ("up", &shape)], |x| {
            swiglu(x.get::<3>("gate"), x.get("up")).reshape([-1])
        })
    };
    let view = Case::new("swiglu", "halves of one projection", &[("both", &[2, 75, 120])], |x| {
        let both: Tensor<3> = x.get("both");
        swiglu(both.clone().narrow(2, 0, 60), both.narrow(2, 60, 60)).reshape([-1])
    });
    vec![case([1, 1, 16]), case([2, 63, 100]), case([1, 500, 256]), view]
}
