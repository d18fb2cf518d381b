//! Qwen3-Next: Gated DeltaNet and gated attention, experts, multi-token prediction.

use super::{
    Family, LLAMAS, as_they_are, attention, attention_fields, attention_places, equal_eps, model, nothing,
    published_gate,
};
use crate::pretrained::fields::Fields;
use crate::pretrained::layout::Place;
use crate::{ExpertsConfig, Gate, GatedConfig, GatedDeltaConfig, MixerConfig, ModelConfig};
use serde_json::{Value, json};

pub(super) const QWEN3_NEXT: Family = Family {
    model_type: "qwen3_next",
    class: "Qwen3Next",
    stack: LLAMAS,
    read,
    computes: |config| {
        let [mut gated, mut delta] = [false, false];
        config.pattern.iter().for_each(|mixer| match mixer {
            MixerConfig::Gated(_) => gated = true,
            MixerConfig::GatedDelta(_) => delta = true,
            _ => {}
        });
        let known = |mixer: &MixerConfig| matches!(mixer, MixerConfig::Gated(_) | MixerConfig::GatedDelta(_));
        // The published prediction head is a block of attention.
        let head = config.mtp.iter().all(|mixer| matches!(mixer, MixerConfig::Gated(_)));
        gated && delta && head && config.pattern.iter().all(known)
    },
    write,
    mixer: |mixer, d_model| match mixer {
        MixerConfig::Gated(gated) => gated_places(gated, d_model),
        MixerConfig::GatedDelta(delta) => delta_places(delta, d_model),
        _ => unreachable!("made by `read` or seen by `computes`"),
    },
    implied: nothing,
    fold: as_they_are,
};

/// Where the fields name none.
const EPS: f64 = 1e-6;

fn read(fields: &mut Fields) -> Option<ModelConfig> {
    fields.off(&["attention_bias"]);
    let softmax = attention(fields, EPS, Some(256), 0.25);
    let delta = delta(fields);
    let mut config = model(fields, EPS, Vec::new())?;
    let mut softmax = softmax?;
    (softmax.qk_norm, softmax.zero_centred) = (true, true);
    let full = MixerConfig::Gated(GatedConfig::of(softmax));
    let delta = MixerConfig::GatedDelta(GatedDeltaConfig { norm_eps: config.norm_eps, ..delta? });

    let interval = fields.size_or("full_attention_interval", 4);
    let by_interval = |i: usize| if (i + 1).is_multiple_of(interval) { "full_attention" } else { "linear_attention" };
    let kinds = fields.texts("layer_types").unwrap_or_else(|| (0..config.layers).map(by_interval).collect());
    if kinds.len() != config.layers {
        fields.problem(format!("layer_types has {} entries for {} layers", kinds.len(), config.layers));
        return None;
    }
    // The shortest pattern that repeats.
    let period = (1..=kinds.len()).find(|p| (0..kinds.len()).all(|i| kinds[i] == kinds[i % p]))?;
    for kind in &kinds[..period] {
        match *kind {
            "full_attention" => config.pattern.push(full.clone()),
            "linear_attention" => config.pattern.push(delta.clone()),
            other => {
                fields.problem(format!("layer_types holds {other}; supported: full_attention, linear_attention"));
                return None;
            }
        }
    }
    config.zero_centred = true;
    config.experts = experts(fields, config.layers)?;
    config.mtp = fields.tensors.keys().any(|name| name.starts_with("mtp.")).then_some(full);
    Some(config)
}

fn delta(fields: &mut Fields) -> Option<GatedDeltaConfig> {
    let sizes = [
        ("linear_num_value_heads", 32),
        ("linear_num_key_heads", 16),
        ("linear_key_head_dim", 128),
        ("linear_value_head_dim", 128),
        ("linear_conv_kernel_dim", 4),
    ];
    let [heads, k_heads, key_dim, value_dim, conv] = sizes.map(|(name, default)| fields.size_or(name, default));
    Some(GatedDeltaConfig {
        k_heads: Some(k_heads),
        key_dim: Some(key_dim),
        value_dim: Some(value_dim),
        conv,
        ..GatedDeltaConfig::new(heads)
    })
}

/// None within where every block is dense, none at all where the fields are wrong.
fn experts(fields: &mut Fields, layers: usize) -> Option<Option<ExpertsConfig>> {
    if fields.fields.get("num_experts").and_then(Value::as_u64) == Some(0) {
        return Some(None);
    }
    let step = fields.size_or("decoder_sparse_step", 1);
    let listed = fields.whole_numbers("mlp_only_layers").unwrap_or_default();
    let [experts, per_token, d_ff, shared] = [
        ("num_experts", 512),
        ("num_experts_per_tok", 10),
        ("moe_intermediate_size", 512),
        ("shared_expert_intermediate_size", 512),
    ]
    .map(|(name, default)| fields.size_or(name, default));
    Some(Some(ExpertsConfig {
        experts,
        per_token,
        d_ff,
        shared: Some(shared),
        normalised: fields.flag("norm_topk_prob", true),
        dense: (0..layers).filter(|&i| listed.contains(&(i as u64)) || !(i + 1).is_multiple_of(step)).collect(),
    }))
}

fn write(config: &ModelConfig) -> Result<Value, String> {
    let of = |find: fn(&MixerConfig) -> bool| {
        let mut found = config.pattern.iter().chain(&config.mtp).filter(|mixer| find(mixer));
        let first = found.next().expect("seen by `computes`");
        match found.all(|mixer| mixer == first) {
            true => Ok(first),
            false => Err("mixers of one kind with different settings are in no class of Hugging Face".to_string()),
        }
    };
    let (MixerConfig::Gated(gated), MixerConfig::GatedDelta(delta)) =
        (of(|m| matches!(m, MixerConfig::Gated(_)))?, of(|m| matches!(m, MixerConfig::GatedDelta(_)))?)
    else {
        unreachable!("asked for by kind")
    };
    let softmax = &gated.attention;
    published_gate(gated, &[Gate::Elementwise])?;
    if !softmax.qk_norm {
        return Err("Qwen3-Next has QK-norm".into());
    }
    if delta.allow_negative_eigenvalues {
        return Err("Qwen3-Next has no negative eigenvalues".into());
    }
    equal_eps(config.norm_eps, delta.norm_eps)?;
    if !config.zero_centred || !softmax.zero_centred {
        return Err("Qwen3-Next has zero-centred norms".into());
    }
    let mut fields = attention_fields(config, softmax, true)?;
    let kind = |layer| match config.mixer(layer) {
        MixerConfig::Gated(_) => "full_attention",
        _ => "linear_attention",
    };
    let own = json!({
        "layer_types": (0..config.layers).map(kind).collect::<Vec<_>>(),
        "linear_num_value_heads": delta.heads,
        "linear_num_key_heads": delta.k_heads(),
        "linear_key_head_dim": delta.key_dim(config.d_model),
        "linear_value_head_dim": delta.value_dim(config.d_model),
        "linear_conv_kernel_dim": delta.conv,
        "decoder_sparse_step": 1,
        "num_experts": 0,
    });
    let experts = match &config.experts {
        None => json!({}),
        Some(experts) => json!({
            "num_experts": experts.experts,
            "num_experts_per_tok": experts.per_token,
            "moe_intermediate_size": experts.d_ff,
            "shared_expert_intermediate_size": experts.shared.ok_or("Qwen3-Next has a shared expert")?,
            "norm_topk_prob": experts.normalised,
            "mlp_only_layers": experts.dense,
        }),
    };
    for part in [own, experts] {
        let Value::Object(part) = part else { unreachable!("made by json!") };
        fields.as_object_mut().expect("made by json!").extend(part);
    }
    Ok(fields)
}

/// Rows of `q_proj` stand by head: its queries, then its gates.
fn gated_places(gated: &GatedConfig, d_model: usize) -> Vec<Place> {
    let d = gated.attention.head_dim(d_model);
    let rows = (0..gated.attention.heads).flat_map(|h| {
        let rows = h * d..(h + 1) * d;
        [("mixer.attention.q_proj.weight", rows.clone()), ("mixer.gate_proj.weight", rows)]
    });
    let q = Place::stacked("self_attn.q_proj.weight", rows);
    [vec![q], attention_places(&gated.attention, "mixer.attention")].concat()
}

/// Projections stand by key head: what belongs to it of q, k, v and z, of b and a. The convolution's
/// channels do not.
fn delta_places(delta: &GatedDeltaConfig, d_model: usize) -> Vec<Place> {
    let (k_heads, qk) = (delta.k_heads(), delta.key_dim(d_model));
    let shared = delta.heads / k_heads;
    let v = shared * delta.value_dim(d_model);
    let by_head = |names: &'static [(&'static str, usize)]| {
        (0..k_heads).flat_map(move |g| {
            names.iter().map(move |(name, kind)| {
                let rows = [qk, v, shared][*kind];
                (*name, g * rows..(g + 1) * rows)
            })
        })
    };
    let qkvz: &[(&str, usize)] = &[
        ("mixer.q_proj.weight", 0),
        ("mixer.k_proj.weight", 0),
        ("mixer.v_proj.weight", 1),
        ("mixer.z_proj.weight", 1),
    ];
    let ba: &[(&str, usize)] = &[("mixer.b_proj.weight", 2), ("mixer.a_proj.weight", 2)];
    let channels = k_heads * (2 * qk + v);
    vec![
        Place::stacked("linear_attn.in_proj_qkvz.weight", by_head(qkvz)),
        Place::stacked("linear_attn.in_proj_ba.weight", by_head(ba)),
        Place::same("linear_attn.conv1d.weight", "mixer.conv")
            .shaped(&[channels, 1, delta.conv], &[channels, delta.conv]),
        Place::same("linear_attn.A_log", "mixer.a_log"),
        Place::same("linear_attn.dt_bias", "mixer.dt_bias"),
        Place::same("linear_attn.norm.weight", "mixer.norm.weight"),
        Place::same("linear_attn.out_proj.weight", "mixer.o_proj.weight"),
    ]
}
