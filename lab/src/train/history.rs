//! What happened, step by step.

use crate::error::at;
use crate::table::{Row, columns};
use crate::{Frame, LabError};
use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One update of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Updates made, this one included.
    pub step: usize,
    /// Tokens seen, those of this step included.
    pub tokens: usize,
    /// Loss of this step's batch before the update, in nats per counted token.
    pub train_loss: f64,
    /// Loss over the validation batches after the update, where it was evaluated.
    pub validation_loss: Option<f64>,
    /// Share of right answers over the validation batches.
    pub accuracy: Option<f64>,
    pub learning_rate: f64,
    /// Norm over all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Of this step alone.
    pub tokens_per_second: f64,
    /// Time spent in steps so far (evaluations and checkpoints not counted).
    pub seconds: f64,
}

/// Nats as bits: per byte, where a token is a byte.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

impl Row for HistoryRow {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "step" => |r| r.step as u64,
            "tokens" => |r| r.tokens as u64,
            "train_loss" => |r| r.train_loss,
            "validation_loss" => |r| r.validation_loss,
            "validation_bits" => |r| r.validation_loss.map(bits),
            "accuracy" => |r| r.accuracy,
            "learning_rate" => |r| r.learning_rate,
            "gradient_norm" => |r| r.gradient_norm,
            "tokens_per_second" => |r| r.tokens_per_second,
            "seconds" => |r| r.seconds,
        )
    }
}

/// Every step of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub rows: Vec<HistoryRow>,
}

impl History {
    /// Updates made so far.
    pub fn step(&self) -> usize {
        self.rows.last().map_or(0, |row| row.step)
    }

    /// Time spent in steps, in seconds.
    pub fn seconds(&self) -> f64 {
        self.rows.last().map_or(0.0, |row| row.seconds)
    }

    /// Tokens per second over the whole run.
    pub fn tokens_per_second(&self) -> f64 {
        self.rows.last().map_or(f64::NAN, |row| row.tokens as f64 / row.seconds)
    }

    /// `(step, loss)` of every step, for a curve.
    pub fn train_losses(&self) -> Vec<(f64, f64)> {
        self.rows.iter().map(|r| (r.step as f64, r.train_loss)).collect()
    }

    /// `(step, loss)` of every evaluation, for a curve.
    pub fn validation_losses(&self) -> Vec<(f64, f64)> {
        self.rows.iter().filter_map(|r| Some((r.step as f64, r.validation_loss?))).collect()
    }

    /// The last evaluation: loss in nats per token.
    pub fn validation_loss(&self) -> Option<f64> {
        self.rows.iter().rev().find_map(|row| row.validation_loss)
    }

    /// The last evaluation: share of right answers.
    pub fn accuracy(&self) -> Option<f64> {
        self.rows.iter().rev().find_map(|row| row.accuracy)
    }

    /// Mean training loss of the last `steps` steps, a calmer number than the last one.
    pub fn train_loss(&self, steps: usize) -> f64 {
        let tail = &self.rows[self.rows.len().saturating_sub(steps)..];
        tail.iter().map(|row| row.train_loss).sum::<f64>() / tail.len() as f64
    }

    /// One row per step; `validation_*` and `accuracy` are null where nothing was evaluated.
    pub fn frame(&self) -> DataFrame {
        self.rows.frame()
    }

    /// The history that [`Self::frame`] described; `source` is named in errors.
    ///
    /// # Errors
    /// A missing column, or one of another type.
    pub fn from_frame(frame: &DataFrame, source: &Path) -> Result<Self, LabError> {
        let fail = at(source);
        let floats = |name: &str| -> Result<Vec<Option<f64>>, LabError> {
            Ok(frame.column(name).and_then(|c| c.f64()).map_err(&fail)?.iter().collect())
        };
        let counts = |name: &str| -> Result<Vec<Option<u64>>, LabError> {
            Ok(frame.column(name).and_then(|c| c.u64()).map_err(&fail)?.iter().collect())
        };
        let (step, tokens) = (counts("step")?, counts("tokens")?);
        let (train, validation, accuracy) = (floats("train_loss")?, floats("validation_loss")?, floats("accuracy")?);
        let (rate, norm) = (floats("learning_rate")?, floats("gradient_norm")?);
        let (speed, seconds) = (floats("tokens_per_second")?, floats("seconds")?);
        let row = |i: usize| {
            Some(HistoryRow {
                step: step[i]? as usize,
                tokens: tokens[i]? as usize,
                train_loss: train[i]?,
                validation_loss: validation[i],
                accuracy: accuracy[i],
                learning_rate: rate[i]?,
                gradient_norm: norm[i]?,
                tokens_per_second: speed[i]?,
                seconds: seconds[i]?,
            })
        };
        let rows = (0..frame.height()).map(row).collect::<Option<Vec<_>>>();
        Ok(Self { rows: rows.ok_or_else(|| at(source)("a value is missing"))? })
    }
}
