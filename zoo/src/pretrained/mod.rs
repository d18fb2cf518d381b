//! Checkpoints as Hugging Face writes them: `config.json` and safetensors, whole or in shards.
//!
//! | `model_type` | becomes | source |
//! |---|---|---|
//! | `llama` | [`Softmax`](crate::Softmax) | Llama 2 and 3 |
//! | `qwen3` | the same with QK-norm | Qwen3 |
//! | `qwen3` with an output-gate flag | [`Gated`](crate::Gated) | `QwQZh/gated_attention` |
//! | `diffllama` | [`Differential`](crate::Differential) V1 | DiffLlama |
//! | `qwen3_next` | [`GatedDelta`](crate::GatedDelta) and [`Gated`](crate::Gated), experts, prediction head | Qwen3-Next |
//!
//! Nothing is skipped in silence: an option that would change the result and is not known here, a
//! missing or unknown tensor and a wrong shape are one error that lists them all.

mod families;
mod fields;
mod layout;

use crate::checkpoint::{self, Tensors};
use crate::{Decoder, ModelConfig, ZooError};
use burn::tensor::{Device, TensorData};
use families::Family;
use std::collections::BTreeSet;
use std::path::Path;

/// A decoder from a directory that Hugging Face's `save_pretrained` wrote.
///
/// Weights become f32, whatever they are stored as.
///
/// # Errors
/// Names the file and everything that is wrong with it.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let theirs = read(dir)?;
    let (family, config) = config(dir, &theirs)?;
    config.validate().map_err(|e| problem(&dir.join("config.json"), e.to_string()))?;
    check(&config, &theirs).map_err(|e| problem(dir, e))?;
    let model = config.init(0, device)?;
    let mut ours = ours(family, &config, &model, theirs).map_err(|e| problem(dir, e))?;
    ours.extend(family.implied(&config));
    let model = checkpoint::apply(model, &ours, dir)?;
    Ok((config, model))
}

/// What must hold before a model is made: a few lines of JSON must not ask for more memory than the
/// file's tensors take, and weights are finite numbers.
fn check(config: &ModelConfig, tensors: &Tensors) -> Result<(), String> {
    let held: usize = tensors.values().map(|data| data.num_elements()).sum();
    // Every block has tensors of its own, and every expert in it.
    let networks = config.layers * config.experts.as_ref().map_or(1, |experts| experts.experts);
    if networks > tensors.len() * 2 {
        return Err(format!(
            "config.json describes {networks} feed-forward networks, there are {} tensors",
            tensors.len()
        ));
    }
    let described = config.parameters();
    if described / 2 > held {
        return Err(format!("config.json describes {described} parameters, the tensors hold {held}"));
    }
    let bad = |data: &TensorData| !data.dtype().is_float() || data.iter::<f64>().any(|x| !x.is_finite());
    let names: Vec<&str> = tensors.iter().filter(|(_, data)| bad(data)).map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("not of finite floating-point numbers: {}", names.join(", ")))
}

/// Writes a decoder so that Hugging Face reads it back and computes the same: `config.json` in the
/// dialect of transformers 5 and `model.safetensors`. (The gated family needs the modelling code of
/// its release.)
///
/// # Errors
/// What no class of Hugging Face computes; a file that cannot be written, with its name.
pub fn save(dir: &Path, config: &ModelConfig, model: &Decoder) -> Result<(), ZooError> {
    let (family, json) = families::write(config).map_err(|e| problem(dir, e))?;
    let mut ours = checkpoint::tensors(model);
    family.fold(config, &mut ours);
    let theirs = layout::to_theirs(&family.places(config), &ours);
    std::fs::create_dir_all(dir).map_err(|e| problem(dir, e.to_string()))?;
    let metadata = [("format".to_string(), "pt".to_string())].into();
    checkpoint::write(&dir.join("model.safetensors"), &theirs, metadata)?;
    checkpoint::write_atomically(&dir.join("config.json"), format!("{json:#}\n").as_bytes())
}

/// Tensors that belong to the parameters of the checkpoint in `dir`, such as gradients, from their
/// names and layouts to ours.
///
/// # Errors
/// As [`load`].
pub fn translate(dir: &Path, tensors: Tensors) -> Result<Tensors, ZooError> {
    let (family, config) = config(dir, &tensors)?;
    ours(family, &config, &config.init(0, &Device::flex())?, tensors).map_err(|e| problem(dir, e))
}

fn config(dir: &Path, tensors: &Tensors) -> Result<(&'static Family, ModelConfig), ZooError> {
    let path = dir.join("config.json");
    let json = std::fs::read_to_string(&path).map_err(|e| problem(&path, e.to_string()))?;
    families::read(&json, tensors).map_err(|e| problem(&path, e))
}

/// Their tensors under our names.
fn ours(family: &Family, config: &ModelConfig, model: &Decoder, mut theirs: Tensors) -> Result<Tensors, String> {
    // Buffers that old files carry and every implementation computes.
    theirs.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    if config.tied {
        theirs.remove("lm_head.weight");
    }
    let shape = |(name, data): (String, TensorData)| (name, data.shape().to_vec());
    let shapes = checkpoint::tensors(model).into_iter().map(shape).collect();
    layout::to_ours(&family.places(config), theirs, &shapes)
}

/// Whether a directory's `config.json` is one of Hugging Face's.
pub fn is_pretrained(dir: &Path) -> bool {
    let json = std::fs::read_to_string(dir.join("config.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|config| config.get("model_type").is_some())
}

/// Every tensor of `model.safetensors`, or of the shards that its index names.
fn read(dir: &Path) -> Result<Tensors, ZooError> {
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(checkpoint::read(&dir.join("model.safetensors"))?.0);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let json = std::fs::read_to_string(&index).map_err(|e| problem(&index, e.to_string()))?;
    let Index { weight_map } = serde_json::from_str(&json).map_err(|e| problem(&index, e.to_string()))?;
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
