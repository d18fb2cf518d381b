//! The layers of flash-linear-attention. (Its models of Gated DeltaNet and KDA load as they are.)

use crate::compare::*;
use attention::prelude::*;

/// Values are `expand_v` times as wide as keys.
fn value_dim(fields: &Fields) -> Option<usize> {
    Some((fields.size("head_dim") as f64 * fields.number("expand_v")).round() as usize)
}

/// Channels of a key and of a value, where they are shares of the width of the model.
fn shares(fields: &Fields) -> (Option<usize>, Option<usize>) {
    let share = |ratio| fields.size("hidden_size") as f64 * fields.number(ratio) / fields.size("num_heads") as f64;
    (Some(share("expand_k") as usize), Some(share("expand_v") as usize))
}

pub fn deltanet(fields: &Fields) -> (MixerConfig, Layout) {
    let (key_dim, value_dim) = shares(fields);
    let config = DeltaNetConfig {
        key_dim,
        value_dim,
        conv: fields.size("conv_size"),
        allow_negative_eigenvalues: fields.flag("allow_neg_eigval"),
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..DeltaNetConfig::new(fields.size("num_heads"))
    };
    let mut layout = projections("");
    layout.push(convolutions());
    layout.extend(renamed(&[("b_proj.weight", "b_proj.weight"), ("norm.weight", "o_norm.weight")]));
    (MixerConfig::DeltaNet(config), layout)
}

/// flash-linear-attention has three convolutions in a row where we have one.
fn convolutions() -> (String, Vec<Rows>) {
    ("conv".into(), ["q", "k", "v"].map(|name| all(&format!("{name}_conv1d.weight"))).into())
}

pub fn gdn2(fields: &Fields) -> (MixerConfig, Layout) {
    let config = GatedDelta2Config {
        key_dim: Some(fields.size("head_dim")),
        value_dim: value_dim(fields),
        conv: fields.size("conv_size"),
        allow_negative_eigenvalues: fields.flag("allow_neg_eigval"),
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..GatedDelta2Config::new(fields.size("num_heads"))
    };
    let mut layout = projections("");
    layout.push(convolutions());
    layout.extend(renamed(&[
        ("b_proj.weight", "b_proj.weight"),
        ("w_proj.weight", "w_proj.weight"),
        ("f_a_proj.weight", "f_proj.0.weight"),
        ("f_b_proj.weight", "f_proj.1.weight"),
        ("a_log", "A_log"),
        ("dt_bias", "dt_bias"),
        ("g_a_proj.weight", "g_proj.0.weight"),
        ("g_b_proj.weight", "g_proj.1.weight"),
        ("g_bias", "g_proj.1.bias"),
        ("norm.weight", "o_norm.weight"),
    ]));
    (MixerConfig::GatedDelta2(config), layout)
}

pub fn gla(fields: &Fields) -> (MixerConfig, Layout) {
    let (key_dim, value_dim) = shares(fields);
    let config = GlaConfig {
        key_dim,
        value_dim,
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..GlaConfig::new(fields.size("num_heads"))
    };
    let mut layout = projections("");
    layout.extend(renamed(&[
        ("a_a_proj.weight", "gk_proj.0.weight"),
        ("a_b_proj.weight", "gk_proj.1.weight"),
        ("a_bias", "gk_proj.1.bias"),
        ("g_proj.weight", "g_proj.weight"),
        ("norm.weight", "g_norm_swish_gate.weight"),
    ]));
    (MixerConfig::Gla(config), layout)
}

pub fn retnet(fields: &Fields) -> (MixerConfig, Layout) {
    let (key_dim, value_dim) = shares(fields);
    let config = RetNetConfig {
        key_dim,
        value_dim,
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..RetNetConfig::new(fields.size("num_heads"))
    };
    let mut layout = projections("");
    layout.extend(renamed(&[("g_proj.weight", "g_proj.weight"), ("norm.weight", "g_norm_swish_gate.weight")]));
    (MixerConfig::RetNet(config), layout)
}

pub fn linear_attention(fields: &Fields) -> (MixerConfig, Layout) {
    let config = LinearAttentionConfig {
        normalised: fields.flag("norm_feature_map"),
        chunk: 8,
        ..LinearAttentionConfig::new(fields.size("num_heads"))
    };
    (MixerConfig::LinearAttention(config), projections(""))
}

pub fn taylor(fields: &Fields) -> (MixerConfig, Layout) {
    let config = LinearAttentionConfig {
        key_dim: Some(fields.size("feature_dim")),
        feature_map: FeatureMap::Taylor,
        chunk: 8,
        ..LinearAttentionConfig::new(fields.size("num_heads"))
    };
    (MixerConfig::LinearAttention(config), projections(""))
}

pub fn forgetting(fields: &Fields) -> (MixerConfig, Layout) {
    let config = ForgettingConfig {
        kv_heads: Some(fields.size("num_kv_heads")),
        qk_norm: fields.flag("qk_norm"),
        ..ForgettingConfig::new(fields.size("num_heads"))
    };
    let mut layout = projections("attention.");
    layout.extend(renamed(&[("forget_proj.weight", "f_proj.weight"), ("forget_bias", "f_proj.bias")]));
    (MixerConfig::Forgetting(config), layout)
}

pub fn nsa(fields: &Fields) -> (MixerConfig, Layout) {
    let config = NsaConfig {
        kv_heads: Some(fields.size("num_kv_heads")),
        head_dim: Some(fields.size("head_dim")),
        qk_norm: false,
        position: Position::rope(fields.number("rope_theta")),
        block: fields.size("block_size"),
        selected: fields.size("block_counts"),
        window: fields.size("window_size"),
        ..NsaConfig::new(fields.size("num_heads"))
    };
    let mut layout = projections("attention.");
    layout.extend(renamed(&[("gate_proj.weight", "g_proj.weight")]));
    (MixerConfig::Nsa(config), layout)
}
