//! Rows are copied; the backward writes every row of the gradient once, as the sum over the tokens
//! that read it, in their order.

use crate::cpu::{Real, Shared, Strided, as_rows, buffer, for_each, forwards, output, with_real};
use crate::operator::Operator;
use burn_dispatch::backends::Flex;
use burn_dispatch::backends::flex::FlexTensor;

/// The input is the table.
#[derive(Clone, Debug)]
pub struct Embedding {
    pub ids: Vec<usize>,
    /// `[batch, time]`.
    pub shape: [usize; 2],
}

/// Rows that a thread takes at a time.
const PART: usize = 64;

impl Operator<Flex, 1> for Embedding {
    /// Rows of the table.
    type Saved = usize;

    fn forward(&self, [table]: [Option<FlexTensor>; 1]) -> (FlexTensor, usize) {
        let table = forwards(table.expect("a table"));
        with_real!(table.dtype(), E => self.gather::<E>(Strided::of(&table)))
    }

    fn backward(&self, vocab: usize, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let gradient = as_rows(gradient);
        [Some(with_real!(gradient.dtype(), E => self.scatter::<E>(vocab, Strided::of(&gradient))))]
    }
}

impl Embedding {
    fn gather<E: Real>(&self, table: Strided<'_, E, 2>) -> (FlexTensor, usize) {
        let ([vocab, d], count) = (table.shape, self.ids.len());
        let mut out = buffer::<E>(count * d);
        {
            let out = Shared::new(&mut out);
            for_each(count.div_ceil(PART), count * d, |part| {
                for t in part * PART..count.min((part + 1) * PART) {
                    // SAFETY: the row of one token.
                    unsafe { out.part(t * d, d) }.copy_from_slice(table.run([self.ids[t], 0], d));
                }
            });
        }
        let [batch, time] = self.shape;
        (output(out, [batch, time, d]), vocab)
    }

    fn scatter<E: Real>(&self, vocab: usize, gradient: Strided<'_, E, 2>) -> FlexTensor {
        let [count, d] = gradient.shape;
        // Tokens in the order of their ids: those of `id` are `order[first[id] .. first[id + 1]]`.
        let mut first = vec![0; vocab + 1];
        self.ids.iter().for_each(|&id| first[id + 1] += 1);
        (0..vocab).for_each(|id| first[id + 1] += first[id]);
        let (mut next, mut order) = (first.clone(), vec![0; count]);
        for (t, &id) in self.ids.iter().enumerate() {
            order[next[id]] = t;
            next[id] += 1;
        }
        let mut d_table = buffer::<E>(vocab * d);
        {
            let d_table = Shared::new(&mut d_table);
            let part = PART.min(vocab.div_ceil(4 * rayon::current_num_threads()));
            for_each(vocab.div_ceil(part), (count + vocab) * d, |unit| {
                for id in unit * part..vocab.min((unit + 1) * part) {
                    // SAFETY: the row of one id.
                    let row = unsafe { d_table.part(id * d, d) };
                    row.fill(E::ZERO);
                    for &t in &order[first[id]..first[id + 1]] {
                        row.iter_mut().zip(gradient.run([t, 0], d)).for_each(|(sum, g)| *sum += *g);
                    }
                }
            });
        }
        output(d_table, [vocab, d])
    }
}
