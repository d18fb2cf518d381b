//! Short causal depthwise convolution followed by SiLU.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{choose_with_cuda, input, run, run_on_cpu};
use crate::selftest::Case;
use crate::trace::Implementation;
use burn::tensor::Tensor;

/// `y_t = silu( Σ_j w_j ⊙ x_{t−K+1+j} + b )`, one kernel per channel; the last tap is the current token.
///
/// Shapes: `x [batch, time, channels]`, `weight [channels, K]`, `bias [channels]`, `past [batch, K−1, channels]` (the
/// inputs before `x`; zeros at the start of a sequence) → the output and the next `past`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn short_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    past: Option<Tensor<3>>,
) -> (Tensor<3>, Tensor<3>) {
    let [batch, time, channels] = x.dims();
    let [weight_channels, taps] = weight.dims();
    assert!(taps > 0, "a kernel has at least one tap");
    assert_eq!(
        channels, weight_channels,
        "expected [batch, time, {weight_channels}], got [{batch}, {time}, {channels}]"
    );
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [channels], "the bias of {channels} channels");
    }
    if let Some(past) = &past {
        assert_eq!(past.dims(), [batch, taps - 1, channels], "the past of an input [{batch}, {time}, {channels}]");
    }
    let next = next_past(&x, past.clone(), taps);
    // One tap sees the current token alone.
    let past = past.filter(|_| taps > 1);
    let inputs = [input(x), input(weight), bias.and_then(input), past.and_then(input)];
    let kernels = |asked: &_| cuda::permits(asked, taps);
    let y = match choose_with_cuda("short_conv", inputs.iter().flatten(), kernels) {
        Implementation::Cpu => Tensor::from_dispatch(run_on_cpu(cpu::ShortConv, inputs)),
        Implementation::Cuda => {
            with_gpu!(inputs, B => Tensor::from_dispatch(run::<B, _, 4>(cuda::ShortConv, inputs)))
        }
        Implementation::Reference => {
            let [x, weight, bias, past] = inputs;
            let [x, past] = [x, past].map(|x| x.map(Tensor::from_dispatch));
            let weight = Tensor::from_dispatch(weight.expect("a kernel"));
            reference::short_conv(x.expect("an input"), weight, bias.map(Tensor::from_dispatch), past)
        }
    };
    (y, next)
}

/// The last `taps − 1` inputs.
fn next_past(x: &Tensor<3>, past: Option<Tensor<3>>, taps: usize) -> Tensor<3> {
    let [batch, time, channels] = x.dims();
    let kept = taps - 1;
    if kept > 0 && time >= kept {
        return x.clone().narrow(1, time - kept, kept);
    }
    let past = past.unwrap_or_else(|| Tensor::zeros([batch, kept, channels], (&x.device(), x.dtype())));
    if kept == 0 {
        return past;
    }
    Tensor::cat(vec![past.narrow(1, time, kept - time), x.clone()], 1)
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |[batch, time, channels, taps]: [usize; 4], bias: bool, past: bool| {
        let name = format!("{batch} × {time} × {channels}, {taps} taps, bias {bias}, past {past}");
        let x = [batch, time, channels];
        let before = [batch, taps - 1, channels];
        let mut inputs: Vec<(&'static str, &[usize])> = vec![("x", &x)];
        let (weight, one) = ([channels, taps], [channels]);
        inputs.push(("weight", &weight));
        if bias {
            inputs.push(("bias", &one));
        }
        if past {
            inputs.push(("past", &before));
        }
        Case::new("short_conv", name, &inputs, move |x| {
            let (y, next) =
                short_conv(x.get("x"), x.get("weight"), bias.then(|| x.get("bias")), past.then(|| x.get("past")));
            Tensor::cat(vec![y.reshape([-1]), next.reshape([-1])], 0)
        })
    };
    let view = Case::new(
        "short_conv",
        "a part of a wider projection",
        &[("both", &[2, 75, 120]), ("weight", &[60, 4])],
        |x| short_conv(x.get::<3>("both").narrow(2, 60, 60), x.get("weight"), None, None).0.reshape([-1]),
    );
    vec![
        case([1, 1, 16, 4], false, false),
        case([2, 1, 100, 4], true, true),
        case([2, 2, 60, 4], false, true),
        case([2, 63, 60, 4], true, true),
        case([2, 75, 128, 3], true, false),
        case([1, 500, 256, 4], false, true),
        case([2, 75, 64, 2], false, false),
        view,
    ]
}
