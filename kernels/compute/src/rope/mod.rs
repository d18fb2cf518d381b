//! Rotation of pairs of channels by a token's position (RoPE, Su et al. 2021).

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{choose_with_cuda, input, run as run_on, run_on_cpu};
use crate::selftest::Case;
use crate::trace::Implementation;
use burn::tensor::Tensor;

/// Which of `r` rotated channels make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairs {
    /// `(j, j + r/2)`.
    HalfSplit,
    /// `(2j, 2j + 1)`.
    Interleaved,
}

/// A pair `(x, y)` of token `t` becomes `(x cos a_tj − y sin a_tj, y cos a_tj + x sin a_tj)`.
///
/// Shapes: `x [batch, heads, time, d]`, `cos, sin [time, r/2]`, of which the first `r ≤ d` channels are
/// rotated and the others kept. The tables are constants: they have no gradient.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, pairs: Pairs) -> Tensor<4> {
    let [_, _, time, d] = x.dims();
    let [_, half] = cos.dims();
    assert!(
        cos.dims() == [time, half] && sin.dims() == [time, half] && 2 * half <= d,
        "an input {:?} and tables {:?} and {:?} do not fit together",
        x.dims(),
        cos.dims(),
        sin.dims()
    );
    let inputs = [input(x), input(cos.detach()), input(sin.detach())];
    match choose_with_cuda("rope", inputs.iter().flatten(), |asked| asked.in_f32()) {
        Implementation::Cpu => Tensor::from_dispatch(run_on_cpu(cpu::Rotate { pairs }, inputs)),
        Implementation::Cuda => {
            with_gpu!(inputs, B => Tensor::from_dispatch(run_on::<B, _, 3>(cuda::GpuRotate { pairs }, inputs)))
        }
        Implementation::Reference => {
            let [x, cos, sin] = inputs.map(|x| x.expect("all are there"));
            let [cos, sin] = [cos, sin].map(Tensor::from_dispatch);
            reference::rope(Tensor::from_dispatch(x), cos, sin, pairs)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    use Pairs::{HalfSplit, Interleaved};
    let case = |[batch, heads, time, d]: [usize; 4], rotated: usize, pairs| {
        let name = format!("{time} tokens, {rotated} of {d} channels, {pairs:?}");
        // Heads side by side, as a projection gives them.
        Case::new("rope", name, &[("x", &[batch, time, heads, d])], move |x| {
            let x = x.get::<4>("x").swap_dims(1, 2);
            let like = (&x.device(), x.dtype());
            let table = |from: f64| {
                let values = (0..time * rotated / 2).map(|i| (from + i as f64 * 0.7).sin()).collect::<Vec<_>>();
                Tensor::from_data(burn::tensor::TensorData::new(values, [time, rotated / 2]), like)
            };
            rope(x, table(1.0), table(2.0), pairs).reshape([-1])
        })
    };
    vec![
        case([1, 1, 1, 16], 16, HalfSplit),
        case([2, 3, 63, 60], 60, HalfSplit),
        case([2, 2, 75, 100], 26, HalfSplit),
        case([1, 2, 500, 128], 128, HalfSplit),
        case([2, 3, 63, 60], 60, Interleaved),
        case([1, 2, 500, 64], 16, Interleaved),
        case([1, 2, 75, 256], 256, Interleaved),
    ]
}
