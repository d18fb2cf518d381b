//! Every probe of one model, to print and to keep.

use super::*;
use crate::error::at;
use crate::show::whole;
use crate::{Frame, write_parquet};
use polars::prelude::DataFrame;
use serde::Serialize;
use std::path::Path;

/// What the probes found; a part that the model does not have is an empty list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub parameters: usize,
    pub first_token_mass: Vec<HeadMass>,
    /// At ε = 0.3; none where no layer offers a pattern.
    pub sink_rate: Option<f64>,
    pub activations: Vec<Activation>,
    pub gates: Vec<GateScores>,
    pub lambdas: Vec<LambdaValues>,
    pub decays: Vec<Decay>,
    pub state_norms: Vec<StateNorm>,
    pub decode: Vec<DecodeCost>,
}

impl Report {
    /// Probes a model on some batches; decoding is timed at `lengths` (none: not at all).
    ///
    /// # Errors
    /// A token outside the vocabulary, a device that fails.
    pub fn new(model: &Decoder, batches: &[Batch], lengths: &[usize]) -> Result<Self, LabError> {
        Ok(Self {
            parameters: model.num_params(),
            first_token_mass: first_token_mass(model, batches)?,
            sink_rate: sink_rate(model, batches, 0.3)?,
            activations: largest_activation(model, batches)?,
            gates: gate_scores(model, batches)?,
            lambdas: lambdas(model, batches)?,
            decays: decays(model, batches)?,
            state_norms: state_norms(model, batches)?,
            decode: decode_cost(model, lengths)?,
        })
    }

    /// The tables that have rows, by name.
    pub fn frames(&self) -> Vec<(&'static str, DataFrame)> {
        let all = [
            ("first_token_mass", self.first_token_mass.frame()),
            ("activations", self.activations.frame()),
            ("gates", self.gates.frame()),
            ("lambdas", self.lambdas.frame()),
            ("decays", self.decays.frame()),
            ("state_norms", self.state_norms.frame()),
            ("decode", self.decode.frame()),
        ];
        all.into_iter().filter(|(_, frame)| frame.height() > 0).collect()
    }

    /// `report.json` (everything, histograms included) and a Parquet file per table.
    ///
    /// # Errors
    /// A file that cannot be written, with its name.
    pub fn save(&self, dir: &Path) -> Result<(), LabError> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        for (name, frame) in self.frames() {
            write_parquet(&dir.join(format!("{name}.parquet")), &frame)?;
        }
        let json = serde_json::to_vec_pretty(self)?;
        Ok(zoo::checkpoint::write_atomically(&dir.join("report.json"), &json)?)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} parameters", self.parameters)?;
        if let Some(rate) = self.sink_rate {
            writeln!(f, "sink rate (share of heads with over 0.3 on the first token): {rate:.3}")?;
        }
        for (name, frame) in self.frames() {
            write!(f, "\n{}\n{}", name.replace('_', " "), whole(&frame))?;
        }
        Ok(())
    }
}
