//! `cargo lab inspect`: what a checkpoint is made of.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use zoo::checkpoint::File;
use zoo::{ModelConfig, pretrained};

/// Show a checkpoint's mixers, parameters, shapes and bytes.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, ours or Hugging Face's, or a run, whose last checkpoint is taken
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", report(&crate::model::folder(&arguments.checkpoint)).context("cannot describe the checkpoint")?);
    Ok(())
}

/// The configuration in a line, then a line per tensor as it is stored: name, shape, type, bytes. Of the
/// weights, only the headers are read.
fn report(dir: &Path) -> Result<String> {
    let config = config(dir)?;
    let mut text = format!(
        "{} layers, width {}, feed-forward {}, vocabulary {}, {} output\n",
        config.layers,
        config.d_model,
        config.d_ff,
        config.vocab_size,
        if config.tied { "tied" } else { "own" },
    );
    for layer in 0..config.layers {
        text += &format!("layer {layer}: {}\n", serde_json::to_string(config.mixer(layer))?);
    }
    let files = weights(dir)?;
    let stored: Vec<_> = files.iter().flat_map(File::stored).collect();
    let widest = stored.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let (mut elements, mut bytes) = (0, 0);
    for (name, info) in &stored {
        let shape = format!("{:?}", info.shape);
        let size = info.data_offsets.1 - info.data_offsets.0;
        text += &format!("{name:widest$}  {shape:>14}  {:?}  {size:>10} B\n", info.dtype);
        elements += info.shape.iter().product::<usize>();
        bytes += size;
    }
    let (count, described) = (stored.len(), config.parameters());
    text += &format!("{count} tensors, {elements} numbers, {:.2} MB; ", bytes as f64 / 1e6);
    text += &format!("config.json describes {described} parameters\n");
    Ok(text)
}

fn config(dir: &Path) -> Result<ModelConfig> {
    if pretrained::is_pretrained(dir) {
        return Ok(pretrained::model_config(dir)?);
    }
    let path = dir.join("config.json");
    let named = || path.display().to_string();
    ModelConfig::from_json(&fs::read_to_string(&path).with_context(named)?).with_context(named)
}

/// `model.safetensors` or its shards.
fn weights(dir: &Path) -> Result<Vec<File>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.retain(|path| name(path).starts_with("model") && name(path).ends_with(".safetensors"));
    paths.sort();
    if paths.is_empty() {
        bail!("{}: no model.safetensors", dir.display());
    }
    Ok(paths.iter().map(|path| File::open(path)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use zoo::checkpoint;

    #[test]
    fn every_parameter_and_every_mixer_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let config = zoo::preset("hybrid", "nano").unwrap();
        let model = config.init(0, &Device::flex()).unwrap();
        checkpoint::save(folder.path(), &config, &model).unwrap();
        let text = report(folder.path()).unwrap();
        assert!(checkpoint::tensors(&model).keys().all(|name| text.contains(name.as_str())), "{text}");
        assert!(text.contains("layer 3: {\"type\":\"gated\""), "{text}");
        let parameters = config.parameters();
        assert!(text.contains(&format!("{parameters} numbers")), "{text}");
        assert!(text.contains(&format!("describes {parameters} parameters")), "{text}");
    }

    /// A file of 8 GB, nothing of which is on disk: all of it a hole behind the header.
    #[test]
    fn a_huge_file_is_described_by_its_header_with_the_types_it_stores() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let config = zoo::preset("baseline", "nano").unwrap();
        fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
        let header = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[1000000,4000],\"data_offsets\":[0,8000000000]}}";
        let mut file = fs::File::create(folder.path().join("model.safetensors")).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + 8_000_000_000).unwrap();
        let text = report(folder.path()).unwrap();
        assert!(text.contains("[1000000, 4000]  BF16  8000000000 B"), "{text}");
    }
}
