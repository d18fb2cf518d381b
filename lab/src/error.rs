//! What can go wrong between a configuration and a result.

use datasets::DatasetError;
use std::path::{Path, PathBuf};
use zoo::ZooError;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(transparent)]
    Zoo(#[from] ZooError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{name} must be {expected}, got {value}")]
    Invalid { name: &'static str, value: String, expected: String },
    #[error(
        "the model's vocab_size {model} is smaller than the {data} ids of `{dataset}`; set the \
         model's vocab_size to at least {data}"
    )]
    Vocabulary { model: usize, data: usize, dataset: String },
    /// Found before any weight was touched: the model is that of the last good step.
    #[error(
        "step {step} of `{run}`: loss {loss}, gradient norm {gradient_norm}. Nothing was updated: the \
         weights are those of the step before ({}). Not finite among the weights themselves: {}; among the gradients: {}",
        last_loss.map_or("the initial ones".into(), |loss| format!("loss {loss:.4}")), list(weights), list(gradients)
    )]
    NotFinite {
        run: String,
        /// The step that failed, counted from 1.
        step: usize,
        loss: f64,
        gradient_norm: f64,
        /// Loss of the step before, if there was one.
        last_loss: Option<f64>,
        /// Every parameter that holds NaN or an infinity itself: they were there before.
        weights: Vec<String>,
        /// Every parameter whose gradient does.
        gradients: Vec<String>,
    },
    /// A restart of the training of a memory network, with nothing updated in that step.
    #[error(
        "restart {restart} (seed {seed}) of the memory network: loss {loss}, gradient norm {gradient_norm} in epoch \
         {epoch} at rate {rate}, expected finite numbers; a lower rate or no linear start may help"
    )]
    MemoryNotFinite {
        /// Counted from 1, as `epoch` is.
        restart: usize,
        seed: u64,
        epoch: usize,
        rate: f64,
        loss: f64,
        gradient_norm: f64,
    },
    #[error(
        "run `{}` exists with another configuration (different: {}); take another name, or remove \
         the folder. Nothing was changed",
        dir.display(), fields.join(", ")
    )]
    OtherConfig { dir: PathBuf, fields: Vec<String> },
    #[error(
        "`{}` was trained on other data: then `{then}`, now `{now}`. Take another name, or bring the data \
         back. Nothing was changed", dir.display()
    )]
    OtherData { dir: PathBuf, then: String, now: String },
    #[error("no complete checkpoint in `{}`", dir.display())]
    NoCheckpoint { dir: PathBuf },
    #[error("run `{}` is being trained by another process", dir.display())]
    Busy { dir: PathBuf },
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("the device failed: {0}")]
    Device(String),
    #[error("nothing to compare: {0}")]
    Compare(String),
    /// The stop button was pressed.
    #[error(transparent)]
    Interrupted(#[from] cell_runtime::Interrupted),
}

/// The first few names.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "none".into(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

pub(crate) fn invalid<T>(name: &'static str, value: impl ToString, expected: &str) -> Result<T, LabError> {
    Err(LabError::Invalid { name, value: value.to_string(), expected: expected.into() })
}

/// Names the file in whatever went wrong with it.
pub(crate) fn at<E: ToString>(path: &Path) -> impl Fn(E) -> LabError + '_ {
    move |error| LabError::File { path: path.into(), problem: error.to_string() }
}
