//! One unit per number of the output, or per weight.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// Units of a cube.
pub const UNITS: u32 = 256;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub taps: u32,
    pub bias: bool,
    /// Whether there are tokens before the first; zeros otherwise.
    pub past: bool,
}

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
    #[comptime] plan: Plan,
) -> f32 {
    let taps = comptime!(plan.taps);
    let mut sum = 0.0f32.runtime();
    if comptime!(plan.bias) {
        sum = f32::cast_from(bias[channel as usize]);
    }
    #[unroll]
    for j in 0..taps {
        let number = input::<E>(x, past, batch, t + j, channel, time, channels, plan);
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
    #[comptime] plan: Plan,
) -> f32 {
    let before = comptime!(plan.taps - 1);
    let mut number = 0.0f32.runtime();
    if place >= before {
        number = f32::cast_from(x[((batch * time + place - before) * channels + channel) as usize]);
    } else if comptime!(plan.past) {
        number = f32::cast_from(past[((batch * before + place) * channels + channel) as usize]);
    }
    number
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
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * time * channels {
        let (channel, t, batch) = (at % channels, at / channels % time, at / channels / time);
        let sum = sum_of_taps::<E>(x, weight, bias, past, batch, t, channel, time, channels, plan);
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
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * time * channels {
        let (channel, t, batch) = (at % channels, at / channels % time, at / channels / time);
        let sum = sum_of_taps::<E>(x, weight, bias, past, batch, t, channel, time, channels, plan);
        let s = sigmoid(sum);
        sum_grad[at as usize] = f32::cast_from(y_grad[at as usize]) * (s + sum * s * (1.0 - s));
    }
}

/// `dx_t = Σ_j w_j dz_{t + K − 1 − j}`, also for the tokens before the first where there are any.
///
/// Cubes: over the tokens of `past_grad` and `x_grad`, one after the other.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn short_conv_input_grad<E: Float>(
    weight: &[E],
    sum_grad: &[f32],
    x_grad: &mut [E],
    past_grad: &mut [E],
    batches: u32,
    time: u32,
    channels: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let taps = comptime!(plan.taps);
    let before = comptime!(plan.taps - 1);
    // The first token that is written, counted from the first that the first output sees.
    let first = comptime!(if plan.past { 0 } else { plan.taps - 1 });
    let tokens = time + before - first;
    let at = CUBE_POS_X * UNITS + UNIT_POS_X;
    if at < batches * tokens * channels {
        let (channel, place, batch) = (at % channels, at / channels % tokens + first, at / channels / tokens);
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..taps {
            if place >= j && place - j < time {
                let by_sum = sum_grad[((batch * time + place - j) * channels + channel) as usize];
                sum += f32::cast_from(weight[(channel * taps + j) as usize]) * by_sum;
            }
        }
        if place >= before {
            x_grad[((batch * time + place - before) * channels + channel) as usize] = E::cast_from(sum);
        } else if comptime!(plan.past) {
            past_grad[((batch * before + place) * channels + channel) as usize] = E::cast_from(sum);
        }
    }
}

/// `dw_j = Σ_{batch, t} dz_t x_{t−K+1+j}` and `db = Σ dz`: a plane to a channel and tap, the bias being one tap
/// more. Every sum has a fixed order.
///
/// `weight_grad [channels, taps]`, `bias_grad [channels]`, in f32. Cubes: `channels` of 32 by the taps, and one more for the bias.
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
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let taps = comptime!(plan.taps);
    let channel = CUBE_POS_X;
    let tap = UNIT_POS_Y;
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X;
    while at < batches * time {
        let grad = sum_grad[(at * channels + channel) as usize];
        let mut factor = 1.0f32.runtime();
        if tap < taps {
            factor = input::<E>(x, past, at / time, at % time + tap, channel, time, channels, plan);
        }
        sum += grad * factor;
        at += 32;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 {
        if tap < taps {
            weight_grad[(channel * taps + tap) as usize] = sum;
        } else if comptime!(plan.bias) {
            bias_grad[channel as usize] = sum;
        }
    }
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub batch: usize,
    pub time: usize,
    pub channels: usize,
    pub plan: Plan,
    pub dtype: DType,
}

impl Call {
    /// Numbers of the input, the weight, the bias and the past.
    fn counts(&self) -> [usize; 4] {
        let Plan { taps, bias, past } = self.plan;
        let taps = taps as usize;
        let before = if past { self.batch * (taps - 1) * self.channels } else { 0 };
        [self.batch * self.time * self.channels, self.channels * taps, if bias { self.channels } else { 0 }, before]
    }

    fn cubes(numbers: usize) -> [u32; 3] {
        [(numbers as u32).div_ceil(UNITS), 1, 1]
    }

    fn name(&self, kernel: &str) -> String {
        let Plan { taps, bias, past } = self.plan;
        let [bias, past] = [(bias, " bias"), (past, " past")].map(|(has, what)| if has { what } else { "" });
        format!("short_conv_{kernel} {taps}{bias}{past}{}", element(self.dtype).1)
    }

    pub fn forward(&self) -> Kernel {
        let [count, weights, biases, before] = self.counts();
        let (plan, dtype) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("forward"),
            Self::cubes(count),
            CubeDim::new_1d(UNITS),
            short_conv_forward as ShortConvForward,
            [x: count, weight: weights, bias: biases, past: before, y: count],
            { batches: u32 = self.batch as u32, time: u32 = self.time as u32, channels: u32 = self.channels as u32 },
            plan,
            dtype
        )
    }

    pub fn sum_grad(&self) -> Kernel {
        let [count, weights, biases, before] = self.counts();
        let (plan, dtype) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("sum_grad"),
            Self::cubes(count),
            CubeDim::new_1d(UNITS),
            short_conv_sum_grad as ShortConvSumGrad,
            [x: count, weight: weights, bias: biases, past: before, y_grad: count, sum_grad: count],
            { batches: u32 = self.batch as u32, time: u32 = self.time as u32, channels: u32 = self.channels as u32 },
            plan,
            dtype
        )
    }

    pub fn input_grad(&self) -> Kernel {
        let [count, weights, _, before] = self.counts();
        let (plan, dtype) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("input_grad"),
            Self::cubes(count + before),
            CubeDim::new_1d(UNITS),
            short_conv_input_grad as ShortConvInputGrad,
            [weight: weights, sum_grad: count, x_grad: count, past_grad: before],
            { batches: u32 = self.batch as u32, time: u32 = self.time as u32, channels: u32 = self.channels as u32 },
            plan,
            dtype
        )
    }

    pub fn weight_grad(&self) -> Kernel {
        let [count, weights, biases, before] = self.counts();
        let (plan, dtype) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("weight_grad"),
            [self.channels as u32, 1, 1],
            CubeDim::new_2d(32, plan.taps + plan.bias as u32),
            short_conv_weight_grad as ShortConvWeightGrad,
            [x: count, past: before, sum_grad: count, weight_grad: weights, bias_grad: biases],
            { batches: u32 = self.batch as u32, time: u32 = self.time as u32, channels: u32 = self.channels as u32 },
            plan,
            dtype
        )
    }
}
