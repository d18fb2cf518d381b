//! Where the queries look.

use super::observe;
use crate::LabError;
use crate::table::{Row, columns};
use burn::tensor::Tensor;
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use zoo::Decoder;
use zoo::tap::Record;

/// The pattern of one head over one sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    pub layer: usize,
    pub head: usize,
    /// `pattern`, and for differential attention its two halves `pattern_positive` and
    /// `pattern_negative`.
    pub name: String,
    /// Tokens of the sequence.
    pub time: usize,
    /// `[time, time]`, row-major: the weight of value `s` in output `t` at `t · time + s`. Softmax
    /// rows sum to 1; those of differential attention and of the delta rule are signed.
    pub matrix: Vec<f32>,
}

impl Pattern {
    /// The weights of output `t` over the values, `[time]`.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.matrix[t * self.time..(t + 1) * self.time]
    }

    /// All rows, for a heat map.
    pub fn rows(&self) -> Vec<Vec<f64>> {
        (0..self.time).map(|t| self.row(t).iter().map(|&w| w.into()).collect()).collect()
    }
}

/// The pattern of every layer and head on one sequence of token ids. For linear attention it is the
/// exact effective pattern, erase term included.
///
/// # Errors
/// A token outside the vocabulary.
pub fn patterns(model: &Decoder, ids: &[i32]) -> Result<Vec<Pattern>, LabError> {
    let record = observe(model, &sequence(ids), &["blocks.*.mixer.pattern*"])?;
    let mut all = Vec::new();
    for name in ["pattern", "pattern_positive", "pattern_negative"] {
        for (layer, value) in record.layers(name) {
            let [_, heads, time, source] = value.clone().tensor::<4>().dims();
            for (head, matrix) in value.to_vec().chunks_exact(time * source).enumerate().take(heads) {
                all.push(Pattern { layer, head, name: name.into(), time, matrix: matrix.to_vec() });
            }
        }
    }
    Ok(all)
}

fn sequence(ids: &[i32]) -> Batch {
    Batch { batch: 1, time: ids.len(), ids: ids.to_vec(), targets: ids.to_vec(), mask: vec![0.0; ids.len()] }
}

/// How much of its attention a head gives to the first token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadMass {
    pub layer: usize,
    pub head: usize,
    /// Mean of `|A[t, 0]| / Σ_s |A[t, s]|` over the queries `t ≥ 1`.
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
/// `t = 1 …`. Signed patterns (differential, delta rule) are first made shares, `|A|` divided by its
/// row sum, so that all variants are on one scale; the signed mean stands beside it.
///
/// # Errors
/// A token outside the vocabulary.
pub fn first_token_mass(model: &Decoder, batches: &[Batch]) -> Result<Vec<HeadMass>, LabError> {
    let mut all: Vec<HeadMass> = Vec::new();
    let weight = 1.0 / batches.len() as f64;
    for batch in batches {
        let record = observe(model, batch, &["blocks.*.mixer.pattern*"])?;
        for (layer, value) in record.layers("pattern") {
            let pattern = value.tensor::<4>();
            let half = |name| half(&record, layer, name).map(|pattern| mean_after_first(first_column(pattern)));
            let mass = mean_after_first(shares(pattern.clone()));
            let signed = mean_after_first(first_column(pattern));
            let (positive, negative) = (half("pattern_positive"), half("pattern_negative"));
            for head in 0..mass.len() {
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
/// `epsilon` (0.3 in the paper, with 64 tokens). Signed patterns are made shares first.
///
/// None where no layer offers a pattern.
///
/// # Errors
/// A token outside the vocabulary.
pub fn sink_rate(model: &Decoder, batches: &[Batch], epsilon: f64) -> Result<Option<f64>, LabError> {
    let (mut above, mut count) = (0, 0);
    for batch in batches {
        for (_, value) in observe(model, batch, &["blocks.*.mixer.pattern"])?.layers("pattern") {
            let means = floats(shares(value.tensor()).mean_dim(2).reshape([-1])); // [batch · heads]
            above += means.iter().filter(|&&mean| mean > epsilon).count();
            count += means.len();
        }
    }
    Ok((count > 0).then(|| above as f64 / count as f64))
}

fn half(record: &Record, layer: usize, name: &str) -> Option<Tensor<4>> {
    record.layers(name).into_iter().find(|(of, _)| *of == layer).map(|(_, value)| value.tensor())
}

/// `|A[t, 0]| / Σ_s |A[t, s]|`: `[batch, heads, time, 1]`.
fn shares(pattern: Tensor<4>) -> Tensor<4> {
    let size = pattern.abs();
    let sum = size.clone().sum_dim(3).clamp_min(1e-30);
    first_column(size) / sum
}

fn first_column(pattern: Tensor<4>) -> Tensor<4> {
    pattern.narrow(3, 0, 1)
}

/// Mean over queries `1 …` and over the batch, per head. NaN for one token, which has no such query.
fn mean_after_first(column: Tensor<4>) -> Vec<f64> {
    let [_, heads, time, _] = column.dims();
    if time < 2 {
        return vec![f64::NAN; heads];
    }
    floats(column.narrow(2, 1, time - 1).mean_dim(2).mean_dim(0).reshape([-1]))
}

fn floats(values: Tensor<1>) -> Vec<f64> {
    values.into_data().iter::<f64>().collect()
}
