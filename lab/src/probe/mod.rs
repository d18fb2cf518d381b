//! Looking inside a trained decoder: every function reads one thing and returns plain rows, which
//! `.frame()` (trait [`Frame`](crate::Frame)) makes a polars `DataFrame`.
//!
//! Everything is seen through the model's own tap points ([`zoo::tap::NAMES`]), so a mixer of one's
//! own is probed as soon as it offers them, and a part that a model does not have gives no rows.

mod activations;
mod cost;
mod first_token;
mod gates;
mod linear;
mod patterns;
mod quantised;
mod report;
mod retrieval;
#[cfg(test)]
mod tests;

pub use activations::{Activation, largest_activation};
pub use cost::{DecodeCost, ForwardCost, decode_cost, forward_cost};
pub use first_token::{HeadMass, first_token_mass, layer_means, sink_rate};
pub use gates::{GateScores, LambdaValues, gate_scores, lambdas};
pub use linear::{Decay, StateNorm, decays, state_norms};
pub use patterns::{Pattern, patterns};
pub use quantised::{CacheQuality, cache_quality};
pub use report::Report;
pub use retrieval::{NeedleScore, needle_accuracy};

use crate::LabError;
use burn::module::Module;
use datasets::Batch;
use zoo::{Decoder, Record, Tap};

/// What the taps named by `globs` saw while the model read a batch.
fn observe(model: &Decoder, batch: &Batch, globs: &[&str]) -> Result<Record, LabError> {
    let mut record = Record::new(globs);
    watch(model, batch, &mut record)?;
    Ok(record)
}

/// The model reads a batch while `tap` looks on.
fn watch(model: &Decoder, batch: &Batch, tap: &mut dyn Tap) -> Result<(), LabError> {
    let model = model.valid();
    let ids = model.tokens(&batch.ids, [batch.batch, batch.time])?;
    model.forward_with(ids, tap);
    Ok(())
}

/// The raw values that the mixers' tap `name` saw (`gate`, `beta`, `decay`, …), as `(layer, values)` with
/// all batches one after the other: for a histogram, or for a statistic that is not here.
///
/// # Errors
/// A token outside the vocabulary.
pub fn tap_values(model: &Decoder, batches: &[Batch], name: &str) -> Result<Vec<(usize, Vec<f32>)>, LabError> {
    let mut all: Vec<(usize, Vec<f32>)> = Vec::new();
    for batch in batches {
        for (layer, value) in observe(model, batch, &[&format!("blocks.*.mixer.{name}")])?.layers(name) {
            match all.iter_mut().find(|(known, _)| *known == layer) {
                Some((_, values)) => values.extend(value.to_vec()),
                None => all.push((layer, value.to_vec())),
            }
        }
    }
    Ok(all)
}

/// Mean, minimum and maximum.
fn spread(values: &[f32]) -> (f64, f64, f64) {
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (mean, low.into(), high.into())
}
