//! A run on disk.
//!
//! ```text
//! runs/NAME/config.json                  the TrainConfig
//! runs/NAME/metrics.parquet              the history so far
//! runs/NAME/step-000200/config.json      the model, so that zoo::checkpoint::load reads the folder
//!                      /model.safetensors
//!                      /optimizer.safetensors   moments; step, TrainConfig and data in its metadata
//!                      /history.parquet
//! ```
//! A `step-…` folder is made complete under a name with a dot, synced, and renamed: a folder with
//! the final name is complete, whenever the process was killed. Old folders are renamed away before
//! they are deleted, so the same holds while they go.

use super::{AdamW, History, TrainConfig};
use crate::error::at;
use crate::{LabError, read_parquet, write_parquet};
use burn::tensor::Device;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use zoo::{Decoder, checkpoint};

/// Complete checkpoints that are kept.
const KEEP: usize = 2;

/// The complete checkpoints of a run folder, oldest first, with their steps.
pub fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>, LabError> {
    let mut found: Vec<_> = fs::read_dir(run)
        .map_err(at(run))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// The configuration of a run folder.
///
/// # Errors
/// A missing or unreadable `config.json`, with its name.
pub fn run_config(run: &Path) -> Result<TrainConfig, LabError> {
    let path = run.join("config.json");
    let json = fs::read_to_string(&path).map_err(at(&path))?;
    serde_json::from_str(&json).map_err(at(&path))
}

/// What a checkpoint holds.
pub(super) struct State {
    pub model: Decoder,
    pub optimizer: AdamW,
    pub history: History,
    /// What the dataset said of itself.
    pub data: String,
}

/// The folder of one run.
#[derive(Clone, Debug)]
pub(super) struct RunFiles {
    pub dir: PathBuf,
}

impl RunFiles {
    /// Makes the folder, or finds the one of the very same run.
    pub(super) fn open(runs: &Path, config: &TrainConfig) -> Result<Self, LabError> {
        let dir = runs.join(&config.name);
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        if dir.join("config.json").exists() {
            let fields = config.differences(&run_config(&dir)?);
            if !fields.is_empty() {
                return Err(LabError::OtherConfig { dir, fields });
            }
        } else {
            checkpoint::write_atomically(&dir.join("config.json"), config.to_json().as_bytes())?;
        }
        Ok(Self { dir })
    }

    /// Keeps other processes from training the same run, for as long as the file lives: the kernel
    /// lets go of the lock when a process dies, however it dies.
    pub(super) fn lock(&self) -> Result<File, LabError> {
        let path = self.dir.join(".lock");
        let file = File::create(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(LabError::Busy { dir: self.dir.clone() }),
            Err(fs::TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        // Whatever a killed process left half made or half deleted.
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))?.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if name.starts_with(".step-") {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            } else if name.starts_with(".tmp") {
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(file)
    }

    /// Where the checkpoint of a step is, once it is complete.
    pub(super) fn checkpoint(&self, step: usize) -> PathBuf {
        self.dir.join(format!("step-{step:06}"))
    }

    pub(super) fn write_metrics(&self, history: &History) -> Result<(), LabError> {
        write_parquet(&self.dir.join("metrics.parquet"), &history.frame())
    }

    /// Writes a checkpoint and then removes all but the newest ones.
    pub(super) fn save(
        &self,
        config: &TrainConfig,
        model: &Decoder,
        optimizer: &AdamW,
        history: &History,
        data: &str,
    ) -> Result<(), LabError> {
        let step = history.step();
        let (target, part) = (self.checkpoint(step), self.dir.join(format!(".step-{step:06}.part")));
        if !target.exists() {
            checkpoint::save(&part, &config.model, model)?;
            let metadata = [("step", step.to_string()), ("config", config.to_json()), ("data", data.into())];
            let metadata = metadata.map(|(key, value)| (key.to_string(), value)).into();
            checkpoint::write(&part.join("optimizer.safetensors"), &optimizer.tensors(), metadata)?;
            write_parquet(&part.join("history.parquet"), &history.frame())?;
            sync(&part)?;
            fs::rename(&part, &target).map_err(at(&target))?;
            sync(&self.dir)?;
        }
        let mut all = checkpoints(&self.dir)?;
        all.truncate(all.len().saturating_sub(KEEP));
        for (step, path) in all {
            let going = self.dir.join(format!(".step-{step:06}.old"));
            fs::rename(&path, &going).map_err(at(&path))?;
            fs::remove_dir_all(&going).map_err(at(&going))?;
        }
        Ok(())
    }

    /// The state of a checkpoint, put into `model`.
    pub(super) fn load(dir: &Path, config: &TrainConfig, model: Decoder, device: &Device) -> Result<State, LabError> {
        let path = dir.join("optimizer.safetensors");
        let (moments, metadata) = checkpoint::read(&path)?;
        let json = metadata.get("config").ok_or_else(|| at(&path)("no configuration in its metadata"))?;
        let saved: TrainConfig = serde_json::from_str(json).map_err(at(&path))?;
        let fields = config.differences(&saved);
        if !fields.is_empty() {
            return Err(LabError::OtherConfig { dir: dir.into(), fields });
        }
        let step =
            metadata.get("step").and_then(|s| s.parse().ok()).ok_or_else(|| at(&path)("no step in its metadata"))?;
        let optimizer = AdamW::new(config.betas, config.weight_decay).with_tensors(&moments, step, &path, device)?;
        let weights = dir.join("model.safetensors");
        let (tensors, _) = checkpoint::read(&weights)?;
        let model = checkpoint::apply(model, &tensors, &weights)?;
        let path = dir.join("history.parquet");
        let history = History::from_frame(&read_parquet(&path)?, &path)?;
        if history.step() != step {
            return Err(at(&path)(format!("ends at step {}, the optimiser at step {step}", history.step())));
        }
        let data = metadata.get("data").cloned().unwrap_or_default();
        Ok(State { model, optimizer, history, data })
    }
}

/// Names in a folder reach the disk with the folder, not with their files.
fn sync(dir: &Path) -> Result<(), LabError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}
