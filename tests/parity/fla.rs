//! The layers of flash-linear-attention, and its models of Gated DeltaNet and KDA in its own files.

use crate::compare::*;
use crate::layers::Meaning;
use attention::prelude::*;
use zoo::checkpoint::{self, Tensors};

#[test]
fn models_of_flash_linear_attention_give_its_numbers() {
    let meanings: [(&str, Meaning); 2] = [("fla_gated_deltanet", gated_deltanet), ("fla_kda", kda)];
    for (family, meaning) in meanings {
        let fields = Fields::of(family);
        let (mixer, of_mixer) = meaning(&fields);
        let config = ModelConfig {
            vocab_size: fields.size("vocab_size"),
            tied: fields.flag("tie_word_embeddings"),
            norm_eps: fields.number("norm_eps"),
            ..ModelConfig::new(
                fields.size("hidden_size"),
                fields.size("intermediate_size"),
                fields.size("num_hidden_layers"),
                vec![mixer],
            )
        };
        let mut layout = renamed(&[("embedding", "model.embeddings.weight"), ("norm.weight", "model.norm.weight")]);
        if !config.tied {
            layout.extend(renamed(&[("head", "lm_head.weight")]));
        }
        for block in 0..config.layers {
            let (ours, theirs) = (format!("blocks.{block}."), format!("model.layers.{block}."));
            layout.extend(below(&ours, &theirs, renamed(&BLOCK)));
            layout.extend(below(&(ours + "mixer."), &(theirs + "attn."), of_mixer.clone()));
        }
        let model = config.init(0, &Device::flex().autodiff()).unwrap();
        let ours = checkpoint::tensors(&model);
        let path = folder(family).join("model.safetensors");
        let translated = |theirs: &Tensors| translate(&layout, theirs, &ours);
        let model = checkpoint::apply(model, &translated(&checkpoint::read(&path).unwrap().0), &path).unwrap();
        crate::compare_models(family, &model, &translated(&reference_gradients(family)));
    }
}

const BLOCK: [(&str, &str); 5] = [
    ("mixer_norm.weight", "attn_norm.weight"),
    ("feed_forward_norm.weight", "mlp_norm.weight"),
    ("feed_forward.gate_proj.weight", "mlp.gate_proj.weight"),
    ("feed_forward.up_proj.weight", "mlp.up_proj.weight"),
    ("feed_forward.down_proj.weight", "mlp.down_proj.weight"),
];

fn gated_deltanet(fields: &Fields) -> (MixerConfig, Layout) {
    let config = GatedDeltaConfig {
        k_heads: Some(fields.size("num_heads")),
        key_dim: Some(fields.size("head_dim")),
        value_dim: value_dim(fields),
        conv: fields.size("conv_size"),
        allow_negative_eigenvalues: fields.flag("allow_neg_eigval"),
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..GatedDeltaConfig::new(fields.size("num_v_heads"))
    };
    let mut layout = projections("");
    layout.push(convolutions());
    layout.extend(renamed(&[
        ("a_proj.weight", "a_proj.weight"),
        ("b_proj.weight", "b_proj.weight"),
        ("z_proj.weight", "g_proj.weight"),
        ("a_log", "A_log"),
        ("dt_bias", "dt_bias"),
        ("norm.weight", "o_norm.weight"),
    ]));
    (MixerConfig::GatedDelta(config), layout)
}

fn kda(fields: &Fields) -> (MixerConfig, Layout) {
    let config = KdaConfig {
        key_dim: Some(fields.size("head_dim")),
        value_dim: value_dim(fields),
        conv: fields.size("conv_size"),
        allow_negative_eigenvalues: fields.flag("allow_neg_eigval"),
        norm_eps: fields.number("norm_eps"),
        chunk: 8,
        ..KdaConfig::new(fields.size("num_heads"))
    };
    (MixerConfig::Kda(config), kda_layout())
}

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
    let mut layout = kda_layout();
    layout.extend(renamed(&[("w_proj.weight", "w_proj.weight")]));
    (MixerConfig::GatedDelta2(config), layout)
}

/// KDA's tensors, which Gated DeltaNet-2 has too.
fn kda_layout() -> Layout {
    let mut layout = projections("");
    layout.push(convolutions());
    layout.extend(renamed(&[
        ("b_proj.weight", "b_proj.weight"),
        ("f_a_proj.weight", "f_proj.0.weight"),
        ("f_b_proj.weight", "f_proj.1.weight"),
        ("a_log", "A_log"),
        ("dt_bias", "dt_bias"),
        ("g_a_proj.weight", "g_proj.0.weight"),
        ("g_b_proj.weight", "g_proj.1.weight"),
        ("g_bias", "g_proj.1.bias"),
        ("norm.weight", "o_norm.weight"),
    ]));
    layout
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
