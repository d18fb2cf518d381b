//! `cargo lab export`: a checkpoint for Hugging Face.

use crate::root::shown;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use zoo::pretrained;

/// Write a checkpoint or a run as Hugging Face's transformers reads it.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, a run, whose last checkpoint is taken, or a model on the Hub:
    /// OWNER/NAME[/FOLDER][@REVISION]
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
    /// A new folder; gets config.json, model.safetensors and the checkpoint's tokenizer
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    write(&arguments.checkpoint, &arguments.out)?;
    eprintln!("{}: config.json, model.safetensors, and the tokenizer where there is one", shown(&arguments.out));
    Ok(())
}

fn write(checkpoint: &Path, out: &Path) -> Result<()> {
    pretrained::export(crate::model::folder(checkpoint)?, out).context("cannot export the checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use zoo::checkpoint;

    #[test]
    fn an_export_is_read_back_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let config = zoo::preset("gated", "nano").unwrap();
        let model = config.init(5, &Device::flex()).unwrap();
        checkpoint::save(&ours, &config, &model).unwrap();
        write(&ours, &theirs).unwrap();
        let (_, back) = pretrained::load(&theirs, &Device::flex()).unwrap();
        let ids = model.tokens(&[3, 1, 4, 1, 5], [1, 5]).unwrap();
        let difference = (model.forward(ids.clone()) - back.forward(ids)).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-6, "{difference}");
        let message = crate::terminal::chain(&write(&ours, &theirs).unwrap_err());
        assert!(message.contains("holds config.json, model.safetensors already"), "{message}");
    }
}
