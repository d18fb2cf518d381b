//! Finding the needle.

use crate::LabError;
use crate::error::invalid;
use crate::table::{Row, columns};
use crate::train::Tally;
use burn::module::Module;
use datasets::{Dataset, Needle};
use polars::prelude::DataFrame;
use serde::Serialize;
use zoo::Decoder;

/// Accuracy at one length and depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NeedleScore {
    /// Tokens of the sequence.
    pub length: usize,
    /// Where the needle lies: 0 the beginning, 1 right before the question.
    pub depth: f64,
    /// Sequences tried.
    pub trials: usize,
    pub accuracy: f64,
    /// `√(p(1 − p)/trials)`.
    pub standard_error: f64,
}

impl Row for NeedleScore {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "length" => |r| r.length as u64,
            "depth" => |r| r.depth,
            "trials" => |r| r.trials as u64,
            "accuracy" => |r| r.accuracy,
            "standard_error" => |r| r.standard_error,
        )
    }
}

/// How often the model's most likely token is the needle's value, for every length and depth. The
/// sequences of a length are the same at every depth but for where things lie.
///
/// # Errors
/// A length too short for the task, a model whose vocabulary is too small for it, no trials;
/// [`LabError::Interrupted`].
pub fn needle_accuracy(
    model: &Decoder,
    task: &Needle,
    depths: &[f32],
    lengths: &[usize],
    trials: usize,
) -> Result<Vec<NeedleScore>, LabError> {
    if trials == 0 {
        return invalid("trials", trials, "at least 1");
    }
    let model = model.valid();
    let mut scores = Vec::new();
    for &length in lengths {
        task.check(length)?;
        // About 4096 tokens at a time: long sequences one by one, short ones together.
        let rows = (4096 / length).clamp(1, trials);
        for &depth in depths {
            if !(0.0..=1.0).contains(&depth) {
                return invalid("depth", depth, "0 to 1");
            }
            let mut tally = Tally::default();
            for part in 0..trials.div_ceil(rows) {
                cell_runtime::check_interrupt()?;
                let batch = task.at_depth(part as u64, depth, rows.min(trials - part * rows), length);
                tally.add(&model, &batch)?;
            }
            let accuracy = tally.evaluation()?.accuracy;
            let standard_error = (accuracy * (1.0 - accuracy) / trials as f64).sqrt();
            scores.push(NeedleScore { length, depth: depth.into(), trials, accuracy, standard_error });
        }
    }
    Ok(scores)
}
