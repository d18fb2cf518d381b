//! The checkpoint that a command is given.

use anyhow::{Context, Result};
use burn::tensor::Device;
use std::path::{Path, PathBuf};
use zoo::{Decoder, ModelConfig, pretrained};

/// A checkpoint, as [`folder`] finds it.
pub fn load(checkpoint: &Path, device: &Device) -> Result<(ModelConfig, Decoder)> {
    Decoder::from_pretrained(folder(checkpoint)?, device).context("cannot load the checkpoint")
}

/// The folder of a checkpoint: of ours or of Hugging Face's, the last one of a run, or a model on the Hub.
pub fn folder(checkpoint: &Path) -> Result<PathBuf> {
    let last = lab::train::checkpoints(checkpoint).ok().and_then(|mut all| all.pop());
    match last {
        Some((_, dir)) => Ok(dir),
        None => pretrained::locate(checkpoint).context("cannot find the checkpoint"),
    }
}
