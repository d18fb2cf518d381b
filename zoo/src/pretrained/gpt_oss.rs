//! The attention of gpt-oss: grouped keys, biases, a learned sink logit per head, a window in every other
//! layer, YaRN. (Its experts are of another kind than any here, so a whole model is not read.)

use super::fields::Fields;
use super::layout::{self, Place, Shapes, Sources};
use super::shards::Shards;
use super::{families, problem};
use crate::checkpoint::{self, read_text};
use crate::{Init, Sink, Softmax, SoftmaxConfig, ZooError};
use burn::tensor::Device;
use serde_json::{Map, Value};
use std::path::Path;

/// The attention of block `layer` of a gpt-oss checkpoint.
///
/// # Errors
/// Names the file and everything that is wrong with it; another `model_type`; a layer that it does not
/// have.
pub fn attention(dir: &Path, layer: usize, device: &Device) -> Result<(SoftmaxConfig, Softmax), ZooError> {
    let shards = Shards::open(dir)?;
    let prefix = format!("model.layers.{layer}.self_attn.");
    let own = |(name, shape): (String, Vec<usize>)| Some((name.strip_prefix(&prefix)?.to_owned(), shape));
    let theirs: Shapes = shards.shapes().into_iter().filter_map(own).collect();
    let path = dir.join("config.json");
    let (config, d_model) = read(&read_text(&path)?, layer).map_err(|e| problem(&path, e))?;
    config.validate(d_model).map_err(|e| problem(&path, e.to_string()))?;
    let held: usize = theirs.values().map(|shape| shape.iter().product::<usize>()).sum();
    if config.parameters(d_model) > held {
        let described = config.parameters(d_model);
        return Err(problem(dir, format!("config.json describes {described} parameters, {prefix}* holds {held}")));
    }

    let mixer = config.init(d_model, &mut Init::blank(1, device));
    let shapes = checkpoint::shapes(&mixer);
    let places: Vec<Place> = shapes.iter().map(|(name, shape)| place(name, shape)).collect();
    let problems = layout::problems(&places, &theirs, &shapes);
    if !problems.is_empty() {
        return Err(problem(dir, format!("{prefix}*: {}", problems.join("; "))));
    }
    let sources = Sources::of(&places);
    let read = |theirs: &str| shards.weight(&format!("{prefix}{theirs}"));
    let ours = |name: &str| sources.tensor(name, read).expect("a place for every tensor");
    Ok((config, checkpoint::fill(mixer, shapes.clone(), ours, dir)?))
}

fn place(ours: &str, shape: &[usize]) -> Place {
    match ours {
        "sink" => Place::same("sinks", ours).shaped(&shape[..1], shape),
        _ => Place::same(ours, ours),
    }
}

/// The configuration of a layer's attention, and the width of the model.
fn read(json: &str, layer: usize) -> Result<(SoftmaxConfig, usize), String> {
    let map: Map<String, Value> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let none = Shapes::new();
    let mut fields = Fields::new(&map, &none);
    match fields.text("model_type") {
        Some("gpt_oss") => {}
        other => return Err(format!("model_type is `{}`, expected gpt_oss", other.unwrap_or_default())),
    }
    let (softmax, d_model) = (families::attention(&mut fields, 1e-5, Some(64), 1.0), fields.size("hidden_size"));
    let layers = fields.size("num_hidden_layers").unwrap_or_default();
    if layer >= layers {
        fields.problem(format!("layer {layer} is not among 0..{layers}"));
    }
    let by_parity = if layer.is_multiple_of(2) { "sliding_attention" } else { "full_attention" };
    let kind = match fields.texts("layer_types") {
        Some(kinds) => kinds.get(layer).copied().unwrap_or("missing"),
        None => by_parity,
    };
    let window = match kind {
        "full_attention" => None,
        "sliding_attention" => Some(fields.size_or("sliding_window", 128)),
        other => {
            fields.problem(format!("layer_types[{layer}] is {other}; supported: full_attention, sliding_attention"));
            None
        }
    };
    let bias = fields.flag("attention_bias", true);
    match (softmax, d_model) {
        (Some(softmax), Some(d_model)) if fields.problems.is_empty() => {
            Ok((SoftmaxConfig { window, bias, sink: Some(Sink::Logit {}), ..softmax }, d_model))
        }
        _ => Err(fields.problems.join("; ")),
    }
}
