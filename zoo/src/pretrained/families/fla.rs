//! flash-linear-attention's own models: Gated DeltaNet and KDA.

use super::{Family, Stack, as_they_are, equal_eps, is_plain, nothing};
use crate::pretrained::fields::Fields;
use crate::pretrained::layout::Place;
use crate::{GatedDeltaConfig, KdaConfig, MixerConfig, ModelConfig};
use serde_json::{Value, json};

const STACK: Stack =
    Stack { embedding: "model.embeddings.weight", mixer_norm: "attn_norm", feed_forward_norm: "mlp_norm" };

pub(super) const GATED_DELTANET: Family = Family {
    model_type: "gated_deltanet",
    class: "GatedDeltaNet",
    stack: STACK,
    read: |fields| {
        refuse(fields, &["attn", "attnres_block_size"], &["use_gate", "use_short_conv"]);
        if let Some(other) = fields.text("output_gate_activation").filter(|name| !["swish", "silu"].contains(name)) {
            fields.problem(format!("output_gate_activation is `{other}`; supported: swish, silu"));
        }
        let k_heads = fields.size_or("num_heads", 6);
        let mixer = GatedDeltaConfig {
            k_heads: Some(k_heads),
            key_dim: Some(fields.size_or("head_dim", 256)),
            value_dim: value_dim(fields, 256, 2.0),
            conv: fields.size_or("conv_size", 4),
            allow_negative_eigenvalues: fields.flag("allow_neg_eigval", false),
            norm_eps: fields.number("norm_eps").unwrap_or(1e-6),
            ..GatedDeltaConfig::new(fields.size_or("num_v_heads", k_heads))
        };
        model(fields, MixerConfig::GatedDelta(mixer))
    },
    computes: |config| is_plain(config) && matches!(config.pattern[0], MixerConfig::GatedDelta(_)),
    write: |config| {
        let delta = delta(&config.pattern[0]);
        equal_eps(config.norm_eps, delta.norm_eps)?;
        let (key_dim, value_dim) = (delta.key_dim(config.d_model), delta.value_dim(config.d_model));
        let mut fields = written(config, key_dim, value_dim, delta.conv, delta.allow_negative_eigenvalues);
        fields["num_heads"] = delta.k_heads().into();
        fields["num_v_heads"] = delta.heads.into();
        fields["use_gate"] = true.into();
        fields["output_gate_activation"] = "swish".into();
        Ok(fields)
    },
    mixer: |mixer, d_model| {
        let config = delta(mixer);
        let (qk, v) = (config.k_heads() * config.key_dim(d_model), config.heads * config.value_dim(d_model));
        let own = [("a_proj.weight", "a_proj.weight"), ("g_proj.weight", "z_proj.weight")];
        [convolutions([qk, qk, v], config.conv), shared(), places(&own)].concat()
    },
    implied: nothing,
    fold: as_they_are,
};

pub(super) const KDA: Family = Family {
    model_type: "kda",
    class: "KDA",
    stack: STACK,
    read: |fields| {
        refuse(fields, &["attn", "attnres_block_size", "safe_gate", "lower_bound"], &["use_short_conv"]);
        let heads = fields.size_or("num_heads", 16);
        let v_heads = fields.size_or("num_v_heads", heads);
        if v_heads != heads {
            fields.problem(format!("num_v_heads is {v_heads}; supported: num_heads, which is {heads}"));
        }
        let mixer = KdaConfig {
            key_dim: Some(fields.size_or("head_dim", 128)),
            value_dim: value_dim(fields, 128, 1.0),
            conv: fields.size_or("conv_size", 4),
            allow_negative_eigenvalues: fields.flag("allow_neg_eigval", false),
            norm_eps: fields.number("norm_eps").unwrap_or(1e-6),
            ..KdaConfig::new(heads)
        };
        model(fields, MixerConfig::Kda(mixer))
    },
    computes: |config| is_plain(config) && matches!(config.pattern[0], MixerConfig::Kda(_)),
    write: |config| {
        let kda = kda(&config.pattern[0]);
        equal_eps(config.norm_eps, kda.norm_eps)?;
        let (key_dim, value_dim) = (kda.key_dim(config.d_model), kda.value_dim(config.d_model));
        let mut fields = written(config, key_dim, value_dim, kda.conv, kda.allow_negative_eigenvalues);
        fields["num_heads"] = kda.heads.into();
        Ok(fields)
    },
    mixer: |mixer, d_model| {
        let config = kda(mixer);
        let (qk, v) = (config.heads * config.key_dim(d_model), config.heads * config.value_dim(d_model));
        let own = [
            ("f_proj.0.weight", "f_a_proj.weight"),
            ("f_proj.1.weight", "f_b_proj.weight"),
            ("g_proj.0.weight", "g_a_proj.weight"),
            ("g_proj.1.weight", "g_b_proj.weight"),
            ("g_proj.1.bias", "g_bias"),
        ];
        [convolutions([qk, qk, v], config.conv), shared(), places(&own)].concat()
    },
    implied: nothing,
    fold: as_they_are,
};

fn delta(mixer: &MixerConfig) -> &GatedDeltaConfig {
    match mixer {
        MixerConfig::GatedDelta(config) => config,
        _ => unreachable!("made by `read` or seen by `computes`"),
    }
}

fn kda(mixer: &MixerConfig) -> &KdaConfig {
    match mixer {
        MixerConfig::Kda(config) => config,
        _ => unreachable!("made by `read` or seen by `computes`"),
    }
}

/// Options that must be absent or off, and some that must be on.
fn refuse(fields: &mut Fields, off: &[&str], on: &[&str]) {
    for name in off {
        if let Some(value) = fields.fields.get(*name).filter(|value| !value.is_null() && **value != false) {
            fields.problem(format!("{name} = {value} is not supported"));
        }
    }
    for name in on {
        if !fields.flag(name, true) {
            fields.problem(format!("{name} = false is not supported"));
        }
    }
}

/// Values are `expand_v` times as wide as keys.
fn value_dim(fields: &mut Fields, head_dim: usize, expand: f64) -> Option<usize> {
    let head_dim = fields.size_or("head_dim", head_dim);
    let expand = fields.number("expand_v").unwrap_or(expand);
    let width = (head_dim as f64 * expand).round();
    let most = 1 << 18;
    if !(width >= 1.0 && width <= f64::from(most)) {
        fields.problem(format!("expand_v = {expand} makes values of {width} channels, expected 1 to {most}"));
        return None;
    }
    Some(width as usize)
}

fn model(fields: &mut Fields, mixer: MixerConfig) -> Option<ModelConfig> {
    let mut config = super::model(fields, 1e-6, vec![mixer])?;
    config.norm_eps = fields.number("norm_eps").unwrap_or(1e-6);
    Some(config)
}

/// The fields that both models have.
fn written(config: &ModelConfig, key_dim: usize, value_dim: usize, conv: usize, negative: bool) -> Value {
    json!({
        "norm_eps": config.norm_eps,
        "hidden_act": "swish",
        "head_dim": key_dim,
        "expand_v": value_dim as f64 / key_dim as f64,
        "conv_size": conv,
        "allow_neg_eigval": negative,
        "use_short_conv": true,
        "attn_mode": "chunk",
        "fuse_cross_entropy": false,
    })
}

fn places(names: &[(&str, &str)]) -> Vec<Place> {
    names.iter().map(|(theirs, ours)| Place::same(format!("attn.{theirs}"), format!("mixer.{ours}"))).collect()
}

fn shared() -> Vec<Place> {
    let same = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "b_proj.weight", "dt_bias"];
    let others = [("A_log", "a_log"), ("o_norm.weight", "norm.weight")];
    places(&[&same.map(|name| (name, name))[..], &others].concat())
}

/// Three convolutions where we have one over the channels of all.
fn convolutions(channels: [usize; 3], taps: usize) -> Vec<Place> {
    let mut start = 0;
    ["q", "k", "v"]
        .into_iter()
        .zip(channels)
        .map(|(name, channels)| {
            let rows = start..start + channels;
            start = rows.end;
            Place::stacked(format!("attn.{name}_conv1d.weight"), [("mixer.conv", rows)])
                .shaped(&[channels, 1, taps], &[channels, taps])
        })
        .collect()
}
