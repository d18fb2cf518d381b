//! `cargo lab inspect`: what a checkpoint is made of.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use zoo::checkpoint::{self, File};
use zoo::pretrained;

/// Show a checkpoint's mixers, parameters, shapes and bytes.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, ours or Hugging Face's, a run, whose last checkpoint is taken,
    /// or a model on the Hub: OWNER/NAME[/FOLDER][@REVISION]
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", report(&crate::model::folder(&arguments.checkpoint)?).context("cannot describe the checkpoint")?);
    Ok(())
}

/// The configuration in a few lines, then a line per tensor as it is stored: name, shape, type, bytes. Of the
/// weights, only the headers are read.
fn report(dir: &Path) -> Result<String> {
    let config = if pretrained::is_pretrained(dir) { pretrained::model_config } else { checkpoint::config }(dir)?;
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
    let parts = [
        ("experts", config.experts.as_ref().map(serde_json::to_string)),
        ("looped", config.looped.as_ref().map(serde_json::to_string)),
        ("prediction head", config.mtp.as_ref().map(serde_json::to_string)),
    ];
    for (name, part) in parts {
        if let Some(part) = part {
            text += &format!("{name}: {}\n", part?);
        }
    }
    let files = pretrained::weights(dir)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use std::fs;

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

    #[test]
    fn what_stands_beside_the_mixers_is_listed_where_there_is_some() {
        let folder = tempfile::tempdir().unwrap();
        let config = zoo::preset("qwen3-next", "nano").unwrap();
        let config = zoo::ModelConfig { looped: Some(zoo::LoopConfig::new(2)), ..config };
        let model = config.init(0, &Device::flex()).unwrap();
        checkpoint::save(folder.path(), &config, &model).unwrap();
        let text = report(folder.path()).unwrap();
        for line in ["\nexperts: {\"experts\":", "\nlooped: {\"times\":2", "\nprediction head: {\"type\":\"gated\""] {
            assert!(text.contains(line), "{text}");
        }
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
