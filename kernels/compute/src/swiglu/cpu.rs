//! One pass over both factors, and one back.

use crate::cpu::{Real, Rows, Shared, Strided, buffer, forwards, vectorised, with_real};
use crate::operator::Operator;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The inputs are `gate, up`.
#[derive(Clone, Debug)]
pub struct SwiGlu;

impl Operator<Flex, 2> for SwiGlu {
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [Option<FlexTensor>; 2]) -> (FlexTensor, Self::Saved) {
        let inputs = inputs.map(|x| forwards(x.expect("both factors")));
        (with_real!(inputs[0].dtype(), E => forward::<E>(&inputs)), inputs)
    }

    fn backward(&self, inputs: Self::Saved, gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let gradient = forwards(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(&inputs, &gradient)).map(Some)
    }
}

fn forward<E: Real>(inputs: &[FlexTensor; 2]) -> FlexTensor {
    let rows = Rows::of(&inputs[0]);
    let width = rows.width();
    let mut out = buffer::<E>(rows.count() * width);
    {
        let out = Shared::new(&mut out);
        let [gate, up] = inputs.each_ref().map(Strided::<E, 4>::of);
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
                            let (gate, up) = (gate.run(index, width), up.run(index, width));
                            let out = out[row * width..][..width].iter_mut().zip(gate).zip(up);
                            out.for_each(|((out, gate), up)| *out = gate.silu() * *up);
                        },
                    )
                },
            );
        });
    }
    rows.output(out)
}

fn backward<E: Real>(inputs: &[FlexTensor; 2], gradient: &FlexTensor) -> [FlexTensor; 2] {
    let rows = Rows::of(&inputs[0]);
    let width = rows.width();
    let [mut d_gate, mut d_up] = [0; 2].map(|_| buffer::<E>(rows.count() * width));
    {
        let (d_gate, d_up) = (Shared::new(&mut d_gate), Shared::new(&mut d_up));
        let [gate, up] = inputs.each_ref().map(Strided::<E, 4>::of);
        let dy = Strided::<E, 4>::of(gradient);
        rows.for_units(|_, unit| {
            let (start, length) = (unit.start * width, unit.len() * width);
            // SAFETY: the rows of this unit are its own.
            let (d_gate, d_up) = unsafe { (d_gate.part(start, length), d_up.part(start, length)) };
            vectorised(
                #[inline(always)]
                || {
                    rows.each(
                        unit,
                        #[inline(always)]
                        |row, index| {
                            let [gate, up, dy] = [gate, up, dy].map(|x| x.run(index, width));
                            let to = row * width..(row + 1) * width;
                            let to = d_gate[to.clone()].iter_mut().zip(&mut d_up[to]);
                            for ((d_gate, d_up), ((gate, up), dy)) in to.zip(gate.iter().zip(up).zip(dy)) {
                                *d_gate = *dy * *up * gate.silu_slope();
                                *d_up = *dy * gate.silu();
                            }
                        },
                    )
                },
            );
        });
    }
    [rows.output(d_gate), rows.output(d_up)]
}
