//! Qwen3, and the gated Qwen3 of `QwQZh/gated_attention`: the same `model_type` with a flag.

use super::{
    Family, LLAMAS, as_they_are, attention, attention_fields, attention_places, is_plain, llama, model, nothing,
    published_gate,
};
use crate::pretrained::fields::Fields;
use crate::pretrained::layout::Place;
use crate::{Gate, GatedConfig, MixerConfig, ModelConfig};
use serde_json::Value;

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3",
    stack: LLAMAS,
    read,
    computes: |config| {
        let gated = |mixer: &MixerConfig| match mixer {
            MixerConfig::Softmax(softmax) => softmax.qk_norm,
            MixerConfig::Gated(_) => true,
            _ => false,
        };
        is_plain(config) && gated(&config.pattern[0])
    },
    write,
    mixer: |mixer, d_model| match mixer {
        MixerConfig::Gated(gated) => gated_places(gated, d_model),
        _ => (llama::LLAMA.mixer)(mixer, d_model),
    },
    implied: nothing,
    fold: as_they_are,
};

fn read(fields: &mut Fields) -> Option<ModelConfig> {
    fields.off(&["attention_bias", "qkv_bias", "use_sliding_window"]);
    if let Some(other) =
        fields.texts("layer_types").and_then(|kinds| kinds.into_iter().find(|k| *k != "full_attention"))
    {
        fields.problem(format!("layer_types holds {other}; supported: full_attention"));
    }
    let mut softmax = attention(fields, 1e-6, Some(128), 1.0)?;
    softmax.qk_norm = fields.flag("use_qk_norm", true);
    let flags = ["elementwise_attn_output_gate", "headwise_attn_output_gate"].map(|name| fields.flag(name, false));
    let mixer = match flags {
        [false, false] => MixerConfig::Softmax(softmax),
        [true, true] => {
            fields.problem(
                "elementwise_attn_output_gate and headwise_attn_output_gate are both true; supported: one at most",
            );
            return None;
        }
        [elementwise, _] => {
            let gate = if elementwise { Gate::Elementwise } else { Gate::Headwise };
            MixerConfig::Gated(GatedConfig { gate, ..GatedConfig::of(softmax) })
        }
    };
    model(fields, 1e-6, vec![mixer])
}

fn write(config: &ModelConfig) -> Result<Value, String> {
    let MixerConfig::Gated(gated) = &config.pattern[0] else { return (llama::LLAMA.write)(config) };
    published_gate(gated, &[Gate::Elementwise, Gate::Headwise])?;
    let mut fields = attention_fields(config, &gated.attention, false)?;
    fields["elementwise_attn_output_gate"] = (gated.gate == Gate::Elementwise).into();
    fields["headwise_attn_output_gate"] = (gated.gate == Gate::Headwise).into();
    fields["use_qk_norm"] = gated.attention.qk_norm.into();
    fields["qkv_bias"] = false.into();
    Ok(fields)
}

/// The release stacks, for every group of keys, the group's query heads and then their gates.
fn gated_places(gated: &GatedConfig, d_model: usize) -> Vec<Place> {
    let softmax = &gated.attention;
    let group = softmax.heads / softmax.kv_heads();
    let queries = group * softmax.head_dim(d_model);
    let scores = group * gated.gate.scores(softmax.head_dim(d_model)).expect("a gate from the input");
    let rows = (0..softmax.kv_heads()).flat_map(|g| {
        [
            ("mixer.attention.q_proj.weight", g * queries..(g + 1) * queries),
            ("mixer.gate_proj.weight", g * scores..(g + 1) * scores),
        ]
    });
    let q = Place::stacked("self_attn.q_proj.weight", rows);
    [vec![q], attention_places(softmax, "mixer.attention")].concat()
}
