//! What linear layers remember: how fast the state decays, and how large it is.

use super::observe;
use crate::LabError;
use crate::table::{Row, columns};
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use std::collections::BTreeMap;
use zoo::Decoder;

/// The decay of one head of a linear layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decay {
    pub layer: usize,
    pub head: usize,
    /// Mean of `e^g`, what survives one step, over all tokens.
    pub mean: f64,
    pub minimum: f64,
    pub maximum: f64,
    /// Tokens after which half of the state is left at the mean of `g`: `ln 2 / −mean(g)`, infinite where
    /// nothing fades.
    pub half_life: f64,
}

impl Row for Decay {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "layer" => |r| r.layer as u64,
            "head" => |r| r.head as u64,
            "mean" => |r| r.mean,
            "minimum" => |r| r.minimum,
            "maximum" => |r| r.maximum,
            "half_life" => |r| r.half_life,
        )
    }
}

/// The size of one head's state after the last token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StateNorm {
    pub layer: usize,
    pub head: usize,
    /// Frobenius norm, mean over the sequences.
    pub norm: f64,
    /// Of one sequence.
    pub largest: f64,
}

impl Row for StateNorm {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "layer" => |r| r.layer as u64,
            "head" => |r| r.head as u64,
            "norm" => |r| r.norm,
            "largest" => |r| r.largest,
        )
    }
}

/// Every linear layer's decays, per head.
///
/// # Errors
/// A token outside the vocabulary.
pub fn decays(model: &Decoder, batches: &[Batch]) -> Result<Vec<Decay>, LabError> {
    let one = |((layer, head), values): ((usize, usize), Vec<f32>)| {
        let (mean, minimum, maximum) = super::spread(&values);
        let log = values.iter().map(|&decay| f64::from(decay).max(1e-30).ln()).sum::<f64>() / values.len() as f64;
        let half_life = if log == 0.0 { f64::INFINITY } else { std::f64::consts::LN_2 / -log };
        Decay { layer, head, mean, minimum, maximum, half_life }
    };
    Ok(by_head(model, batches, "decay")?.into_iter().map(one).collect())
}

/// Every linear layer's state norms after the last token, per head.
///
/// # Errors
/// A token outside the vocabulary.
pub fn state_norms(model: &Decoder, batches: &[Batch]) -> Result<Vec<StateNorm>, LabError> {
    let mut norms: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for batch in batches {
        for (layer, value) in observe(model, batch, &["blocks.*.mixer.state"])?.layers("state") {
            let (heads, size) = (value.shape()[1], value.shape()[2..].iter().product());
            for (i, state) in value.to_vec().chunks_exact(size).enumerate() {
                let norm = state.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                norms.entry((layer, i % heads)).or_default().push(norm);
            }
        }
    }
    let one = |((layer, head), norms): ((usize, usize), Vec<f64>)| {
        let largest = norms.iter().copied().fold(0.0, f64::max);
        StateNorm { layer, head, norm: norms.iter().sum::<f64>() / norms.len() as f64, largest }
    };
    Ok(norms.into_iter().map(one).collect())
}

/// The values of a tap of shape `[batch, heads, …]`, by layer and head.
fn by_head(model: &Decoder, batches: &[Batch], name: &str) -> Result<BTreeMap<(usize, usize), Vec<f32>>, LabError> {
    let mut all: BTreeMap<_, Vec<f32>> = BTreeMap::new();
    for batch in batches {
        for (layer, value) in observe(model, batch, &[&format!("blocks.*.mixer.{name}")])?.layers(name) {
            let (heads, size) = (value.shape()[1], value.shape()[2..].iter().product());
            for (i, values) in value.to_vec().chunks_exact(size).enumerate() {
                all.entry((layer, i % heads)).or_default().extend(values);
            }
        }
    }
    Ok(all)
}
