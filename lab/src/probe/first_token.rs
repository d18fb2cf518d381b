//! Attention sinks: how much the queries look at the first token.

use super::watch;
use crate::LabError;
use crate::table::{Row, columns};
use burn::tensor::Tensor;
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use std::collections::BTreeMap;
use zoo::{Decoder, Tap, Value};

/// How much of its attention a head gives to the first token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadMass {
    pub layer: usize,
    pub head: usize,
    /// Mean over the queries `t ≥ 1` of `A[t, 0]`, or of `|A[t, 0]| / Σ_s |A[t, s]|` where rows are made shares.
    pub mass: f64,
    /// Mean of `A[t, 0]` as it is, with its sign.
    pub signed: f64,
    /// The same of the first softmax of differential attention.
    pub positive: Option<f64>,
    /// The same of the second.
    pub negative: Option<f64>,
}

impl Row for HeadMass {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "layer" => |r| r.layer as u64,
            "head" => |r| r.head as u64,
            "mass" => |r| r.mass,
            "signed" => |r| r.signed,
            "positive" => |r| r.positive,
            "negative" => |r| r.negative,
        )
    }
}

/// The mass on the first token, per layer and head, averaged over queries, sequences and batches.
///
/// Query 0 sees nothing but the first token, so its mass of 1 is left out: the mean is over
/// `t = 1 …`. Rows without a sum of their own (differential attention, layers with a state, and every layer with
/// a negative weight or a row that sums to more than 1) are first made shares, `|A|` divided by its row sum, so
/// that all variants are on one scale; the signed mean stands beside it. A softmax that leaves weight to a sink
/// is taken as it is.
///
/// # Errors
/// A token outside the vocabulary.
pub fn first_token_mass(model: &Decoder, batches: &[Batch]) -> Result<Vec<HeadMass>, LabError> {
    let mut all: Vec<HeadMass> = Vec::new();
    let weight = 1.0 / batches.len() as f64;
    for batch in batches {
        for (layer, seen) in FirstTokens::of(model, batch)? {
            let Some(pattern) = &seen.pattern else { continue };
            let half = |half: &Option<Rows>| half.as_ref().map(|rows| rows.by_head(&rows.first));
            let (mass, signed) = (pattern.by_head(&pattern.shares(seen.unscaled())), pattern.by_head(&pattern.first));
            let (positive, negative) = (half(&seen.positive), half(&seen.negative));
            for head in 0..pattern.heads {
                let at = |values: &Option<Vec<f64>>| values.as_ref().map(|v| v[head] * weight);
                let row = HeadMass {
                    layer,
                    head,
                    mass: mass[head] * weight,
                    signed: signed[head] * weight,
                    positive: at(&positive),
                    negative: at(&negative),
                };
                match all.iter_mut().find(|known| (known.layer, known.head) == (layer, head)) {
                    Some(known) => {
                        known.mass += row.mass;
                        known.signed += row.signed;
                        known.positive = known.positive.zip(row.positive).map(|(a, b)| a + b);
                        known.negative = known.negative.zip(row.negative).map(|(a, b)| a + b);
                    }
                    None => all.push(row),
                }
            }
        }
    }
    all.sort_by_key(|row| (row.layer, row.head));
    Ok(all)
}

/// `(layer, mean over its heads)`.
pub fn layer_means(rows: &[HeadMass]) -> Vec<(usize, f64)> {
    let mut layers: Vec<usize> = rows.iter().map(|row| row.layer).collect();
    layers.dedup();
    let mean = |&layer: &usize| {
        let of: Vec<f64> = rows.iter().filter(|row| row.layer == layer).map(|row| row.mass).collect();
        (layer, of.iter().sum::<f64>() / of.len() as f64)
    };
    layers.iter().map(mean).collect()
}

/// The sink rate of Gu et al. 2024 (arXiv 2410.10781): the share of heads (over all layers and
/// sequences) whose mean weight on the first token, over *all* queries as the paper has it, is above
/// `epsilon` (0.3 in the paper, with 64 tokens). Rows are made shares where [`first_token_mass`] makes them.
///
/// None where no layer offers a pattern.
///
/// # Errors
/// A token outside the vocabulary.
pub fn sink_rate(model: &Decoder, batches: &[Batch], epsilon: f64) -> Result<Option<f64>, LabError> {
    let (mut above, mut count) = (0, 0);
    for batch in batches {
        for seen in FirstTokens::of(model, batch)?.into_values() {
            let Some(pattern) = &seen.pattern else { continue };
            let means = pattern.means(&pattern.shares(seen.unscaled()), 0);
            above += means.iter().filter(|&&mean| mean > epsilon).count();
            count += means.len();
        }
    }
    Ok((count > 0).then(|| above as f64 / count as f64))
}

/// Keeps of every pattern what the first token needs, as soon as it is formed: patterns of all layers together
/// may be more than there is memory for.
#[derive(Default)]
struct FirstTokens(BTreeMap<usize, Layer>);

/// What a layer's mixer offered.
#[derive(Default)]
struct Layer {
    pattern: Option<Rows>,
    positive: Option<Rows>,
    negative: Option<Rows>,
    state: bool,
}

/// Of a pattern `[batch, heads, time, source]`, in row-major order.
struct Rows {
    heads: usize,
    time: usize,
    /// `A[t, 0]`, `[batch, heads, time]`.
    first: Vec<f64>,
    /// `Σ_s |A[t, s]|`, `[batch, heads, time]`.
    sum: Vec<f64>,
    /// The lowest weight.
    lowest: f64,
}

impl FirstTokens {
    fn of(model: &Decoder, batch: &Batch) -> Result<BTreeMap<usize, Layer>, LabError> {
        let mut seen = Self::default();
        watch(model, batch, &mut seen)?;
        Ok(seen.0)
    }
}

impl Tap for FirstTokens {
    fn wants(&self, path: &str) -> bool {
        place(path).is_some()
    }
    fn visit(&mut self, path: &str, value: Value) -> Value {
        let Some((layer, name)) = place(path) else { return value };
        let layer = self.0.entry(layer).or_default();
        let rows = || Some(Rows::of(value.clone().tensor()));
        match name {
            "pattern" => layer.pattern = rows(),
            "pattern_positive" => layer.positive = rows(),
            "pattern_negative" => layer.negative = rows(),
            _ => layer.state = true,
        }
        value
    }
    fn changes(&self, _path: &str) -> bool {
        false
    }
}

/// Layer and name, where a tap's path is that of something to be seen.
fn place(path: &str) -> Option<(usize, &str)> {
    let (layer, name) = path.strip_prefix("blocks.")?.split_once(".mixer.")?;
    let known = ["pattern", "pattern_positive", "pattern_negative", "state"].contains(&name);
    known.then_some((layer.parse().ok()?, name))
}

impl Layer {
    /// Whether rows have no sum of their own: patterns are subtracted, or a state is read.
    fn unscaled(&self) -> bool {
        self.positive.is_some() || self.state
    }
}

impl Rows {
    fn of(pattern: Tensor<4>) -> Self {
        let [_, heads, time, _] = pattern.dims();
        let floats = |values: Tensor<4>| -> Vec<f64> { values.into_data().iter().collect() };
        Self {
            heads,
            time,
            first: floats(pattern.clone().narrow(3, 0, 1)),
            lowest: pattern.clone().min().into_scalar::<f64>(),
            sum: floats(pattern.abs().sum_dim(3)),
        }
    }

    /// `|A[t, 0]|`, divided by `Σ_s |A[t, s]|` where the layer is `unscaled`, or has a negative weight or a row of more than 1.
    fn shares(&self, unscaled: bool) -> Vec<f64> {
        // What rounding may add to a row that sums to 1.
        const ROUNDING: f64 = 1e-2;
        let divided = unscaled || self.lowest < 0.0 || self.sum.iter().any(|&sum| sum > 1.0 + ROUNDING);
        let least = if divided { 1e-30 } else { 1.0 };
        self.first.iter().zip(&self.sum).map(|(first, sum)| first.abs() / sum.max(least)).collect()
    }

    /// Means of `[batch, heads, time]` over the queries `first …`, `[batch, heads]`. NaN where there is no such query.
    fn means(&self, values: &[f64], first: usize) -> Vec<f64> {
        values.chunks(self.time).map(|row| mean(row[first..].iter().copied())).collect()
    }

    /// Means over queries `1 …` and over the batch, `[heads]`.
    fn by_head(&self, values: &[f64]) -> Vec<f64> {
        let means = self.means(values, 1);
        (0..self.heads).map(|head| mean(means[head..].iter().copied().step_by(self.heads))).collect()
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_pattern_grows_with_its_rows_and_not_with_their_length() {
        let (heads, time) = (3, 50);
        let pattern = Tensor::<4>::ones([2, heads, time, time], &burn::tensor::Device::flex());
        let mut seen = FirstTokens::default();
        seen.visit("blocks.1.mixer.pattern", Value::new(pattern));
        let rows = seen.0[&1].pattern.as_ref().unwrap();
        assert_eq!((rows.first.len(), rows.sum.len(), rows.lowest), (2 * heads * time, 2 * heads * time, 1.0));
        assert!(rows.sum.iter().all(|sum| *sum == 50.0) && rows.first.iter().all(|first| *first == 1.0));
        let wanted = ["blocks.1.mixer.pattern", "blocks.1.mixer.q", "mtp.mixer.pattern", "blocks.1.out"];
        assert_eq!(wanted.map(|path| seen.wants(path)), [true, false, false, false]);
        assert!(!seen.changes("blocks.1.mixer.pattern"), "the model goes on with its fused operator");
    }
}
