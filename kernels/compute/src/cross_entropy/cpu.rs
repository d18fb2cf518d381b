//! Some rows of logits at a time, which stay in cache: their softmax gives the loss, and becomes in
//! place the gradient of the logits, so that the gradients of both inputs are summed at once. What
//! arrives in the backward is one number, which multiplies them.

use crate::cpu::{
    Mat, MatMut, Real, Shared, Strided, as_rows, buffer, for_each, forwards, maximum, output, sum, vectorised,
    wide_product, with_real,
};
use crate::operator::Operator;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The inputs are `hidden, weight`.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    pub targets: Vec<i32>,
    pub weights: Vec<f32>,
    /// Whether there will be a backward.
    pub gradients: bool,
    /// Rows of logits at a time, where somebody has an opinion.
    pub chunk: Option<usize>,
}

impl CrossEntropy {
    /// The tokens that count, and the share of each in the mean.
    pub fn counted(&self) -> (Vec<usize>, Vec<f64>) {
        let counted: Vec<usize> = (0..self.weights.len()).filter(|&t| self.weights[t] != 0.0).collect();
        let total: f64 = counted.iter().map(|&t| f64::from(self.weights[t])).sum();
        let means = counted.iter().map(|&t| f64::from(self.weights[t]) / total).collect();
        (counted, means)
    }
}

impl Operator<Flex, 2> for CrossEntropy {
    /// The gradients of both inputs, as if 1 arrived.
    type Saved = Option<[FlexTensor; 2]>;

    fn forward(&self, [hidden, weight]: [Option<FlexTensor>; 2]) -> (FlexTensor, Self::Saved) {
        let (hidden, weight) = (as_rows(hidden.expect("tokens")), forwards(weight.expect("an output matrix")));
        with_real!(hidden.dtype(), E => forward::<E>(self, &hidden, &weight))
    }

    fn backward(&self, saved: Self::Saved, gradient: FlexTensor, wanted: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let mut wanted = wanted.into_iter();
        let saved = saved.expect("gradients are asked for where they will be wanted");
        saved.map(|x| {
            let wanted = wanted.next().expect("an answer for each");
            wanted.then(|| with_real!(gradient.dtype(), E => scaled::<E>(x, Strided::of(&gradient).at([0]))))
        })
    }
}

fn scaled<E: Real>(mut x: FlexTensor, factor: E) -> FlexTensor {
    if factor != E::ONE {
        let values: &mut [E] = x.storage_mut();
        let (count, all) = (values.len(), Shared::new(values));
        for_each(count.div_ceil(PART), count, |part| {
            let start = part * PART;
            // SAFETY: every part is one unit's own.
            let values = unsafe { all.part(start, PART.min(count - start)) };
            values.iter_mut().for_each(|x| *x *= factor);
        });
    }
    x
}

/// Numbers that a thread takes at a time.
const PART: usize = 16_384;
/// Numbers in a chunk of logits, if that is not less than 256 rows: beyond that the output matrix would
/// be read too often.
const CHUNK: usize = 1 << 19;

fn forward<E: Real>(
    options: &CrossEntropy,
    hidden: &FlexTensor,
    weight: &FlexTensor,
) -> (FlexTensor, Option<[FlexTensor; 2]>) {
    let (all, weight) = (Strided::<E, 2>::of(hidden), Strided::<E, 2>::of(weight));
    let ([tokens, d], [vocab, _]) = (all.shape, weight.shape);
    let (counted, means) = options.counted();
    let count = counted.len();
    let gathered = (count < tokens).then(|| {
        let rows = counted.iter().flat_map(|&t| all.run([t, 0], d)).copied().collect();
        output::<E, 2>(rows, [count, d])
    });
    let rows = gathered.as_ref().map_or(all, Strided::of);

    let chunk = options.chunk.unwrap_or((CHUNK / vocab).max(256)).min(count);
    let mut logits = buffer::<E>(chunk * vocab);
    let mut losses = buffer::<E>(count);
    let lengths = if options.gradients { [count * d, vocab * d] } else { [0, 0] };
    let [mut d_rows, mut d_weight] = lengths.map(buffer::<E>);
    if count == 0 {
        d_weight.fill(E::ZERO);
    }
    for start in (0..count).step_by(chunk.max(1)) {
        let these = chunk.min(count - start);
        let logits = &mut logits[..these * vocab];
        let hidden = rows.matrix([start, 0]).rows(0, these);
        let matrix = weight.matrix([0, 0]);
        let to = MatMut::dense(logits, these, vocab);
        wide_product(to, E::ZERO, E::ONE, hidden, matrix.transposed());
        {
            let (logits, losses) = (Shared::new(logits), Shared::new(&mut losses[start..start + these]));
            let share = PART.div_ceil(vocab).min(these);
            for_each(these.div_ceil(share), these * vocab * 8, |unit| {
                for i in unit * share..((unit + 1) * share).min(these) {
                    // SAFETY: every row is one unit's own.
                    let (row, loss) = unsafe { (logits.part(i * vocab, vocab), &mut losses.part(i, 1)[0]) };
                    let (target, mean) = (options.targets[counted[start + i]] as usize, means[start + i]);
                    vectorised(
                        #[inline(always)]
                        || *loss = softmax_loss(row, target, E::of(mean)),
                    );
                }
            });
        }
        if options.gradients {
            let logits = Mat::dense(logits, these, vocab);
            let to = MatMut::dense(&mut d_rows[start * d..(start + these) * d], these, d);
            wide_product(to, E::ZERO, E::ONE, logits, matrix);
            let old = if start == 0 { E::ZERO } else { E::ONE };
            wide_product(MatMut::dense(&mut d_weight, vocab, d), old, E::ONE, logits.transposed(), hidden);
        }
    }
    let loss: f64 = losses.iter().map(|loss| loss.to_f64()).sum();
    let loss = if count == 0 { E::NAN } else { E::of(loss) };
    let saved = options.gradients.then(|| {
        let d_hidden = if count == tokens {
            d_rows
        } else {
            let mut d_hidden = vec![E::ZERO; tokens * d];
            for (&t, row) in counted.iter().zip(d_rows.chunks_exact(d)) {
                d_hidden[t * d..][..d].copy_from_slice(row);
            }
            d_hidden
        };
        [output(d_hidden, [tokens, d]), output(d_weight, [vocab, d])]
    });
    (output(vec![loss], [1]), saved)
}

/// `mean · −log softmax(logits)[target]`; the logits become their gradient, `mean · (softmax − target)`.
#[inline(always)]
fn softmax_loss<E: Real>(row: &mut [E], target: usize, mean: E) -> E {
    let largest = maximum(row);
    let chosen = row[target] - largest;
    row.iter_mut().for_each(|z| *z = (*z - largest).exp());
    let total = sum(row);
    let factor = mean / total;
    row.iter_mut().for_each(|z| *z *= factor);
    row[target] -= mean;
    mean * (total.ln() - chosen)
}
