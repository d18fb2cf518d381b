//! Three products on all threads: `y = x Wᵀ`, `dx = dy W`, `dW = dyᵀ x`, each into memory of its own
//! and in the order in which it is kept.

use crate::cpu::{
    MatMut, Real, Shared, Strided, as_rows, buffer, dot, for_each, forwards, output, output_like, threads_for,
    vectorised, wide_product, with_real,
};
use crate::operator::Operator;
use burn_backend::TensorMetadata;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The inputs are `x, weight, bias`.
#[derive(Clone, Debug)]
pub struct Linear;

#[derive(Clone, Debug)]
pub struct Saved {
    /// `[tokens, in]`.
    x: FlexTensor,
    weight: FlexTensor,
    shape: Vec<usize>,
}

impl Operator<Flex, 3> for Linear {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [Option<FlexTensor>; 3]) -> (FlexTensor, Saved) {
        let (x, weight) = (x.expect("tokens"), weight.expect("a weight"));
        let shape = x.shape().to_vec();
        let saved = Saved { x: as_rows(x), weight: forwards(weight), shape };
        let y = with_real!(saved.x.dtype(), E => forward::<E>(&saved, bias.map(forwards)));
        (y, saved)
    }

    fn backward(&self, saved: Saved, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let gradient = as_rows(gradient);
        with_real!(gradient.dtype(), E => backward::<E>(&saved, &gradient, wanted))
    }
}

fn forward<E: Real>(saved: &Saved, bias: Option<FlexTensor>) -> FlexTensor {
    let (x, weight) = (Strided::<E, 2>::of(&saved.x), Strided::<E, 2>::of(&saved.weight));
    let ([tokens, _], [out, _]) = (x.shape, weight.shape);
    let bias = bias.as_ref().map(|bias| Strided::<E, 1>::of(bias).run([0], out));
    let mut y = buffer::<E>(tokens * out);
    if tokens <= FEW {
        few_tokens(&mut y, x, weight, bias);
    } else {
        if let Some(bias) = bias {
            y.chunks_exact_mut(out).for_each(|row| row.copy_from_slice(bias));
        }
        let old = if bias.is_some() { E::ONE } else { E::ZERO };
        let to = MatMut::dense(&mut y, tokens, out);
        wide_product(to, old, E::ONE, x.matrix([0, 0]), weight.matrix([0, 0]).transposed());
    }
    let mut shape = saved.shape.clone();
    *shape.last_mut().expect("an axis") = out;
    output_like(y, &shape)
}

/// Up to as many tokens are multiplied without rearranging the weight first.
const FEW: usize = 4;

/// Reads the weight once, as it lies: what takes the time when a token is decoded.
fn few_tokens<E: Real>(y: &mut [E], x: Strided<'_, E, 2>, weight: Strided<'_, E, 2>, bias: Option<&[E]>) {
    let ([tokens, width], out) = (x.shape, weight.shape[0]);
    let xs: Vec<&[E]> = (0..tokens).map(|t| x.run([t, 0], width)).collect();
    let parts = threads_for(tokens * out * width).min(out);
    let y = Shared::new(y);
    for_each(parts, out * width, |part| {
        let rows = part * out / parts..(part + 1) * out / parts;
        vectorised(
            #[inline(always)]
            || {
                for (t, x) in xs.iter().enumerate() {
                    // SAFETY: these rows of this token are this part's own.
                    let y = unsafe { y.part(t * out + rows.start, rows.len()) };
                    for (o, y) in rows.clone().zip(y) {
                        *y = dot(weight.run([o, 0], width), x) + bias.map_or(E::ZERO, |bias| bias[o]);
                    }
                }
            },
        );
    });
}

fn backward<E: Real>(saved: &Saved, gradient: &FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
    let (x, weight) = (Strided::<E, 2>::of(&saved.x), Strided::<E, 2>::of(&saved.weight));
    let ([tokens, width], [out, _]) = (x.shape, weight.shape);
    let dy = Strided::<E, 2>::of(gradient);
    let d_x = wanted[0].then(|| {
        let mut d_x = buffer::<E>(tokens * width);
        let to = MatMut::dense(&mut d_x, tokens, width);
        wide_product(to, E::ZERO, E::ONE, dy.matrix([0, 0]), weight.matrix([0, 0]));
        output_like(d_x, &saved.shape)
    });
    let d_weight = wanted[1].then(|| {
        let mut d_weight = buffer::<E>(out * width);
        let to = MatMut::dense(&mut d_weight, out, width);
        wide_product(to, E::ZERO, E::ONE, dy.matrix([0, 0]).transposed(), x.matrix([0, 0]));
        output(d_weight, [out, width])
    });
    let d_bias = wanted[2].then(|| {
        let mut d_bias = vec![E::ZERO; out];
        vectorised(
            #[inline(always)]
            || (0..tokens).for_each(|t| d_bias.iter_mut().zip(dy.run([t, 0], out)).for_each(|(d, g)| *d += *g)),
        );
        output(d_bias, [out])
    });
    [d_x, d_weight, d_bias]
}
