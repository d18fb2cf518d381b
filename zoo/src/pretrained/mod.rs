//! Checkpoints as Hugging Face writes them: `config.json` and safetensors, whole or in shards.
//!
//! | `model_type` | becomes | source |
//! |---|---|---|
//! | `llama` | [`Softmax`](crate::Softmax) | Llama 2 and 3 |
//! | `qwen3` | the same with QK-norm | Qwen3 |
//! | `qwen3` with an output-gate flag | [`Gated`](crate::Gated) | `QwQZh/gated_attention` |
//! | `diffllama` | [`Differential`](crate::Differential) V1 | DiffLlama |
//! | `qwen3_next` | [`GatedDelta`](crate::GatedDelta) and [`Gated`](crate::Gated), experts, prediction head | Qwen3-Next |
//! | `gated_deltanet` | [`GatedDelta`](crate::GatedDelta) | flash-linear-attention |
//! | `kda` | [`Kda`](crate::Kda) | flash-linear-attention |
//!
//! Of `gpt_oss`, [`gpt_oss::attention`] reads the attention.
//!
//! Nothing is skipped in silence: an option that would change the result and is not known here, a
//! missing or unknown tensor and a wrong shape are one error that lists them all.

mod export;
mod families;
mod fields;
pub mod gpt_oss;
mod layout;
mod shards;
mod source;
pub mod unilm;

use crate::checkpoint::{self, CONFIG, Tensors};
use crate::{Block, Decoder, ModelConfig, ZooError};
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use families::Family;
use layout::{Place, Shapes, Sources};
use serde_json::{Map, Value};
use shards::Shards;
use std::path::Path;

pub use export::export;
pub use source::{locate, stop_ids};

/// A decoder from a directory that Hugging Face's `save_pretrained` wrote.
///
/// Weights become f32, whatever they are stored as, and are in memory once.
///
/// # Errors
/// Names the file and everything that is wrong with it.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let shards = Shards::open(dir)?;
    let Fitting { family, config, model, places, shapes } = Fitting::of(dir, shards.shapes(), device)?;
    let (sources, implied) = (Sources::of(&places), (family.implied)(&config));
    let ours =
        |name: &str| sources.tensor(name, |theirs| shards.weight(theirs)).unwrap_or_else(|| Ok(implied[name].clone()));
    let names = sources.names().chain(implied.keys().map(String::as_str));
    let shapes = names.map(|name| (name.to_owned(), shapes[name].clone())).collect();
    Ok((config, checkpoint::fill(model, shapes, ours, dir)?))
}

/// A model that tensors of theirs fit, before it is given them.
struct Fitting {
    family: &'static Family,
    config: ModelConfig,
    model: Decoder,
    places: Vec<Place>,
    /// Of our tensors.
    shapes: Shapes,
}

impl Fitting {
    /// # Errors
    /// What is wrong with the `config.json` in `dir`; every tensor that is missing, unknown or of another shape.
    fn of(dir: &Path, mut theirs: Shapes, device: &Device) -> Result<Self, ZooError> {
        let (family, config) = described(dir, &theirs)?;
        let held = theirs.values().map(|shape| shape.iter().product::<usize>()).sum();
        // Every block has tensors of its own, and every expert in it.
        let networks = config.layers * config.experts.as_ref().map_or(1, |experts| experts.experts);
        if networks > 2 * theirs.len() {
            let count = theirs.len();
            let what = format!("config.json describes {networks} feed-forward networks, there are {count} tensors");
            return Err(problem(dir, what));
        }
        checkpoint::backed(&config, held).map_err(|e| problem(dir, e))?;

        let model = config.blank(device)?;
        let (places, shapes) = (family.places(&config), checkpoint::shapes(&model));
        theirs.retain(|name, _| !is_idle(name, &config));
        let problems = layout::problems(&places, &theirs, &shapes);
        if !problems.is_empty() {
            return Err(problem(dir, problems.join("; ")));
        }
        Ok(Self { family, config, model, places, shapes })
    }
}

/// What the `config.json` of such a directory describes. Of the weights, only the headers are read.
///
/// # Errors
/// As [`load`].
pub fn model_config(dir: &Path) -> Result<ModelConfig, ZooError> {
    Ok(described(dir, &Shards::open(dir)?.shapes())?.1)
}

/// The files of weights in such a directory or one of ours, open: `model.safetensors`, or the shards that
/// its index names.
///
/// # Errors
/// A missing or damaged file, with its name.
pub fn weights(dir: &Path) -> Result<Vec<checkpoint::File>, ZooError> {
    Ok(Shards::open(dir)?.files)
}

/// The same with its family; `theirs` are the tensors beside it.
fn described(dir: &Path, theirs: &Shapes) -> Result<(&'static Family, ModelConfig), ZooError> {
    let path = dir.join(CONFIG);
    let (family, config) = families::read(&checkpoint::read_text(&path)?, theirs).map_err(|e| problem(&path, e))?;
    config.validate().map_err(|e| problem(&path, e.to_string()))?;
    Ok((family, config))
}

/// Buffers that old files carry and every implementation computes, and a second copy of a tied matrix.
fn is_idle(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || config.tied && name == "lm_head.weight"
}

/// Writes a decoder so that Hugging Face reads it back and computes the same: `config.json` in the
/// dialect of transformers 5 and `model.safetensors`; an index of shards that lie there is removed. (The gated
/// family needs the modelling code of its release.) No token begins or ends a text; [`export()`] keeps those of a
/// checkpoint.
///
/// # Errors
/// What no class of Hugging Face computes, mixers of one's own among it; a model that is not the
/// configuration's; a file that cannot be written, with its name.
pub fn save(dir: &Path, config: &ModelConfig, model: &Decoder) -> Result<(), ZooError> {
    write(dir, config, model, Map::new())
}

/// The same with more fields of `config.json`.
fn write(dir: &Path, config: &ModelConfig, model: &Decoder, more: Map<String, Value>) -> Result<(), ZooError> {
    config.validate()?;
    let other = |(layer, block): &(usize, &Block)| !config.mixer(*layer).makes(&block.mixer);
    if let Some((layer, _)) = model.blocks.iter().enumerate().find(other) {
        return Err(problem(
            dir,
            format!("the mixer of block {layer} is not of the kind that the configuration names"),
        ));
    }
    let (held, described) = (model.num_params(), config.parameters());
    if held != described {
        return Err(problem(dir, format!("the model has {held} parameters, its configuration {described}")));
    }
    let (family, mut fields) = families::write(config).map_err(|e| problem(dir, e))?;
    fields.extend(more);
    let mut ours = checkpoint::tensors(model);
    (family.fold)(config, &mut ours);
    let theirs = layout::to_theirs(&family.places(config), &ours);
    let metadata = [("format".to_string(), "pt".to_string())].into();
    checkpoint::replace(dir, &theirs, metadata, &format!("{:#}\n", Value::Object(fields)))
}

/// Tensors that belong to the parameters of the checkpoint in `dir`, such as gradients, from their
/// names and layouts to ours.
///
/// # Errors
/// As [`load`].
pub fn translate(dir: &Path, tensors: Tensors) -> Result<Tensors, ZooError> {
    let shape = |(name, data): (&String, &TensorData)| (name.clone(), data.shape().to_vec());
    let Fitting { places, .. } = Fitting::of(dir, tensors.iter().map(shape).collect(), &Device::flex())?;
    let sources = Sources::of(&places);
    let read = |name: &str| Ok::<_, ZooError>(tensors[name].clone());
    let ours = |name: &str| Ok((name.to_owned(), sources.tensor(name, read).expect("a name of its own")?));
    sources.names().map(ours).collect()
}

/// Whether a directory's `config.json` is one of Hugging Face's.
pub fn is_pretrained(dir: &Path) -> bool {
    let json = checkpoint::read_text(&dir.join(CONFIG)).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|config| config.get("model_type").is_some())
}

fn problem(path: &Path, problem: String) -> ZooError {
    ZooError::Checkpoint { path: path.into(), problem }
}
