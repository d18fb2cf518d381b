//! Checkpoints as Hugging Face writes them: `config.json` and safetensors, whole or in shards.
//!
//! | `model_type` | becomes | source |
//! |---|---|---|
//! | `llama` | [`Softmax`](crate::Softmax) | Llama 2 and 3 |
//! | `qwen3` | the same with QK-norm | Qwen3 |
//! | `qwen3` with an output-gate flag | [`Gated`](crate::Gated) | `QwQZh/gated_attention` |
//! | `diffllama` | [`Differential`](crate::Differential) V1 | DiffLlama |
//!
//! Nothing is skipped in silence: an option that would change the result and is not known here, a
//! missing or unknown tensor and a wrong shape are one error that lists them all.

mod config;
mod families;
mod rows;
mod save;
pub mod unilm;

use crate::checkpoint::{self, Tensors};
use crate::{Decoder, ModelConfig, ZooError};
use burn::tensor::Device;
use config::HfConfig;
use std::collections::BTreeSet;
use std::path::Path;

/// A decoder from a directory that Hugging Face's `save_pretrained` wrote.
///
/// Weights become f32, whatever they are stored as.
///
/// # Errors
/// Names the file and everything that is wrong with it.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let hf = config(dir)?;
    let model_config = model_config(dir)?;
    let mut ours = families::rename(&hf, read(dir)?).map_err(|e| problem(dir, e))?;
    ours.extend(families::implied(&hf));
    check(&model_config, &ours).map_err(|e| problem(dir, e))?;
    let model = checkpoint::apply(model_config.init(0, device)?, &ours, dir)?;
    Ok((model_config, model))
}

/// What the `config.json` of such a directory describes.
///
/// # Errors
/// As [`load`].
pub fn model_config(dir: &Path) -> Result<ModelConfig, ZooError> {
    let config = config(dir)?.model_config();
    config.validate().map_err(|e| problem(&dir.join("config.json"), e.to_string()))?;
    Ok(config)
}

/// What must hold before a model is made.
fn check(config: &ModelConfig, tensors: &Tensors) -> Result<(), String> {
    checkpoint::backed(config, tensors.values().map(|data| data.num_elements()).sum())?;
    let bad = tensors.iter().filter(|(_, data)| !checkpoint::finite(data));
    let names: Vec<&str> = bad.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("{}: {}", checkpoint::NOT_FINITE, names.join(", ")))
}

/// Writes a decoder so that Hugging Face reads it back and computes the same: `config.json` in the
/// dialect of transformers 5 and `model.safetensors`. (The gated family needs the modelling code of
/// its release.)
///
/// # Errors
/// What no class of Hugging Face computes; a file that cannot be written, with its name.
pub fn save(dir: &Path, config: &ModelConfig, model: &Decoder) -> Result<(), ZooError> {
    let json = save::config(config).map_err(|e| problem(dir, e))?;
    let tensors = save::tensors(config, &checkpoint::tensors(model)).map_err(|e| problem(dir, e))?;
    std::fs::create_dir_all(dir).map_err(|e| problem(dir, e.to_string()))?;
    let metadata = [("format".to_string(), "pt".to_string())].into();
    checkpoint::write(&dir.join("model.safetensors"), &tensors, metadata)?;
    checkpoint::write_atomically(&dir.join("config.json"), format!("{json:#}\n").as_bytes())
}

/// Tensors that belong to the parameters of the checkpoint in `dir`, such as gradients, from their
/// names and layouts to ours.
///
/// # Errors
/// As [`load`].
pub fn translate(dir: &Path, tensors: Tensors) -> Result<Tensors, ZooError> {
    families::rename(&config(dir)?, tensors).map_err(|e| problem(dir, e))
}

fn config(dir: &Path) -> Result<HfConfig, ZooError> {
    let path = dir.join("config.json");
    HfConfig::parse(&checkpoint::read_text(&path)?).map_err(|e| problem(&path, e))
}

/// Whether a directory's `config.json` is one of Hugging Face's.
pub fn is_pretrained(dir: &Path) -> bool {
    let json = checkpoint::read_text(&dir.join("config.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|config| config.get("model_type").is_some())
}

/// Every tensor of `model.safetensors`, or of the shards that its index names.
fn read(dir: &Path) -> Result<Tensors, ZooError> {
    let index = dir.join("model.safetensors.index.json");
    // A link that leads nowhere is an index that cannot be read, not the absence of one.
    if index.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(checkpoint::read(&dir.join("model.safetensors"))?.0);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let Index { weight_map } =
        serde_json::from_str(&checkpoint::read_text(&index)?).map_err(|e| problem(&index, e.to_string()))?;
    let shards: BTreeSet<&String> = weight_map.values().collect();
    let mut tensors = Tensors::new();
    for shard in shards {
        // A shard lies beside its index and nowhere else.
        if Path::new(shard).components().count() != 1 || shard.contains(['/', '\\']) || shard == ".." {
            return Err(problem(&index, format!("`{shard}` is no file name")));
        }
        for (name, data) in checkpoint::read(&dir.join(shard))?.0 {
            if weight_map.get(&name) == Some(shard) {
                tensors.insert(name, data);
            }
        }
    }
    let absent: Vec<&str> = weight_map.keys().filter(|name| !tensors.contains_key(*name)).map(String::as_str).collect();
    if !absent.is_empty() {
        return Err(problem(&index, format!("not in the shards it names: {}", absent.join(", "))));
    }
    Ok(tensors)
}

fn problem(path: &Path, problem: String) -> ZooError {
    ZooError::Checkpoint { path: path.into(), problem }
}
