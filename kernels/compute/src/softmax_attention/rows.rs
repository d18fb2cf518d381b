//! The loops over a tile's rows, between the products of matrices: scores to weights, and back.

use super::reference::LOWEST_BIAS;
use crate::cpu::{Real, Strided, dot, maximum, sum};

/// What is done to the scores of one head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, E> {
    pub softcap: Option<E>,
    /// Bias `[batch, heads, time, source]`, with the head's place in it.
    pub bias: Option<(Strided<'a, E, 4>, [usize; 2])>,
    /// ALiBi's slope.
    pub slope: Option<E>,
    pub sigmoid: bool,
}

/// Queries `first ..` of one head against the keys `keys.0 .. keys.1`.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub first: usize,
    pub rows: usize,
    pub keys: (usize, usize),
    /// The key that stands where query 0 does.
    pub offset: usize,
    pub window: Option<usize>,
}

impl Tile {
    pub fn width(&self) -> usize {
        self.keys.1 - self.keys.0
    }

    /// The visible part of row `i`, in columns of the tile.
    #[inline(always)]
    pub fn seen(&self, i: usize) -> (usize, usize) {
        let own = self.offset + self.first + i;
        let from = self.window.map_or(0, |window| (own + 1).saturating_sub(window)).max(self.keys.0);
        (from - self.keys.0, own + 1 - self.keys.0)
    }

    /// Soft cap, bias and slope over the scaled products in row `i`.
    #[inline(always)]
    fn score<E: Real>(&self, head: &Head<'_, E>, i: usize, scores: &mut [E]) {
        let (t, source) = (self.first + i, self.keys.0 + self.seen(i).0);
        if let Some(cap) = head.softcap {
            let inverse = E::ONE / cap;
            scores.iter_mut().for_each(|s| *s = cap * Real::tanh(*s * inverse));
        }
        if let Some((bias, [batch, h])) = &head.bias {
            let lowest = E::of(LOWEST_BIAS);
            let raised = |b: E| if b < lowest { lowest } else { b };
            let stride = bias.strides[3];
            if stride == 1 {
                let bias = bias.run([*batch, *h, t, source], scores.len());
                scores.iter_mut().zip(bias).for_each(|(s, b)| *s += raised(*b));
            } else {
                scores.iter_mut().enumerate().for_each(|(j, s)| *s += raised(bias.at([*batch, *h, t, source + j])));
            }
        }
        if let Some(slope) = head.slope {
            let own = self.offset + t;
            let mut distance = E::of(source as f64 - own as f64);
            scores.iter_mut().for_each(|s| {
                *s += slope * distance;
                distance += E::ONE;
            });
        }
    }

    /// Scaled products become `e^{s − m}`, zero where hidden. `lse[i]` becomes the logarithm of the
    /// row's sum, `inverse[i]` what makes it the weights; `sink` is a logit that joins the sum.
    #[inline(always)]
    pub fn weights<E: Real>(
        &self,
        head: &Head<'_, E>,
        tile: &mut [E],
        sink: impl Fn(usize) -> Option<E>,
        lse: &mut [E],
        inverse: &mut [E],
    ) {
        for (i, row) in tile.chunks_exact_mut(self.width()).enumerate() {
            let (from, to) = self.seen(i);
            row[..from].fill(E::ZERO);
            row[to..].fill(E::ZERO);
            let row = &mut row[from..to];
            self.score(head, i, row);
            if head.sigmoid {
                row.iter_mut().for_each(|s| *s = s.sigmoid());
                inverse[i] = E::ONE;
                continue;
            }
            let sink = sink(self.first + i);
            let largest = sink.map_or(maximum(row), |sink| maximum(row).max(sink));
            row.iter_mut().for_each(|s| *s = (*s - largest).exp());
            let total = sum(row) + sink.map_or(E::ZERO, |sink| (sink - largest).exp());
            lse[i] = largest + total.ln();
            inverse[i] = E::ONE / total;
        }
    }

    /// The weights again from the logarithms of the rows' sums. With a soft cap `kept` gets the capped
    /// scores, of which the gradient needs them.
    #[inline(always)]
    pub fn weights_again<E: Real>(&self, head: &Head<'_, E>, tile: &mut [E], lse: &[E], kept: &mut [E]) {
        let width = self.width();
        for (i, row) in tile.chunks_exact_mut(width).enumerate() {
            let (from, to) = self.seen(i);
            row[..from].fill(E::ZERO);
            row[to..].fill(E::ZERO);
            let row = &mut row[from..to];
            if let Some(cap) = head.softcap {
                let inverse = E::ONE / cap;
                let kept = &mut kept[i * width + from..i * width + to];
                kept.iter_mut().zip(&*row).for_each(|(k, s)| *k = Real::tanh(*s * inverse));
            }
            self.score(head, i, row);
            if head.sigmoid {
                row.iter_mut().for_each(|s| *s = s.sigmoid());
            } else {
                let lse = lse[i];
                row.iter_mut().for_each(|s| *s = (*s - lse).exp());
            }
        }
    }

    /// `d_scores ← factor · W ∘ (dW − Σ_j W dW)` of every row (with sigmoid weights
    /// `W ∘ (1 − W) ∘ dW`), and those sums `Σ_j W dW`. `factors[i]` is the row's factor.
    #[inline(always)]
    pub fn score_gradients<E: Real>(
        &self,
        sigmoid: bool,
        weights: &[E],
        d_weights: &[E],
        factors: &[E],
        d_scores: &mut [E],
        sums: &mut [E],
    ) {
        let width = self.width();
        for (i, d_scores) in d_scores.chunks_exact_mut(width).enumerate() {
            let (from, to) = self.seen(i);
            d_scores[..from].fill(E::ZERO);
            d_scores[to..].fill(E::ZERO);
            let d_scores = &mut d_scores[from..to];
            let at = i * width;
            let (w, dw) = (&weights[at + from..at + to], &d_weights[at + from..at + to]);
            let factor = factors[i];
            if sigmoid {
                for ((ds, w), dw) in d_scores.iter_mut().zip(w).zip(dw) {
                    *ds = factor * *w * (E::ONE - *w) * *dw;
                }
            } else {
                let total = dot(w, dw);
                sums[i] = total;
                for ((ds, w), dw) in d_scores.iter_mut().zip(w).zip(dw) {
                    *ds = factor * *w * (*dw - total);
                }
            }
        }
    }

    /// Through the soft cap: `kept` are the tanh of the scores.
    #[inline(always)]
    pub fn through_cap<E: Real>(&self, d_scores: &mut [E], kept: &[E]) {
        let width = self.width();
        for i in 0..self.rows {
            let (from, to) = self.seen(i);
            let (ds, kept) = (&mut d_scores[i * width + from..i * width + to], &kept[i * width + from..i * width + to]);
            ds.iter_mut().zip(kept).for_each(|(ds, t)| *ds *= E::ONE - *t * *t);
        }
    }
}
