//! `cargo lab inspect`: what a checkpoint is made of.

use anyhow::{Context, Result};
use burn::tensor::Device;
use std::path::PathBuf;
use zoo::{ModelConfig, checkpoint};

/// Show a checkpoint's mixers, parameters, shapes and bytes.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, ours or Hugging Face's, a run, whose last checkpoint is taken,
    /// or a model on the Hub: OWNER/NAME[/FOLDER][@REVISION]
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let (config, model) = crate::logits::load(&arguments.checkpoint, &Device::flex())?;
    let tensors = checkpoint::tensors(&model);
    print!("{}", report(&config, &tensors).context("cannot describe the checkpoint")?);
    Ok(())
}

/// The configuration in a line, then a line per parameter: name, shape, type, bytes.
fn report(config: &ModelConfig, tensors: &checkpoint::Tensors) -> Result<String> {
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
    let widest = tensors.keys().map(String::len).max().unwrap_or(0);
    let (mut elements, mut bytes) = (0, 0);
    for (name, data) in tensors {
        let shape = format!("{:?}", data.shape().to_vec());
        let size = data.as_bytes().len();
        text += &format!("{name:widest$}  {shape:>14}  {:?}  {size:>10} B\n", data.dtype());
        elements += data.num_elements();
        bytes += size;
    }
    text += &format!("{} tensors, {elements} parameters, {:.2} MB\n", tensors.len(), bytes as f64 / 1e6);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_and_every_mixer_is_listed() {
        let config = zoo::preset("hybrid", "nano").unwrap();
        let tensors = checkpoint::tensors(&config.init(0, &Device::flex()).unwrap());
        let text = report(&config, &tensors).unwrap();
        assert!(tensors.keys().all(|name| text.contains(name.as_str())), "{text}");
        assert!(text.contains("layer 3: {\"type\":\"gated\""), "{text}");
        assert!(text.contains(&format!("{} parameters", config.parameters())), "{text}");
    }
}
