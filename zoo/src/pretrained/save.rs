//! From our definitions back to Hugging Face's names, layouts and `config.json`.

use super::rows::{blocks, take};
use crate::checkpoint::Tensors;
use crate::{
    DifferentialConfig, DifferentialVersion, Gate, MixerConfig, ModelConfig, Position, Rope, RopeLayout, RopeScaling,
    SoftmaxConfig,
};
use burn::tensor::TensorData;
use serde_json::{Value, json};

/// `config.json` for transformers 5.
///
/// # Errors
/// What no class of Hugging Face computes.
pub(super) fn config(config: &ModelConfig) -> Result<Value, String> {
    let [mixer] = &config.pattern[..] else {
        return Err("a pattern of several mixers has no family here; supported: one mixer for all layers".into());
    };
    let mut fields = json!({
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
    });
    let own = match mixer {
        MixerConfig::Softmax(softmax) => {
            let attention = attention(config, softmax)?;
            let (kind, class) = if softmax.qk_norm { ("qwen3", "Qwen3") } else { ("llama", "Llama") };
            [attention, family(kind, class)]
        }
        MixerConfig::Gated(gated) => {
            let mut attention = attention(config, &gated.attention)?;
            attention["elementwise_attn_output_gate"] = (gated.gate == Gate::Elementwise).into();
            attention["headwise_attn_output_gate"] = (gated.gate == Gate::Headwise).into();
            attention["use_qk_norm"] = gated.attention.qk_norm.into();
            attention["qkv_bias"] = false.into();
            [attention, family("qwen3", "Qwen3")]
        }
        MixerConfig::Differential(differential) if differential.version == DifferentialVersion::V1 => {
            equal_eps(config.norm_eps, differential.norm_eps)?;
            let attention = json!({
                "num_attention_heads": 2 * differential.heads,
                "num_key_value_heads": 2 * differential.kv_heads(),
                "head_dim": differential.head_dim(config.d_model),
                "rope_parameters": rope(&differential.position)?,
            });
            [attention, family("diffllama", "DiffLlama")]
        }
        other => {
            let name = serde_json::to_value(other).map(|value| value["type"].clone()).unwrap_or_default();
            return Err(format!(
                "no class of Hugging Face computes {name}; supported: softmax, gated, differential V1"
            ));
        }
    };
    for part in own {
        let Value::Object(part) = part else { unreachable!("made by json! above") };
        fields.as_object_mut().expect("made by json! above").extend(part);
    }
    Ok(fields)
}

fn family(kind: &str, class: &str) -> Value {
    json!({ "model_type": kind, "architectures": [format!("{class}ForCausalLM")] })
}

fn attention(config: &ModelConfig, softmax: &SoftmaxConfig) -> Result<Value, String> {
    if softmax.window.is_some() || softmax.softcap.is_some() || softmax.sink.is_some() {
        return Err("a window, a soft cap or a sink is in none of the supported classes".into());
    }
    if softmax.qk_norm {
        equal_eps(config.norm_eps, softmax.norm_eps)?;
    }
    Ok(json!({
        "num_attention_heads": softmax.heads,
        "num_key_value_heads": softmax.kv_heads(),
        "head_dim": softmax.head_dim(config.d_model),
        "rope_parameters": rope(&softmax.position)?,
    }))
}

fn equal_eps(block: f64, head: f64) -> Result<(), String> {
    if block == head {
        return Ok(());
    }
    Err(format!("Hugging Face has one ε for all norms; here the blocks have {block:e} and the heads {head:e}"))
}

fn rope(position: &Position) -> Result<Value, String> {
    let &Position::Rope(Rope { theta, fraction, layout: RopeLayout::HalfSplit, scaling }) = position else {
        return Err(format!("supported is the half-split rotation, not {position:?}"));
    };
    if fraction != 1.0 {
        return Err(format!("the supported classes rotate all channels, not {fraction} of them"));
    }
    Ok(match scaling {
        None => json!({ "rope_type": "default", "rope_theta": theta }),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original }) => json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original as u64,
        }),
        Some(RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate }) => json!({
            "rope_type": "yarn", "rope_theta": theta, "factor": factor, "beta_fast": beta_fast,
            "beta_slow": beta_slow, "truncate": truncate, "original_max_position_embeddings": original as u64,
        }),
    })
}

/// Our tensors under Hugging Face's names and in its layouts.
pub(super) fn tensors(config: &ModelConfig, ours: &Tensors) -> Result<Tensors, String> {
    let mut theirs = Tensors::new();
    for (name, data) in ours {
        let top = match name.as_str() {
            "embedding" => Some("model.embed_tokens.weight"),
            "norm.weight" => Some("model.norm.weight"),
            "head" => Some("lm_head.weight"),
            _ => None,
        };
        if let Some(top) = top {
            theirs.insert(top.into(), data.clone());
            continue;
        }
        let (layer, part) = name
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or_else(|| format!("{name} belongs to no block"))?;
        let block = format!("model.layers.{layer}");
        let placed = match part {
            "mixer_norm.weight" => Some((format!("{block}.input_layernorm.weight"), data.clone())),
            "feed_forward_norm.weight" => Some((format!("{block}.post_attention_layernorm.weight"), data.clone())),
            _ => match part.strip_prefix("feed_forward.") {
                Some(matrix) => Some((format!("{block}.mlp.{matrix}"), data.clone())),
                None => mixer(&config.pattern[0], config.d_model, part, data, ours, &format!("blocks.{layer}"))?
                    .map(|(part, data)| (format!("{block}.self_attn.{part}"), data)),
            },
        };
        theirs.extend(placed);
    }
    Ok(theirs)
}

/// A tensor of the mixer; none where another takes it up.
fn mixer(
    mixer: &MixerConfig,
    d_model: usize,
    part: &str,
    data: &TensorData,
    ours: &Tensors,
    block: &str,
) -> Result<Option<(String, TensorData)>, String> {
    let part = part.strip_prefix("mixer.").unwrap_or(part);
    Ok(match mixer {
        MixerConfig::Gated(gated) => match part {
            "gate_proj.weight" => None,
            "attention.q_proj.weight" => {
                let (softmax, gates) = (&gated.attention, &ours[&format!("{block}.mixer.gate_proj.weight")]);
                let group = softmax.heads / softmax.kv_heads();
                let queries = group * softmax.head_dim(d_model);
                let scores = gates.shape()[0] / softmax.kv_heads();
                let mut stacked: Vec<f32> = Vec::new();
                for g in 0..softmax.kv_heads() {
                    for (matrix, rows) in [(data, queries), (gates, scores)] {
                        stacked.extend(take(matrix, blocks([g], rows))?.iter::<f32>());
                    }
                }
                let shape = [stacked.len() / d_model, d_model];
                Some(("q_proj.weight".into(), TensorData::new(stacked, shape)))
            }
            _ => Some((part.strip_prefix("attention.").unwrap_or(part).into(), data.clone())),
        },
        MixerConfig::Differential(config) => differential(config, d_model, part, data, ours, block)?,
        _ => Some((part.into(), data.clone())),
    })
}

fn differential(
    config: &DifferentialConfig,
    d_model: usize,
    part: &str,
    data: &TensorData,
    ours: &Tensors,
    block: &str,
) -> Result<Option<(String, TensorData)>, String> {
    let d = config.head_dim(d_model);
    // Maps 2i and 2i + 1 here are i and i + H/2 there.
    let halves = |pairs: usize| take(data, blocks((0..2 * pairs).map(|m| m % pairs * 2 + m / pairs), d));
    Ok(match part {
        "q_proj.weight" => Some((part.into(), halves(config.heads)?)),
        "k_proj.weight" | "v_proj.weight" => Some((part.into(), halves(config.kv_heads())?)),
        "lambda.norm.weight" => None,
        "o_proj.weight" => {
            // Their norm has no weight; ours goes into the matrix behind it.
            let weight: Vec<f32> = ours[&format!("{block}.mixer.lambda.norm.weight")].iter::<f32>().collect();
            let scaled: Vec<f32> = data.iter::<f32>().enumerate().map(|(i, w)| w * weight[i % weight.len()]).collect();
            Some((part.into(), TensorData::new(scaled, data.shape().clone())))
        }
        _ => {
            Some((part.strip_prefix("lambda.").map_or(part.into(), |vector| format!("lambda_{vector}")), data.clone()))
        }
    })
}
