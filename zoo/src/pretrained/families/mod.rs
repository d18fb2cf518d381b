//! The families of checkpoints: one file each.

mod diffllama;
mod fla;
mod llama;
mod qwen3;
mod qwen3_next;

pub(super) use diffllama::scaled_columns;

use super::fields::{Fields, rope_parameters};
use super::layout::{Place, Shapes};
use crate::checkpoint::Tensors;
use crate::{Gate, GatedConfig, MixerConfig, ModelConfig, SoftmaxConfig};
use serde_json::{Map, Value, json};

/// How the models of a `model_type` are described and where their tensors are.
pub(super) struct Family {
    pub model_type: &'static str,
    /// The class of Hugging Face, without `ForCausalLM`.
    class: &'static str,
    stack: Stack,
    /// A configuration from the fields; none where something is wrong beyond use.
    read: fn(&mut Fields) -> Option<ModelConfig>,
    /// Whether the class computes the model, but for options that `write` refuses.
    computes: fn(&ModelConfig) -> bool,
    /// The fields of the family beside those of all.
    write: fn(&ModelConfig) -> Result<Value, String>,
    /// The tensors of a block's mixer, below the block and below `mixer`.
    mixer: fn(&MixerConfig, usize) -> Vec<Place>,
    /// What they compute without a tensor for it and we keep in one.
    pub implied: fn(&ModelConfig) -> Tensors,
    /// Brings our tensors to a form that theirs can express.
    pub fold: fn(&ModelConfig, &mut Tensors),
}

const FAMILIES: [&Family; 6] =
    [&llama::LLAMA, &qwen3::QWEN3, &diffllama::DIFFLLAMA, &qwen3_next::QWEN3_NEXT, &fla::GATED_DELTANET, &fla::KDA];

/// What a block's norms and the embedding are called.
struct Stack {
    embedding: &'static str,
    mixer_norm: &'static str,
    feed_forward_norm: &'static str,
}

/// Llama's names, and those of all that follow it.
const LLAMAS: Stack = Stack {
    embedding: "model.embed_tokens.weight",
    mixer_norm: "input_layernorm",
    feed_forward_norm: "post_attention_layernorm",
};

/// What a checkpoint holds, by its `config.json` and its tensors.
///
/// # Errors
/// Every key that is missing, malformed or asks for what is not supported.
pub(super) fn read(json: &str, tensors: &Shapes) -> Result<(&'static Family, ModelConfig), String> {
    let fields: Map<String, Value> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let mut reader = Fields::new(&fields, tensors);
    let model_type = reader.text("model_type").unwrap_or_default();
    let Some(family) = FAMILIES.into_iter().find(|family| family.model_type == model_type) else {
        return Err(format!("model_type is `{model_type}`; supported: {}", supported()));
    };
    match reader.text("hidden_act") {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            reader.problem(format!("hidden_act is `{other}`; supported: silu"));
        }
    }
    match (family.read)(&mut reader) {
        Some(config) if reader.problems.is_empty() => Ok((family, config)),
        _ => Err(reader.problems.join("; ")),
    }
}

/// The family whose class computes a model, and its `config.json` for transformers 5.
///
/// # Errors
/// What no class of Hugging Face computes.
pub(super) fn write(config: &ModelConfig) -> Result<(&'static Family, Map<String, Value>), String> {
    let Some(family) = FAMILIES.into_iter().find(|family| (family.computes)(config)) else {
        let kind = |mixer| serde_json::to_value(mixer).map(|value| value["type"].to_string()).unwrap_or_default();
        let kinds: Vec<String> = config.pattern.iter().map(kind).collect();
        return Err(format!(
            "no supported class of Hugging Face computes blocks of {}; supported: {} (differential attention as V1)",
            kinds.join(", "),
            supported()
        ));
    };
    if config.looped.is_some() {
        return Err("looped blocks are in none of the supported classes".into());
    }
    let all = json!({
        "model_type": family.model_type,
        "architectures": [format!("{}ForCausalLM", family.class)],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.layers,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "use_cache": true,
        "dtype": "float32",
        // Where they are absent, most classes take the tokens 1 and 2.
        "bos_token_id": null,
        "eos_token_id": null,
        "pad_token_id": null,
    });
    let (Value::Object(mut fields), Value::Object(own)) = (all, (family.write)(config)?) else {
        unreachable!("made by json!")
    };
    fields.extend(own);
    Ok((family, fields))
}

fn supported() -> String {
    FAMILIES.map(|family| family.model_type).join(", ")
}

impl Family {
    /// Where every tensor of the model is.
    pub fn places(&self, config: &ModelConfig) -> Vec<Place> {
        let mut places =
            vec![Place::same(self.stack.embedding, "embedding"), Place::same("model.norm.weight", "norm.weight")];
        if !config.tied {
            places.push(Place::same("lm_head.weight", "head"));
        }
        for layer in 0..config.layers {
            let block = self.block(config, layer, config.mixer(layer));
            let below = |place: Place| place.below(&format!("model.layers.{layer}"), &format!("blocks.{layer}"));
            places.extend(block.into_iter().map(below));
        }
        if let Some(mixer) = &config.mtp {
            for (theirs, ours) in [
                ("fc", "proj"),
                ("pre_fc_norm_embedding", "embedding_norm"),
                ("pre_fc_norm_hidden", "hidden_norm"),
                ("norm", "norm"),
            ] {
                places.push(Place::same(format!("mtp.{theirs}.weight"), format!("mtp.{ours}.weight")));
            }
            let block = self.block(config, config.layers, mixer);
            places.extend(block.into_iter().map(|place| place.below("mtp.layers.0", "mtp.block")));
        }
        places
    }

    fn block(&self, config: &ModelConfig, layer: usize, mixer: &MixerConfig) -> Vec<Place> {
        let mut places = vec![
            Place::same(format!("{}.weight", self.stack.mixer_norm), "mixer_norm.weight"),
            Place::same(format!("{}.weight", self.stack.feed_forward_norm), "feed_forward_norm.weight"),
        ];
        // Each of ours stands below `mixer`, theirs below a name of the mixer's kind.
        places.extend((self.mixer)(mixer, config.d_model));
        let mut network = |theirs: &str, ours: &str| {
            for part in ["gate_proj", "up_proj", "down_proj"] {
                places.push(Place::same(format!("{theirs}.{part}.weight"), format!("{ours}.{part}.weight")));
            }
        };
        match config.experts_of(layer) {
            None => network("mlp", "feed_forward"),
            Some(experts) => {
                if experts.shared.is_some() {
                    network("mlp.shared_expert", "feed_forward.shared");
                    places.push(Place::same("mlp.shared_expert_gate.weight", "feed_forward.shared_gate.weight"));
                }
                places.push(Place::same("mlp.gate.weight", "feed_forward.router.weight"));
                let [d, width] = [config.d_model, experts.d_ff];
                for e in 0..experts.experts {
                    for (part, [rows, columns]) in [("gate", [width, d]), ("up", [width, d]), ("down", [d, width])] {
                        let (theirs, ours) =
                            (format!("mlp.experts.{e}.{part}_proj.weight"), format!("feed_forward.{part}"));
                        let place = Place::stacked(theirs, [(ours.as_str(), e..e + 1)]);
                        places.push(place.shaped(&[rows, columns], &[1, rows, columns]));
                    }
                }
            }
        }
        places
    }
}

/// `implied` of families that have a tensor for everything.
fn nothing(_: &ModelConfig) -> Tensors {
    Tensors::new()
}

/// `fold` of families that express everything.
fn as_they_are(_: &ModelConfig, _: &mut Tensors) {}

/// The sizes that every family has, around a pattern of mixers.
fn model(fields: &mut Fields, eps: f64, pattern: Vec<MixerConfig>) -> Option<ModelConfig> {
    let [vocab_size, d_model, layers] =
        ["vocab_size", "hidden_size", "num_hidden_layers"].map(|name| fields.size(name));
    // Where the width follows from a rule of the family's own, a tensor tells it.
    let ruled =
        fields.fields.contains_key("hidden_ratio") && fields.fields.get("intermediate_size").is_none_or(Value::is_null);
    let d_ff = match fields.tensors.get("model.layers.0.mlp.gate_proj.weight") {
        Some(shape) if ruled => shape.first().copied(),
        _ => fields.size("intermediate_size"),
    };
    Some(ModelConfig {
        vocab_size: vocab_size?,
        tied: fields.flag("tie_word_embeddings", false),
        norm_eps: fields.number("rms_norm_eps").unwrap_or(eps),
        ..ModelConfig::new(d_model?, d_ff?, layers?, pattern)
    })
}

/// The attention of the fields, without QK-norm. `head_dim` is the family's own where the field is
/// missing, `d_model / heads` without one.
pub(super) fn attention(
    fields: &mut Fields,
    eps: f64,
    head_dim: Option<usize>,
    fraction: f64,
) -> Option<SoftmaxConfig> {
    let (heads, d_model) = (fields.size("num_attention_heads"), fields.size("hidden_size"));
    let heads = heads?;
    let kv_heads = fields.size_or("num_key_value_heads", heads);
    if !heads.is_multiple_of(kv_heads) {
        fields.problem(format!("num_attention_heads {heads} and num_key_value_heads {kv_heads} do not fit"));
    }
    let head_dim = fields.size_or("head_dim", head_dim.unwrap_or(d_model? / heads));
    Some(SoftmaxConfig {
        kv_heads: Some(kv_heads),
        head_dim: Some(head_dim),
        qk_norm: false,
        norm_eps: fields.number("rms_norm_eps").unwrap_or(eps),
        position: fields.position(fraction)?,
        ..SoftmaxConfig::new(heads)
    })
}

/// The fields of an attention.
fn attention_fields(config: &ModelConfig, softmax: &SoftmaxConfig, partial: bool) -> Result<Value, String> {
    if softmax.window.is_some() || softmax.softcap.is_some() || softmax.sink.is_some() || softmax.bias {
        return Err("a window, a soft cap, a sink or a bias is in none of the supported classes".into());
    }
    if softmax.qk_norm {
        equal_eps(config.norm_eps, softmax.norm_eps)?;
        if softmax.zero_centred != config.zero_centred {
            return Err("norms of queries and keys that are zero-centred where the blocks' are not, or the other way \
                        round, are in none of the supported classes"
                .into());
        }
    }
    Ok(json!({
        "num_attention_heads": softmax.heads,
        "num_key_value_heads": softmax.kv_heads(),
        "head_dim": softmax.head_dim(config.d_model),
        "rope_parameters": rope_parameters(&softmax.position, partial)?,
    }))
}

/// Only the gate that multiplies the heads' outputs by a sigmoid of the input was published in
/// checkpoints.
fn published_gate(gated: &GatedConfig, gates: &[Gate]) -> Result<(), String> {
    if gates.contains(&gated.gate)
        && *gated == (GatedConfig { gate: gated.gate, ..GatedConfig::of(gated.attention.clone()) })
    {
        return Ok(());
    }
    Err(format!(
        "of all gates the supported class has those that multiply each head's output by a sigmoid of the input, {}",
        gates.iter().map(|gate| format!("{gate:?}").to_lowercase()).collect::<Vec<_>>().join(" or ")
    ))
}

fn equal_eps(block: f64, head: f64) -> Result<(), String> {
    if block == head {
        return Ok(());
    }
    Err(format!("Hugging Face has one ε for all norms; here the blocks have {block:e} and the heads {head:e}"))
}

/// Whether the stack is Llama's: dense networks, norms that multiply by `w`, one kind of mixer.
fn is_plain(config: &ModelConfig) -> bool {
    config.experts.is_none() && config.mtp.is_none() && !config.zero_centred && config.pattern.len() == 1
}

/// The tensors of an attention but for `q_proj`, and where its norms are.
fn attention_places(softmax: &SoftmaxConfig, ours: &str) -> Vec<Place> {
    let norms = if softmax.qk_norm { &["q_norm", "k_norm"][..] } else { &[] };
    let names = ["k_proj", "v_proj", "o_proj"].iter().chain(norms);
    names.map(|name| Place::same(format!("self_attn.{name}.weight"), format!("{ours}.{name}.weight"))).collect()
}
