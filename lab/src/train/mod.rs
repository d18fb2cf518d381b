//! Training by steps: seeded batches, AdamW, warm-up and cosine, global-norm clipping, evaluation,
//! atomic checkpoints.
//!
//! Two promises hold everything together. The data of step `s` is a function of (seed, s) and the
//! initial weights one of the seed, so a run is a function of its [`TrainConfig`]; and a checkpoint
//! holds weights, both moments and the history to the last bit, so that on the CPU a run that was
//! killed and resumed gives exactly the curve of one that never stopped.

mod config;
mod evaluate;
mod files;
mod history;
mod loss;
mod objective;
mod optimizer;
mod precision;
mod progress;
#[cfg(test)]
mod tests;
mod trainer;

pub use config::TrainConfig;
pub use evaluate::{Evaluation, evaluate};
pub(crate) use evaluate::{Tally, evaluate_batches};
pub use files::{checkpoints, run_config};
pub use history::{History, HistoryRow, bits};
pub use loss::cross_entropy;
use objective::objective;
pub use optimizer::{AdamW, gradient_squares};
pub use precision::Precision;
pub use trainer::{Run, Trainer};

use crate::LabError;
use burn::tensor::Device;

/// Trains the catalogue model of `config`, without writing files.
///
/// # Errors
/// Those of [`Trainer::from_config`] and [`Trainer::run`].
pub fn train(config: &TrainConfig, device: &Device) -> Result<Run, LabError> {
    Trainer::from_config(config, device)?.run()
}
