//! What gates and λ let through.

use super::{spread, tap_values};
use crate::LabError;
use crate::table::{Row, columns};
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use zoo::Decoder;

const BINS: usize = 40;

/// The gate scores of one layer over all tokens, heads and channels, wherever the gate stands. A score
/// that heads share counts once, one that tokens share once a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateScores {
    pub layer: usize,
    pub mean: f64,
    pub minimum: f64,
    pub maximum: f64,
    /// Share of scores of size below 0.1: closed gates, or gates that add next to nothing.
    pub closed: f64,
    /// Edges of the histogram's bins, one more than there are bins: 0 to 1 for sigmoid gates,
    /// minimum to maximum where scores leave that range (SiLU gates, bare projections).
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

impl GateScores {
    /// `(middle of the bin, share of all scores)`, for bars.
    pub fn bars(&self) -> Vec<(f64, f64)> {
        let total: u64 = self.counts.iter().sum();
        let middle = |i: usize| (self.edges[i] + self.edges[i + 1]) / 2.0;
        self.counts.iter().enumerate().map(|(i, &count)| (middle(i), count as f64 / total as f64)).collect()
    }
}

impl Row for GateScores {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "layer" => |r| r.layer as u64,
            "mean" => |r| r.mean,
            "minimum" => |r| r.minimum,
            "maximum" => |r| r.maximum,
            "closed" => |r| r.closed,
        )
    }
}

/// The gate scores of every layer that has a gate.
///
/// # Errors
/// A token outside the vocabulary.
pub fn gate_scores(model: &Decoder, batches: &[Batch]) -> Result<Vec<GateScores>, LabError> {
    let one = |(layer, scores): (usize, Vec<f32>)| {
        let (mean, minimum, maximum) = spread(&scores);
        let (low, high) = if minimum >= 0.0 && maximum <= 1.0 { (0.0, 1.0) } else { (minimum, maximum) };
        let width = (high - low) / BINS as f64;
        let mut counts = vec![0; BINS];
        for &score in &scores {
            counts[(((f64::from(score) - low) / width) as usize).min(BINS - 1)] += 1;
        }
        let closed = scores.iter().filter(|score| score.abs() < 0.1).count() as f64 / scores.len() as f64;
        let edges = (0..=BINS).map(|i| low + width * i as f64).collect();
        GateScores { layer, mean, minimum, maximum, closed, edges, counts }
    };
    Ok(tap_values(model, batches, "gate")?.into_iter().map(one).collect())
}

/// λ of one layer: one number in DIFF V1, one per token and head in V2.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LambdaValues {
    pub layer: usize,
    pub mean: f64,
    pub minimum: f64,
    pub maximum: f64,
    /// The λ_init of the layer, for V1. None in looped models, whose depths are not the layers' numbers.
    pub initial: Option<f64>,
}

impl Row for LambdaValues {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "layer" => |r| r.layer as u64,
            "mean" => |r| r.mean,
            "minimum" => |r| r.minimum,
            "maximum" => |r| r.maximum,
            "initial" => |r| r.initial,
        )
    }
}

/// λ of every differential layer.
///
/// # Errors
/// A token outside the vocabulary.
pub fn lambdas(model: &Decoder, batches: &[Batch]) -> Result<Vec<LambdaValues>, LabError> {
    let one = |(layer, values): (usize, Vec<f32>)| {
        let (mean, minimum, maximum) = spread(&values);
        let one_a_layer = model.looped.is_none() && values.len() == batches.len();
        let initial = one_a_layer.then(|| zoo::lambda_init(layer));
        LambdaValues { layer, mean, minimum, maximum, initial }
    };
    Ok(tap_values(model, batches, "lambda")?.into_iter().map(one).collect())
}
