//! A row at a time: the sum of its squares, then the normed row, while it lies in the nearest cache.
//!
//! With `u` the row (gated before), `r = 1 / √(mean(u²) + ε)` and `w` the factors, `n = r w ∘ u`, and from
//! its gradient: `dw += r dn ∘ u`, `du = r (w ∘ dn) − r³ mean(u ∘ w ∘ dn) u`. Where the row is a sum, which is given back
//! too, the gradient of the sum is added to `du`.

use super::{Activation, Beside, GatePlace};
use crate::cpu::{Real, Rows, Shared, Strided, buffer, dot, forwards, output, vectorised, with_real, with_scratch};
use crate::operator::{Operator, Second};
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The inputs are `x, weight, z`, where `z` is what stands [`Beside`] `x`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub eps: f64,
    /// The mean of the squares, or their sum.
    pub mean: bool,
    /// The factors are `scale · (weight + offset)`; without a weight, `scale`.
    pub offset: f64,
    pub scale: f64,
    pub beside: Option<Beside>,
}

/// A norm of `x + z`, which is the second output.
#[derive(Clone, Debug)]
pub struct AddNorm {
    pub norm: Norm,
    pub sum: Second<Flex>,
}

#[derive(Clone, Debug)]
pub struct Saved {
    /// With the sum in the place of `x` where there is one, and no `z` beside it.
    inputs: [Option<FlexTensor>; 3],
    /// `r` of every row, in the order of [`Rows`].
    inverse: FlexTensor,
}

impl Operator<Flex, 3> for Norm {
    type Saved = Saved;

    fn forward(&self, inputs: [Option<FlexTensor>; 3]) -> (FlexTensor, Saved) {
        let inputs = inputs.map(|x| x.map(forwards));
        let dtype = x_of(&inputs).dtype();
        with_real!(dtype, E => forward::<E>(self, inputs))
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let gradient = forwards(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(self, &saved, &gradient, None, wanted))
    }
}

impl Operator<Flex, 3> for AddNorm {
    type Saved = Saved;

    fn forward(&self, inputs: [Option<FlexTensor>; 3]) -> (FlexTensor, Saved) {
        let (out, saved) = self.norm.forward(inputs);
        self.sum.put(x_of(&saved.inputs).clone());
        (out, saved)
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, [_, want_weight, _]: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let (gradient, of_sum) = (forwards(gradient), self.sum.gradient().map(forwards));
        let wanted = [true, want_weight, false];
        let [d_x, d_weight, _] =
            with_real!(gradient.dtype(), E => backward::<E>(&self.norm, &saved, &gradient, of_sum, wanted));
        [d_x.clone(), d_weight, d_x]
    }
}

fn x_of(inputs: &[Option<FlexTensor>; 3]) -> &FlexTensor {
    inputs[0].as_ref().expect("an input")
}

impl Norm {
    fn factors<E: Real>(&self, weight: &Option<FlexTensor>, width: usize) -> Vec<E> {
        let (scale, offset) = (E::of(self.scale), E::of(self.offset));
        match weight {
            Some(weight) => Strided::<E, 1>::of(weight).run([0], width).iter().map(|w| scale * (*w + offset)).collect(),
            None => vec![scale; width],
        }
    }

    fn gate(&self) -> Option<(Activation, GatePlace)> {
        self.beside.and_then(Beside::gate)
    }

    /// What the sum of squares is multiplied by.
    fn share<E: Real>(&self, width: usize) -> E {
        if self.mean { E::ONE / E::of(width as f64) } else { E::ONE }
    }
}

impl Activation {
    /// `row ∘ φ(z)`, in its place.
    #[inline(always)]
    fn scale<E: Real>(self, z: &[E], row: &mut [E]) {
        let rows = row.iter_mut().zip(z);
        match self {
            Self::Sigmoid => rows.for_each(|(x, z)| *x *= z.sigmoid()),
            Self::Silu => rows.for_each(|(x, z)| *x *= z.silu()),
        }
    }

    /// `φ(z)` and its derivative.
    #[inline(always)]
    fn with_slope<E: Real>(self, z: &[E], values: &mut [E], slopes: &mut [E]) {
        for ((value, slope), z) in values.iter_mut().zip(slopes).zip(z) {
            (*value, *slope) = match self {
                Self::Sigmoid => (z.sigmoid(), z.sigmoid() * (E::ONE - z.sigmoid())),
                Self::Silu => (z.silu(), z.silu_slope()),
            };
        }
    }
}

fn forward<E: Real>(norm: &Norm, mut inputs: [Option<FlexTensor>; 3]) -> (FlexTensor, Saved) {
    let rows = Rows::of(x_of(&inputs));
    let width = rows.width();
    let factors = norm.factors::<E>(&inputs[1], width);
    let (share, eps) = (norm.share::<E>(width), E::of(norm.eps));
    let mut out = buffer::<E>(rows.count() * width);
    let mut inverse = buffer::<E>(rows.count());
    let adds = norm.beside == Some(Beside::Residual);
    let mut sums = buffer::<E>(if adds { out.len() } else { 0 });
    {
        let (out, inverse, sums) = (Shared::new(&mut out), Shared::new(&mut inverse), Shared::new(&mut sums));
        let x = Strided::<E, 4>::of(x_of(&inputs));
        let z = inputs[2].as_ref().map(Strided::<E, 4>::of);
        rows.for_units(|_, unit| {
            // SAFETY: the rows of this unit are its own.
            let (out, inverse, sums) = unsafe {
                let (start, length) = (unit.start * width, unit.len() * width);
                let sums = if adds { sums.part(start, length) } else { sums.part(0, 0) };
                (out.part(start, length), inverse.part(unit.start, unit.len()), sums)
            };
            vectorised(
                #[inline(always)]
                || {
                    rows.each(
                        unit,
                        #[inline(always)]
                        |row, index| {
                            let place = row * width..(row + 1) * width;
                            let (x, y) = (x.run(index, width), &mut out[place.clone()]);
                            let beside = z.map(|z| z.run(index, width)).zip(norm.beside);
                            let r = match beside {
                                Some((z, Beside::Residual)) => {
                                    let sum = &mut sums[place];
                                    sum.iter_mut().zip(x).zip(z).for_each(|((sum, x), z)| *sum = *x + *z);
                                    let r = inverse_root(sum, share, eps);
                                    y.iter_mut().zip(&*sum).zip(&factors).for_each(|((y, x), w)| *y = r * *w * *x);
                                    r
                                }
                                Some((z, Beside::Gate(activation, GatePlace::Before))) => {
                                    y.copy_from_slice(x);
                                    activation.scale(z, y);
                                    let r = inverse_root(y, share, eps);
                                    y.iter_mut().zip(&factors).for_each(|(y, w)| *y = r * *w * *y);
                                    r
                                }
                                _ => {
                                    let r = inverse_root(x, share, eps);
                                    y.iter_mut().zip(x).zip(&factors).for_each(|((y, x), w)| *y = r * *w * *x);
                                    r
                                }
                            };
                            if let Some((z, Beside::Gate(activation, GatePlace::After))) = beside {
                                activation.scale(z, y);
                            }
                            inverse[row] = r;
                        },
                    )
                },
            );
        });
    }
    let inverse = output(inverse, [rows.count()]);
    if adds {
        (inputs[0], inputs[2]) = (Some(rows.output(sums)), None);
    }
    (rows.output(out), Saved { inputs, inverse })
}

fn backward<E: Real>(
    norm: &Norm,
    saved: &Saved,
    gradient: &FlexTensor,
    of_sum: Option<FlexTensor>,
    [_, want_weight, want_z]: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let x = x_of(&saved.inputs);
    let rows = Rows::of(x);
    let width = rows.width();
    let factors = norm.factors::<E>(&saved.inputs[1], width);
    let share = norm.share::<E>(width);
    let inverse: &[E] = saved.inverse.storage();
    let mut d_x = buffer::<E>(rows.count() * width);
    let mut d_z = buffer::<E>(if want_z { d_x.len() } else { 0 });
    // Every unit has a sum of its own, and they are joined in order: the result depends on no thread.
    let mut d_weight = vec![E::ZERO; if want_weight { rows.units() * width } else { 0 }];
    {
        let (d_x, d_z, d_weight) = (Shared::new(&mut d_x), Shared::new(&mut d_z), Shared::new(&mut d_weight));
        let (x, dy) = (Strided::<E, 4>::of(x), Strided::<E, 4>::of(gradient));
        let z = saved.inputs[2].as_ref().map(Strided::<E, 4>::of);
        let of_sum = of_sum.as_ref().map(Strided::<E, 4>::of);
        let gated = if norm.gate().is_some() { width } else { 0 };
        rows.for_units(|number, unit| {
            let inverse = &inverse[unit.clone()];
            let (start, length) = (unit.start * width, unit.len() * width);
            let whole = |wanted: bool, start, length| if wanted { (start, length) } else { (0, 0) };
            let (z_part, weight_part) = (whole(want_z, start, length), whole(want_weight, number * width, width));
            // SAFETY: the rows of this unit and its sum are its own.
            let (d_x, d_z, d_weight) = unsafe {
                let d_weight = d_weight.part(weight_part.0, weight_part.1);
                (d_x.part(start, length), d_z.part(z_part.0, z_part.1), d_weight)
            };
            with_scratch::<E, _>(&[gated, gated, gated], |mut scratch| {
                let [value, slope, changed] = &mut scratch[..] else { unreachable!() };
                vectorised(
                    #[inline(always)]
                    || {
                        rows.each(
                            unit,
                            #[inline(always)]
                            |row, index| {
                                let (x, dy) = (x.run(index, width), dy.run(index, width));
                                let (r, place) = (inverse[row], row * width..(row + 1) * width);
                                let d_x = &mut d_x[place.clone()];
                                let Some((z, (activation, gate))) = z.zip(norm.gate()) else {
                                    through_norm(x, dy, &factors, r, share, d_weight, d_x);
                                    if let Some(of_sum) = of_sum {
                                        let of_sum = of_sum.run(index, width);
                                        d_x.iter_mut().zip(of_sum).for_each(|(d_x, d_sum)| *d_x += *d_sum);
                                    }
                                    return;
                                };
                                activation.with_slope(z.run(index, width), value, slope);
                                let (to_change, other) = if gate == GatePlace::Before { (x, dy) } else { (dy, x) };
                                changed.iter_mut().zip(to_change).zip(&**value).for_each(|((c, x), v)| *c = *x * *v);
                                match gate {
                                    GatePlace::Before => {
                                        through_norm(changed, other, &factors, r, share, d_weight, d_x);
                                        if want_z {
                                            let d_z = d_z[place].iter_mut().zip(&*d_x);
                                            d_z.zip(x).zip(&**slope).for_each(|(((z, du), x), s)| *z = *du * *x * *s);
                                        }
                                        d_x.iter_mut().zip(&**value).for_each(|(d_x, v)| *d_x *= *v);
                                    }
                                    GatePlace::After => {
                                        through_norm(x, changed, &factors, r, share, d_weight, d_x);
                                        if want_z {
                                            let d_z = d_z[place].iter_mut().zip(dy).zip(x);
                                            d_z.zip(&factors)
                                                .zip(&**slope)
                                                .for_each(|((((z, dy), x), w), s)| *z = *dy * *x * r * *w * *s);
                                        }
                                    }
                                }
                            },
                        )
                    },
                );
            });
        });
    }
    let d_weight = want_weight.then(|| {
        let mut sum = vec![E::ZERO; width];
        let scale = E::of(norm.scale);
        d_weight.chunks(width).for_each(|part| sum.iter_mut().zip(part).for_each(|(a, b)| *a += scale * *b));
        output(sum, [width])
    });
    [Some(rows.output(d_x)), d_weight, want_z.then(|| rows.output(d_z))]
}

/// `r` of the row `u`.
#[inline(always)]
fn inverse_root<E: Real>(u: &[E], share: E, eps: E) -> E {
    E::ONE / (dot(u, u) * share + eps).sqrt()
}

/// The gradient `du` of a row `u` from that of its norm, and its part of the weight's, where there is one.
#[inline(always)]
fn through_norm<E: Real>(u: &[E], dn: &[E], w: &[E], r: E, share: E, d_weight: &mut [E], du: &mut [E]) {
    du.iter_mut().zip(dn).zip(w).for_each(|((du, dn), w)| *du = *dn * *w);
    let back = r * r * r * share * dot(du, u);
    du.iter_mut().zip(u).for_each(|(du, u)| *du = r * *du - back * *u);
    d_weight.iter_mut().zip(dn).zip(u).for_each(|((d, dn), u)| *d += r * *dn * *u);
}
