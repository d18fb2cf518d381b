//! The checkpoint that a command is given.

use anyhow::{Context, Result};
use burn::tensor::Device;
use std::path::{Path, PathBuf};
use zoo::{Decoder, ModelConfig, checkpoint, pretrained};

/// A checkpoint of ours or of Hugging Face's, or the last one of a run.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder)> {
    let dir = folder(dir);
    let load = if pretrained::is_pretrained(&dir) { pretrained::load } else { checkpoint::load };
    load(&dir, device).context("cannot load the checkpoint")
}

/// The folder itself, or a run's last checkpoint.
pub fn folder(dir: &Path) -> PathBuf {
    let last = lab::train::checkpoints(dir).ok().and_then(|mut all| all.pop());
    last.map_or_else(|| dir.into(), |(_, checkpoint)| checkpoint)
}
