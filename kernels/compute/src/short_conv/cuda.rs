//! The short convolution on CUDA: one unit per number of the output, or per weight.

use crate::cuda::source::{BF16, Source, expand, source};
use cubecl::prelude::*;

/// Units of a cube.
pub const UNITS: u32 = 256;

/// `Σ_j w_j x_{t−K+1+j} + b` of one channel; tokens before the first come from `past`, `past [batch, K − 1, channels]`.
#[cube]
fn sum_of_taps<E: Float>(
    x: &[E],
    weight: &[E],
    bias: &[E],
    past: &[E],
    batch: u32,
    t: u32,
    channel: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
) -> f32 {
    let mut sum = f32::cast_from(bias[channel as usize]);
    #[unroll]
    for j in 0..taps {
        let number = input::<E>(x, past, batch, t + j, channel, time, channels, taps);
        sum += f32::cast_from(weight[(channel * taps + j) as usize]) * number;
    }
    sum
}

/// Token `place − (taps − 1)`, which stands in `past` where it lies before the first.
#[cube]
fn input<E: Float>(
    x: &[E],
    past: &[E],
    batch: u32,
    place: u32,
    channel: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
) -> f32 {
    let before = comptime!(taps - 1);
    if place < before {
        f32::cast_from(past[((batch * before + place) * channels + channel) as usize])
    } else {
        f32::cast_from(x[((batch * time + place - before) * channels + channel) as usize])
    }
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `y = silu(convolution)`.
///
/// `x, y [batch, time, channels]`, `weight [channels, taps]`, `bias [channels]`, `past [batch, taps − 1, channels]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn short_conv_forward<E: Float>(
    x: &[E],
    weight: &[E],
    bias: &[E],
    past: &[E],
    y: &mut [E],
    batches: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
    #[define(E)] _dtype: ElemType,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * time * channels {
        let (channel, t, batch) = (at % channels, at / channels % time, at / channels / time);
        let sum = sum_of_taps::<E>(x, weight, bias, past, batch, t, channel, time, channels, taps);
        y[at as usize] = E::cast_from(sum * sigmoid(sum));
    }
}

/// The gradient of the sum before SiLU, in f32: `s + z s (1 − s)` with `s = σ(z)`, times `y_grad`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn short_conv_sum_grad<E: Float>(
    x: &[E],
    weight: &[E],
    bias: &[E],
    past: &[E],
    y_grad: &[E],
    sum_grad: &mut [f32],
    batches: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
    #[define(E)] _dtype: ElemType,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * time * channels {
        let (channel, t, batch) = (at % channels, at / channels % time, at / channels / time);
        let sum = sum_of_taps::<E>(x, weight, bias, past, batch, t, channel, time, channels, taps);
        let s = sigmoid(sum);
        sum_grad[at as usize] = f32::cast_from(y_grad[at as usize]) * (s + sum * s * (1.0 - s));
    }
}

/// `dx_t = Σ_j w_j dz_{t + K − 1 − j}`.
#[cube(launch_unchecked)]
pub fn short_conv_input_grad<E: Float>(
    weight: &[E],
    sum_grad: &[f32],
    x_grad: &mut [E],
    batches: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
    #[define(E)] _dtype: ElemType,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * time * channels {
        let (channel, t) = (at % channels, at / channels % time);
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..taps {
            let later = comptime!(taps - 1 - j);
            if t + later < time {
                sum +=
                    f32::cast_from(weight[(channel * taps + j) as usize]) * sum_grad[(at + later * channels) as usize];
            }
        }
        x_grad[at as usize] = E::cast_from(sum);
    }
}

/// `dw_j = Σ_{batch, t} dz_t x_{t−K+1+j}` and `db = Σ dz`: a plane to a channel and tap, the bias being one tap
/// more. Every sum has a fixed order.
///
/// `weight_grad [channels, taps]`, `bias_grad [channels]`, in f32.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn short_conv_weight_grad<E: Float>(
    x: &[E],
    past: &[E],
    sum_grad: &[f32],
    weight_grad: &mut [f32],
    bias_grad: &mut [f32],
    batches: u32,
    time: u32,
    channels: u32,
    #[comptime] taps: u32,
    #[define(E)] _dtype: ElemType,
) {
    let channel = CUBE_POS_X;
    let tap = UNIT_POS_Y;
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X;
    while at < batches * time {
        let grad = sum_grad[(at * channels + channel) as usize];
        let mut factor = 1.0f32.runtime();
        if tap < taps {
            factor = input::<E>(x, past, at / time, at % time + tap, channel, time, channels, taps);
        }
        sum += grad * factor;
        at += 32;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 {
        if tap < taps {
            weight_grad[(channel * taps + tap) as usize] = sum;
        } else {
            bias_grad[channel as usize] = sum;
        }
    }
}

/// Forward, then the three kernels of the backward in their order.
pub fn sources(taps: u32) -> [Source; 4] {
    let units = CubeDim::new_1d(UNITS);
    let name = |kernel: &str| format!("short_conv_{kernel} {taps}");
    [
        source(
            &name("forward"),
            units,
            |t| expand!(short_conv_forward::ShortConvForward, t, [x weight bias past y], [batches time channels], taps, BF16),
        ),
        source(
            &name("sum_grad"),
            units,
            |t| expand!(short_conv_sum_grad::ShortConvSumGrad, t, [x weight bias past y_grad sum_grad], [batches time channels], taps, BF16),
        ),
        source(
            &name("input_grad"),
            units,
            |t| expand!(short_conv_input_grad::ShortConvInputGrad, t, [weight sum_grad x_grad], [batches time channels], taps, BF16),
        ),
        source(
            &name("weight_grad"),
            CubeDim::new_2d(32, taps + 1),
            |t| expand!(short_conv_weight_grad::ShortConvWeightGrad, t, [x past sum_grad weight_grad bias_grad], [batches time channels], taps, BF16),
        ),
    ]
}
