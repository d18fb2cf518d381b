//! A row at a time; the gradient is turned back by the same angles.

use super::Pairs;
use crate::cpu::{Real, Rows, Shared, Strided, buffer, forwards, vectorised, with_real};
use crate::operator::Operator;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The inputs are `x, cos, sin`.
#[derive(Clone, Debug)]
pub struct Rotate {
    pub pairs: Pairs,
}

impl Operator<Flex, 3> for Rotate {
    /// The tables.
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [Option<FlexTensor>; 3]) -> (FlexTensor, Self::Saved) {
        let [x, cos, sin] = inputs.map(|x| forwards(x.expect("an input and its tables")));
        let tables = [cos, sin];
        (with_real!(x.dtype(), E => rotate::<E>(self.pairs, &x, &tables, E::ONE)), tables)
    }

    fn backward(&self, tables: Self::Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let gradient = forwards(gradient);
        let back = with_real!(gradient.dtype(), E => rotate::<E>(self.pairs, &gradient, &tables, -E::ONE));
        [Some(back), None, None]
    }
}

/// `direction` is 1, or −1 to turn back.
fn rotate<E: Real>(pairs: Pairs, x: &FlexTensor, [cos, sin]: &[FlexTensor; 2], direction: E) -> FlexTensor {
    let rows = Rows::of(x);
    let width = rows.width();
    let mut out = buffer::<E>(rows.count() * width);
    {
        let out = Shared::new(&mut out);
        let x = Strided::<E, 4>::of(x);
        let (cos, sin) = (Strided::<E, 2>::of(cos), Strided::<E, 2>::of(sin));
        let half = cos.shape[1];
        rows.for_units(|_, unit| {
            // SAFETY: the rows of this unit are its own.
            let out = unsafe { out.part(unit.start * width, unit.len() * width) };
            vectorised(
                #[inline(always)]
                || {
                    rows.each(
                        unit,
                        #[inline(always)]
                        |row, index| {
                            let (x, y) = (x.run(index, width), &mut out[row * width..][..width]);
                            let (cos, sin) = (cos.run([index[2], 0], half), sin.run([index[2], 0], half));
                            y[2 * half..].copy_from_slice(&x[2 * half..]);
                            match pairs {
                                Pairs::HalfSplit => half_split(x, y, cos, sin, direction),
                                Pairs::Interleaved => interleaved(x, y, cos, sin, direction),
                            }
                        },
                    )
                },
            );
        });
    }
    rows.output(out)
}

#[inline(always)]
fn half_split<E: Real>(x: &[E], y: &mut [E], cos: &[E], sin: &[E], direction: E) {
    let half = cos.len();
    let (x1, x2) = (&x[..half], &x[half..2 * half]);
    let (y1, y2) = y[..2 * half].split_at_mut(half);
    for j in 0..half {
        let (c, s) = (cos[j], direction * sin[j]);
        y1[j] = x1[j] * c - x2[j] * s;
        y2[j] = x2[j] * c + x1[j] * s;
    }
}

#[inline(always)]
fn interleaved<E: Real>(x: &[E], y: &mut [E], cos: &[E], sin: &[E], direction: E) {
    let pairs = y.chunks_exact_mut(2).zip(x.chunks_exact(2));
    for ((y, x), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
        let s = direction * *sin;
        y[0] = x[0] * *cos - x[1] * s;
        y[1] = x[1] * *cos + x[0] * s;
    }
}
