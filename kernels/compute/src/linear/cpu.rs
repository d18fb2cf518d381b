//! Three products on all threads: `y = x Wᵀ`, `dx = dy W`, `dW = dyᵀ x`, each into memory of its own
//! and in the order in which it is kept. Of several matrices on the same tokens, `dx` is one sum.

use crate::cpu::{
    MatMut, Real, Shared, Strided, as_rows, buffer, dot, for_each, forwards, output, output_like, threads_for,
    vectorised, wide_product, with_real,
};
use crate::operator::{Operator, Second};
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

/// The most matrices that are applied at once.
pub const MOST: usize = 8;

/// The inputs are `x` and up to [`MOST`] matrices. The output is nothing; what there is stands beside it.
#[derive(Clone, Debug)]
pub struct Several {
    pub outputs: Vec<Second<Flex>>,
}

#[derive(Clone, Debug)]
pub struct SavedSeveral {
    /// `[tokens, in]`.
    x: FlexTensor,
    weights: Vec<FlexTensor>,
    shape: Vec<usize>,
}

impl Operator<Flex, { 1 + MOST }> for Several {
    type Saved = SavedSeveral;

    fn forward(&self, inputs: [Option<FlexTensor>; 1 + MOST]) -> (FlexTensor, SavedSeveral) {
        let mut inputs = inputs.into_iter().flatten();
        let x = inputs.next().expect("tokens");
        let shape = x.shape().to_vec();
        let saved = SavedSeveral { x: as_rows(x), weights: inputs.map(forwards).collect(), shape };
        let nothing = with_real!(saved.x.dtype(), E => {
            for (y, to) in forward_all::<E>(&saved).into_iter().zip(&self.outputs) {
                to.put(y);
            }
            output(vec![E::ZERO], [1])
        });
        (nothing, saved)
    }

    fn backward(
        &self,
        saved: SavedSeveral,
        _nothing: FlexTensor,
        wanted: [bool; 1 + MOST],
    ) -> [Option<FlexTensor>; 1 + MOST] {
        let gradients: Vec<_> = self.outputs.iter().map(|y| y.gradient().map(as_rows)).collect();
        with_real!(saved.x.dtype(), E => backward_all::<E>(&saved, &gradients, wanted))
    }
}

fn forward_all<E: Real>(saved: &SavedSeveral) -> Vec<FlexTensor> {
    let x = Strided::<E, 2>::of(&saved.x);
    let tokens = x.shape[0];
    let weights: Vec<_> = saved.weights.iter().map(Strided::<E, 2>::of).collect();
    let mut all: Vec<Vec<E>> = weights.iter().map(|weight| buffer(tokens * weight.shape[0])).collect();
    if tokens <= FEW {
        let to = all.iter_mut().zip(&weights).map(|(y, weight)| (Shared::new(y), *weight, None));
        few_tokens(&to.collect::<Vec<_>>(), x);
    } else {
        for (y, weight) in all.iter_mut().zip(&weights) {
            let to = MatMut::dense(y, tokens, weight.shape[0]);
            wide_product(to, E::ZERO, E::ONE, x.matrix([0, 0]), weight.matrix([0, 0]).transposed());
        }
    }
    let shaped = |(y, weight): (_, &Strided<'_, E, 2>)| output_like(y, &with_last(&saved.shape, weight.shape[0]));
    all.into_iter().zip(&weights).map(shaped).collect()
}

fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    *shape.last_mut().expect("an axis") = last;
    shape
}

fn backward_all<E: Real>(
    saved: &SavedSeveral,
    gradients: &[Option<FlexTensor>],
    wanted: [bool; 1 + MOST],
) -> [Option<FlexTensor>; 1 + MOST] {
    let x = Strided::<E, 2>::of(&saved.x);
    let [tokens, width] = x.shape;
    let weights: Vec<_> = saved.weights.iter().map(Strided::<E, 2>::of).collect();
    // The loss need not depend on all.
    let gradients: Vec<_> = gradients.iter().map(|dy| dy.as_ref().map(Strided::<E, 2>::of)).collect();
    let mut results = [const { None }; 1 + MOST];
    results[0] = wanted[0].then(|| {
        let mut d_x = buffer::<E>(tokens * width);
        let mut old = E::ZERO;
        for (dy, weight) in gradients.iter().zip(&weights).filter_map(|(dy, weight)| dy.map(|dy| (dy, weight))) {
            let to = MatMut::dense(&mut d_x, tokens, width);
            wide_product(to, old, E::ONE, dy.matrix([0, 0]), weight.matrix([0, 0]));
            old = E::ONE;
        }
        output_like(d_x, &saved.shape)
    });
    for (number, (dy, weight)) in gradients.iter().zip(&weights).enumerate() {
        results[1 + number] = wanted[1 + number].then(|| match dy {
            Some(dy) => of_weight(x, *dy),
            None => output(vec![E::ZERO; weight.shape[0] * width], weight.shape),
        });
    }
    results
}

/// `dW = dyᵀ x`.
fn of_weight<E: Real>(x: Strided<'_, E, 2>, dy: Strided<'_, E, 2>) -> FlexTensor {
    let ([_, width], [_, out]) = (x.shape, dy.shape);
    let mut d_weight = buffer::<E>(out * width);
    let to = MatMut::dense(&mut d_weight, out, width);
    wide_product(to, E::ZERO, E::ONE, dy.matrix([0, 0]).transposed(), x.matrix([0, 0]));
    output(d_weight, [out, width])
}

fn forward<E: Real>(saved: &Saved, bias: Option<FlexTensor>) -> FlexTensor {
    let (x, weight) = (Strided::<E, 2>::of(&saved.x), Strided::<E, 2>::of(&saved.weight));
    let ([tokens, _], [out, _]) = (x.shape, weight.shape);
    let bias = bias.as_ref().map(|bias| Strided::<E, 1>::of(bias).run([0], out));
    let mut y = buffer::<E>(tokens * out);
    if tokens <= FEW {
        few_tokens(&[(Shared::new(&mut y), weight, bias)], x);
    } else {
        if let Some(bias) = bias {
            y.chunks_exact_mut(out).for_each(|row| row.copy_from_slice(bias));
        }
        let old = if bias.is_some() { E::ONE } else { E::ZERO };
        let to = MatMut::dense(&mut y, tokens, out);
        wide_product(to, old, E::ONE, x.matrix([0, 0]), weight.matrix([0, 0]).transposed());
    }
    output_like(y, &with_last(&saved.shape, out))
}

/// Up to as many tokens are multiplied without rearranging the weight first.
const FEW: usize = 4;

/// Reads every weight once, as it lies: what takes the time when a token is decoded. The matrices are shared
/// out as if they were one.
#[allow(clippy::type_complexity)]
fn few_tokens<E: Real>(all: &[(Shared<'_, E>, Strided<'_, E, 2>, Option<&[E]>)], x: Strided<'_, E, 2>) {
    let [tokens, width] = x.shape;
    let xs: Vec<&[E]> = (0..tokens).map(|t| x.run([t, 0], width)).collect();
    let outs: usize = all.iter().map(|(_, weight, _)| weight.shape[0]).sum();
    let parts = threads_for(tokens * outs * width).min(outs);
    for_each(parts, outs * width, |part| {
        let mine = part * outs / parts..(part + 1) * outs / parts;
        let mut first = 0;
        for (y, weight, bias) in all {
            let out = weight.shape[0];
            let rows = mine.start.clamp(first, first + out) - first..mine.end.clamp(first, first + out) - first;
            first += out;
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
        }
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
    let d_weight = wanted[1].then(|| of_weight(x, dy));
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
