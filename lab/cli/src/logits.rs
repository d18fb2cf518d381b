//! `cargo lab logits`: a checkpoint's answer to given tokens, and what happens inside on the way, as a
//! file.

use crate::root::shown;
use anyhow::{Result, bail};
use burn::tensor::{DType, Device, TensorData};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use zoo::{Decoder, Record, Tap, checkpoint, tap};

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
    /// Gets the f32 tensor `logits` [batch, time, vocabulary], and the tapped ones
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Values inside the model to write beside the logits, such as 'blocks.*.mixer.pattern' (`*` stands for
    /// any run of characters); may be given several times
    #[arg(long, value_name = "NAME")]
    taps: Vec<String>,
}

/// Tokens per forward pass: the patterns of a long batch do not all have to fit at once.
const TOKENS: usize = 4096;

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let Arguments { checkpoint, ids, out, taps } = arguments;
    for (name, shape) in write(checkpoint, ids, out, taps, &device)? {
        eprintln!("{}: {name} {shape:?}", shown(out));
    }
    Ok(())
}

/// The names and shapes of what was written.
fn write(dir: &Path, ids: &Path, out: &Path, taps: &[String], device: &Device) -> Result<Vec<(String, Vec<usize>)>> {
    let (ids, time) = read(ids)?;
    let (config, model) = crate::model::load(dir, device)?;
    let vocabulary = config.vocab_size;
    if let Some(at) = ids.iter().position(|&id| id < 0 || id >= vocabulary as i64) {
        bail!("token id {} at [{}, {}] is outside the vocabulary 0..{vocabulary}", ids[at], at / time, at % time);
    }
    let ids: Vec<i32> = ids.iter().map(|&id| i32::try_from(id).expect("inside the vocabulary")).collect();
    let mut names = vec!["logits"];
    names.extend(taps.iter().map(String::as_str));
    offered(&model, &names)?;
    let rows = (TOKENS / time).max(1);
    let mut all: BTreeMap<String, (Vec<f32>, Vec<usize>)> = BTreeMap::new();
    for part in ids.chunks(rows * time) {
        let mut record = Record::new(&names);
        model.forward_with(model.tokens(part, [part.len() / time, time])?, &mut record);
        for (name, value) in record.values {
            let (values, shape) = all.entry(name.clone()).or_insert_with(|| (Vec::new(), vec![0; value.shape().len()]));
            let gate_of_all = name.ends_with(".gate") && value.shape()[..2] == [1, 1] && part.len() > 1;
            if value.shape().len() == 1 || gate_of_all {
                // One for the whole layer (λ of DIFF V1, a gate that no token changes).
                (*values, *shape) = (value.to_vec(), value.shape().to_vec());
                continue;
            }
            let sequences = shape[0] + value.shape()[0];
            *shape = value.shape().to_vec();
            shape[0] = sequences;
            values.extend(value.to_vec());
        }
    }
    let shapes = all.iter().map(|(name, (_, shape))| (name.clone(), shape.clone())).collect();
    let tensors = all.into_iter().map(|(name, (values, shape))| (name, TensorData::new(values, shape))).collect();
    checkpoint::write(out, &tensors, HashMap::new())?;
    Ok(shapes)
}

/// Before the long work, one token: does every glob name something of this model?
fn offered(model: &Decoder, globs: &[&str]) -> Result<()> {
    let mut record = Record::new(&["*"]);
    model.forward_with(model.tokens(&[0], [1, 1])?, &mut record);
    let any = |glob: &str| record.values.keys().any(|name| Record::new(&[glob]).wants(name));
    if let Some(unknown) = globs.iter().find(|glob| !any(glob)) {
        let names = tap::NAMES.iter().filter(|(name, _)| any(&name.replace(".N.", ".*.")));
        let names: Vec<String> = names.map(|(name, what)| format!("\n  {name}  {what}")).collect();
        bail!("no value of this model is named `{unknown}`; there are (N: a number, from 0){}", names.concat());
    }
    Ok(())
}

/// The token ids, and how many make a sequence.
fn read(path: &Path) -> Result<(Vec<i64>, usize)> {
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
    Ok((ids.try_to_vec::<i64>().expect("checked above"), time))
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

        fn write(&self) -> Result<Vec<(String, Vec<usize>)>> {
            self.tap(&[])
        }

        fn tap(&self, taps: &[&str]) -> Result<Vec<(String, Vec<usize>)>> {
            let taps: Vec<String> = taps.iter().map(|tap| tap.to_string()).collect();
            write(&self.path("model"), &self.path("ids"), &self.path("out"), &taps, &Device::flex())
        }

        fn written(&self) -> checkpoint::Tensors {
            checkpoint::read(&self.path("out")).unwrap().0
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
        assert_eq!(files.write().unwrap(), [("logits".into(), vec![2, 7, 256])]);
        let written = files.written();
        let (_, model) = checkpoint::load(&files.path("model"), &Device::flex()).unwrap();
        let small: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let expected = model.forward(model.tokens(&small, [2, 7]).unwrap()).into_data();
        assert_eq!(written["logits"].try_to_vec::<f32>().unwrap(), expected.try_to_vec::<f32>().unwrap());
    }

    #[test]
    fn tapped_values_are_those_of_the_forward_pass() {
        let files = Files::new();
        // More sequences than one pass takes.
        let (batch, time) = (9, 500);
        let ids: Vec<i64> = (0..batch * time).map(|i| i as i64 * 31 % 256).collect();
        files.ids("ids", ids.clone(), &[batch, time]);
        files.tap(&["blocks.3.mixer.gate", "blocks.*.mixer.beta"]).unwrap();
        let written = files.written();
        let names = [0, 1, 2].map(|block| format!("blocks.{block}.mixer.beta"));
        let expected: Vec<&str> = names.iter().map(String::as_str).chain(["blocks.3.mixer.gate", "logits"]).collect();
        assert!(written.keys().eq(expected), "{:?}", written.keys());
        assert_eq!(written["blocks.3.mixer.gate"].shape().to_vec(), [batch, time, 2, 16]);

        let (_, model) = checkpoint::load(&files.path("model"), &Device::flex()).unwrap();
        let last: Vec<i32> = ids[(batch - 1) * time..].iter().map(|&id| id as i32).collect();
        let mut record = Record::new(&["blocks.1.mixer.beta"]);
        model.forward_with(model.tokens(&last, [1, time]).unwrap(), &mut record);
        let (found, value) = (&written["blocks.1.mixer.beta"], &record.values["blocks.1.mixer.beta"]);
        let found = found.try_to_vec::<f32>().unwrap();
        assert_eq!(found[found.len() - value.to_vec().len()..], value.to_vec()[..]);
    }

    #[test]
    fn a_tap_that_is_not_there_is_answered_with_those_that_are() {
        let files = Files::new();
        files.ids("ids", vec![1i64], &[1, 1]);
        let message = files.tap(&["blocks.*.mixer.beta", "blocks.4.mixer.gate"]).unwrap_err().to_string();
        for part in ["`blocks.4.mixer.gate`", "blocks.N.mixer.gate", "blocks.N.mixer.beta", "embedding"] {
            assert!(message.contains(part), "{message} should say {part}");
        }
        assert!(!message.contains("mixer.lambda"), "what other models have: {message}");
        assert!(!files.path("out").exists(), "nothing is written");
    }

    #[test]
    fn of_a_run_the_last_checkpoint_is_taken() {
        let files = Files::new();
        files.ids("ids", vec![1i64, 2], &[1, 2]);
        std::fs::rename(files.path("model"), files.path("checkpoint")).unwrap();
        std::fs::create_dir(files.path("model")).unwrap();
        std::fs::rename(files.path("checkpoint"), files.path("model/step-000007")).unwrap();
        assert_eq!(files.write().unwrap(), [("logits".into(), vec![1, 2, 256])]);
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
