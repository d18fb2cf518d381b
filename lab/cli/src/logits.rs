//! `cargo lab logits`: a checkpoint's answer to given tokens, as a file.

use crate::root::shown;
use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device, TensorData};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use zoo::{Decoder, ModelConfig, checkpoint, pretrained};

/// Write the logits of a checkpoint for given token ids.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, ours or Hugging Face's, a run, whose last checkpoint is taken,
    /// or a model on the Hub: OWNER/NAME[/FOLDER][@REVISION]
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
    /// A safetensors file with an int64 tensor `ids` [batch, time]
    #[arg(long, value_name = "FILE.safetensors")]
    ids: PathBuf,
    /// Gets the f32 tensor `logits` [batch, time, vocabulary]
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// Tokens per forward pass: the patterns of a long batch do not all have to fit at once.
const TOKENS: usize = 4096;

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let shape = write(&arguments.checkpoint, &arguments.ids, &arguments.out, &device)?;
    eprintln!("{}: logits {shape:?}", shown(&arguments.out));
    Ok(())
}

fn write(dir: &Path, ids: &Path, out: &Path, device: &Device) -> Result<[usize; 3]> {
    let (ids, [batch, time]) = read(ids)?;
    let (config, model) = load(dir, device)?;
    let vocabulary = config.vocab_size;
    if let Some(at) = ids.iter().position(|&id| id < 0 || id >= vocabulary as i64) {
        bail!("token id {} at [{}, {}] is outside the vocabulary 0..{vocabulary}", ids[at], at / time, at % time);
    }
    let ids: Vec<i32> = ids.iter().map(|&id| i32::try_from(id).expect("inside the vocabulary")).collect();
    let rows = (TOKENS / time).max(1);
    let mut logits: Vec<f32> = Vec::with_capacity(batch * time * vocabulary);
    for part in ids.chunks(rows * time) {
        let answer = model.forward(model.tokens(part, [part.len() / time, time])?);
        logits.extend(answer.into_data().convert::<f32>().try_to_vec::<f32>().expect("converted to f32"));
    }
    let shape = [batch, time, vocabulary];
    let tensors = [("logits".to_string(), TensorData::new(logits, shape))].into();
    checkpoint::write(out, &tensors, HashMap::new())?;
    Ok(shape)
}

/// The folder of a checkpoint: of ours or of Hugging Face's, the last one of a run, or a model on the Hub.
pub fn folder(checkpoint: &Path) -> Result<PathBuf> {
    let last = lab::train::checkpoints(checkpoint).ok().and_then(|mut all| all.pop());
    match last {
        Some((_, dir)) => Ok(dir),
        None => pretrained::locate(checkpoint).context("cannot find the checkpoint"),
    }
}

/// A checkpoint, as [`folder`] finds it.
pub fn load(checkpoint: &Path, device: &Device) -> Result<(ModelConfig, Decoder)> {
    let dir = folder(checkpoint)?;
    let load = if pretrained::is_pretrained(&dir) { pretrained::load } else { checkpoint::load };
    load(&dir, device).context("cannot load the checkpoint")
}

fn read(path: &Path) -> Result<(Vec<i64>, [usize; 2])> {
    let (tensors, _) = checkpoint::read(path)?;
    let Some(ids) = tensors.get("ids") else {
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        bail!(
            "{}: expected a tensor `ids`, found {}",
            path.display(),
            if names.is_empty() { "none".into() } else { names.join(", ") }
        );
    };
    let shape = ids.shape().to_vec();
    let [batch, time] = shape[..] else {
        bail!("{}: expected `ids` [batch, time], got shape {shape:?}", path.display());
    };
    if ids.dtype() != DType::I64 {
        bail!("{}: expected `ids` as int64, got {:?}", path.display(), ids.dtype());
    }
    if batch * time == 0 {
        bail!("{}: `ids` {shape:?} holds no tokens", path.display());
    }
    Ok((ids.try_to_vec::<i64>().expect("checked above"), [batch, time]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Element;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = zoo::preset("hybrid", "nano").unwrap();
            let model = config.init(3, &Device::flex()).unwrap();
            checkpoint::save(&folder.path().join("model"), &config, &model).unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn ids<T: Element>(&self, name: &str, values: Vec<T>, shape: &[usize]) {
            let tensors = [(name.to_string(), TensorData::new(values, shape.to_vec()))].into();
            checkpoint::write(&self.path("ids"), &tensors, HashMap::new()).unwrap();
        }

        fn write(&self) -> Result<[usize; 3]> {
            write(&self.path("model"), &self.path("ids"), &self.path("out"), &Device::flex())
        }

        fn refused(&self, parts: &[&str]) {
            let message = crate::terminal::chain(&self.write().unwrap_err());
            assert!(parts.iter().all(|part| message.contains(part)), "{message} should say {parts:?}");
            assert!(!self.path("out").exists(), "nothing is written");
        }
    }

    #[test]
    fn the_file_holds_what_forward_gives() {
        let files = Files::new();
        let ids: Vec<i64> = (0..14).map(|i| i * 17 % 256).collect();
        files.ids("ids", ids.clone(), &[2, 7]);
        assert_eq!(files.write().unwrap(), [2, 7, 256]);
        let (written, _) = checkpoint::read(&files.path("out")).unwrap();
        let (_, model) = checkpoint::load(&files.path("model"), &Device::flex()).unwrap();
        let small: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let expected = model.forward(model.tokens(&small, [2, 7]).unwrap()).into_data();
        assert_eq!(written["logits"].try_to_vec::<f32>().unwrap(), expected.try_to_vec::<f32>().unwrap());
    }

    #[test]
    fn of_a_run_the_last_checkpoint_is_taken() {
        let files = Files::new();
        files.ids("ids", vec![1i64, 2], &[1, 2]);
        std::fs::rename(files.path("model"), files.path("checkpoint")).unwrap();
        std::fs::create_dir(files.path("model")).unwrap();
        std::fs::rename(files.path("checkpoint"), files.path("model/step-000007")).unwrap();
        assert_eq!(files.write().unwrap(), [1, 2, 256]);
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_named_with_its_place() {
        let files = Files::new();
        files.ids("ids", vec![1i64, 2, 3, 4, 300, 6], &[2, 3]);
        files.refused(&["300", "[1, 1]", "0..256"]);
        files.ids("ids", vec![1i64, -1], &[1, 2]);
        files.refused(&["-1", "[0, 1]"]);
        files.ids("ids", vec![i64::from(u32::MAX) + 2], &[1, 1]);
        files.refused(&["4294967297"]);
    }

    #[test]
    fn other_tensors_are_refused() {
        let files = Files::new();
        files.ids("tokens", vec![1i64], &[1, 1]);
        files.refused(&["`ids`", "found tokens"]);
        files.ids("ids", vec![1i32], &[1, 1]);
        files.refused(&["int64", "I32"]);
        files.ids("ids", vec![1i64, 2], &[2]);
        files.refused(&["[batch, time]", "[2]"]);
        files.ids("ids", Vec::<i64>::new(), &[0, 4]);
        files.refused(&["[0, 4]", "no tokens"]);
    }

    #[test]
    fn a_truncated_or_missing_file_is_named() {
        let files = Files::new();
        files.refused(&["ids"]);
        files.ids("ids", vec![1i64], &[1, 1]);
        let weights = files.path("model/model.safetensors");
        let bytes = std::fs::read(&weights).unwrap();
        std::fs::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
        files.refused(&["model.safetensors"]);
        std::fs::write(&weights, &bytes[..9]).unwrap();
        files.refused(&["model.safetensors"]);
        std::fs::remove_file(&weights).unwrap();
        files.refused(&["model.safetensors"]);
        std::fs::remove_file(files.path("model/config.json")).unwrap();
        files.refused(&["config.json"]);
    }
}
