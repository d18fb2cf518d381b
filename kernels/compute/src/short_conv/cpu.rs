//! Runs of tokens, channels side by side. The backward makes the sums before SiLU again, those of a run
//! and of the `K − 1` tokens after it, whose gradients reach into the run.

use crate::cpu::{Real, Shared, Strided, buffer, for_each, forwards, output, vectorised, with_real, with_scratch};
use crate::operator::Operator;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;
use std::ops::Range;

/// The inputs are `x, weight, bias, past`.
#[derive(Clone, Debug)]
pub struct ShortConv;

type Inputs = [Option<FlexTensor>; 4];

impl Operator<Flex, 4> for ShortConv {
    type Saved = Inputs;

    fn forward(&self, inputs: Inputs) -> (FlexTensor, Inputs) {
        let inputs = inputs.map(|x| x.map(forwards));
        let dtype = inputs[0].as_ref().expect("an input").dtype();
        (with_real!(dtype, E => forward::<E>(&inputs)), inputs)
    }

    fn backward(&self, inputs: Inputs, gradient: FlexTensor, wanted: [bool; 4]) -> Inputs {
        let gradient = forwards(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(&inputs, &gradient, wanted))
    }
}

struct Views<'a, E> {
    x: Strided<'a, E, 3>,
    past: Option<Strided<'a, E, 3>>,
    /// `[taps, channels]`.
    weight: Vec<E>,
    /// Zeros where there is none.
    bias: Vec<E>,
    batch: usize,
    time: usize,
    channels: usize,
    taps: usize,
}

impl<'a, E: Real> Views<'a, E> {
    fn of(inputs: &'a Inputs) -> Self {
        let [x, weight, bias, past] = inputs;
        let x = Strided::<E, 3>::of(x.as_ref().expect("an input"));
        let weight = Strided::<E, 2>::of(weight.as_ref().expect("a kernel"));
        let [batch, time, channels] = x.shape;
        let taps = weight.shape[1];
        let bias = bias.as_ref().map(|bias| Strided::<E, 1>::of(bias).run([0], channels).to_vec());
        Self {
            past: past.as_ref().map(Strided::of),
            weight: (0..taps * channels).map(|i| weight.at([i % channels, i / channels])).collect(),
            bias: bias.unwrap_or_else(|| vec![E::ZERO; channels]),
            x,
            batch,
            time,
            channels,
            taps,
        }
    }

    /// Tokens of a run.
    fn block(&self) -> usize {
        (32_768 / self.channels.max(1)).max(32)
    }

    fn units(&self) -> usize {
        self.batch * self.time.div_ceil(self.block())
    }

    fn for_units(&self, f: impl Fn(usize, usize, Range<usize>) + Send + Sync) {
        let blocks = self.time.div_ceil(self.block());
        for_each(self.units(), self.batch * self.time * self.channels * self.taps, |unit| {
            let first = unit % blocks * self.block();
            f(unit, unit / blocks, first..self.time.min(first + self.block()));
        });
    }

    /// The input of token `t`, counted from `K − 1` tokens before the first; none where it is zero.
    #[inline(always)]
    fn token(&self, batch: usize, t: usize) -> Option<&'a [E]> {
        match t.checked_sub(self.taps - 1) {
            Some(t) => Some(self.x.run([batch, t, 0], self.channels)),
            None => self.past.map(|past| past.run([batch, t, 0], self.channels)),
        }
    }

    fn tap(&self, tap: usize) -> &[E] {
        &self.weight[tap * self.channels..][..self.channels]
    }

    /// The sum of token `t` before SiLU.
    #[inline(always)]
    fn sum(&self, batch: usize, t: usize, sum: &mut [E]) {
        sum.copy_from_slice(&self.bias);
        for tap in 0..self.taps {
            if let Some(x) = self.token(batch, t + tap) {
                add_product(sum, self.tap(tap), x);
            }
        }
    }

    /// The gradient of input `t` (counted as in [`token`](Self::token)) from those of the sums of tokens
    /// `first ..`: tap `j` of token `t − j` sees it.
    #[inline(always)]
    fn gather(&self, t: usize, d_sums: &[E], first: usize, to: &mut [E]) {
        to.fill(E::ZERO);
        for tap in 0..self.taps {
            if let Some(t) = t.checked_sub(tap).filter(|&t| t < self.time) {
                add_product(to, self.tap(tap), &d_sums[(t - first) * self.channels..][..self.channels]);
            }
        }
    }
}

/// `to += a ∘ b`.
#[inline(always)]
fn add_product<E: Real>(to: &mut [E], a: &[E], b: &[E]) {
    to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to += *a * *b);
}

fn forward<E: Real>(inputs: &Inputs) -> FlexTensor {
    let x = Views::<E>::of(inputs);
    let Views { batch, time, channels, .. } = x;
    let mut out = buffer::<E>(batch * time * channels);
    {
        let out = Shared::new(&mut out);
        x.for_units(|_, b, run| {
            // SAFETY: the tokens of this unit are its own.
            let out = unsafe { out.part((b * time + run.start) * channels, run.len() * channels) };
            vectorised(
                #[inline(always)]
                || {
                    for (y, t) in out.chunks_exact_mut(channels).zip(run) {
                        x.sum(b, t, y);
                        y.iter_mut().for_each(|y| *y = y.silu());
                    }
                },
            );
        });
    }
    output(out, [batch, time, channels])
}

fn backward<E: Real>(
    inputs: &Inputs,
    gradient: &FlexTensor,
    [_, want_weight, want_bias, want_past]: [bool; 4],
) -> Inputs {
    let x = Views::<E>::of(inputs);
    let Views { batch, time, channels, taps, .. } = x;
    let kept = taps - 1;
    let dy = Strided::<E, 3>::of(gradient);
    let mut d_x = buffer::<E>(batch * time * channels);
    // Zeros where there is no token that could write it.
    let mut d_past = vec![E::ZERO; if want_past { batch * kept * channels } else { 0 }];
    // The taps and the bias of every unit, joined in order: the result depends on no thread.
    let width = (taps + 1) * channels;
    let mut d_kernel = vec![E::ZERO; x.units() * width];
    {
        let (d_x, d_past) = (Shared::new(&mut d_x), Shared::new(&mut d_past));
        let d_kernel = Shared::new(&mut d_kernel);
        x.for_units(|unit, b, run| {
            let reach = time.min(run.end + kept);
            with_scratch::<E, _>(&[(reach - run.start) * channels], |mut scratch| {
                let d_sums = &mut *scratch[0];
                // SAFETY: the tokens of this unit and its sums are its own; the past is the first unit's.
                let (d_x, d_kernel, d_past) = unsafe {
                    let past = if want_past && run.start == 0 { kept * channels } else { 0 };
                    let d_x = d_x.part((b * time + run.start) * channels, run.len() * channels);
                    (d_x, d_kernel.part(unit * width, width), d_past.part(b * past, past))
                };
                let (d_taps, d_bias) = d_kernel.split_at_mut(taps * channels);
                vectorised(
                    #[inline(always)]
                    || {
                        for (d_sum, t) in d_sums.chunks_exact_mut(channels).zip(run.start..reach) {
                            x.sum(b, t, d_sum);
                            let dy = dy.run([b, t, 0], channels);
                            d_sum.iter_mut().zip(dy).for_each(|(s, dy)| *s = *dy * s.silu_slope());
                            if t >= run.end {
                                continue;
                            }
                            d_bias.iter_mut().zip(&*d_sum).for_each(|(d, s)| *d += *s);
                            for (tap, d_tap) in d_taps.chunks_exact_mut(channels).enumerate() {
                                if let Some(x) = x.token(b, t + tap) {
                                    add_product(d_tap, d_sum, x);
                                }
                            }
                        }
                        d_past
                            .chunks_exact_mut(channels)
                            .enumerate()
                            .for_each(|(t, to)| x.gather(t, d_sums, run.start, to));
                        d_x.chunks_exact_mut(channels)
                            .zip(run.clone())
                            .for_each(|(to, t)| x.gather(kept + t, d_sums, run.start, to));
                    },
                );
            });
        });
    }
    let mut sum = vec![E::ZERO; width];
    d_kernel.chunks_exact(width).for_each(|part| sum.iter_mut().zip(part).for_each(|(a, b)| *a += *b));
    let d_weight = (0..channels * taps).map(|i| sum[i % taps * channels + i / taps]).collect();
    [
        Some(output(d_x, [batch, time, channels])),
        want_weight.then(|| output(d_weight, [channels, taps])),
        want_bias.then(|| output(sum[taps * channels..].to_vec(), [channels])),
        want_past.then(|| output(d_past, [batch, kept, channels])),
    ]
}
