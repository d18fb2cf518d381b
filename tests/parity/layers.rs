//! Single layers against their originals: outputs, decoding token by token, and every gradient.

use crate::common::{self, gradients_by_name};
use crate::compare::*;
use crate::fla;
use attention::prelude::*;
use burn::tensor::DType;
use zoo::{checkpoint, pretrained};

/// What a family's configuration means here, and how its tensors become ours.
pub type Meaning = fn(&Fields) -> (MixerConfig, Layout);

/// The block whose layer it is, of how many, where that makes a difference.
const BLOCKS: [(&str, usize, usize); 3] =
    [("lightning", 1, 4), ("lightning_minimax", 1, 4), ("multi_token_depth", 1, 2)];

const LAYERS: [(&str, Meaning); 26] = [
    ("qwen3_next_delta", qwen3_next_delta),
    ("gpt_oss_sliding", |fields| gpt_oss(fields, Some(fields.size("sliding_window")))),
    ("gpt_oss_full", |fields| gpt_oss(fields, None)),
    ("gemma2", gemma2),
    ("alibi", alibi),
    ("latent", latent),
    ("mamba2", mamba2),
    ("lightning_minimax", |fields| lightning(fields, LightningDecays::Geometric)),
    ("lightning", |fields| lightning(fields, LightningDecays::Linear)),
    ("deltanet", fla::deltanet),
    ("gdn2", fla::gdn2),
    ("gla", fla::gla),
    ("retnet", fla::retnet),
    ("linear_attention", fla::linear_attention),
    ("taylor", fla::taylor),
    ("forgetting", fla::forgetting),
    ("nsa", fla::nsa),
    ("off_by_one", |fields| softmax(fields, Sink::OffByOne {}, &[])),
    ("key_bias", |fields| softmax(fields, Sink::KeyBias {}, &[("sink", "key_bias")])),
    ("sigmoid", |fields| softmax(fields, Sink::Sigmoid {}, &[])),
    ("talking_heads", talking_heads),
    ("multi_token", multi_token),
    ("multi_token_depth", multi_token),
    ("moba", moba),
    ("nexus", |fields| nexus(fields, NexusInner::Values)),
    ("nexus_queries_and_keys", |fields| nexus(fields, NexusInner::QueriesAndKeys)),
];

#[test]
fn every_layer_is_the_originals() {
    for (family, meaning) in LAYERS {
        let (config, layout) = meaning(&Fields::of(family));
        let (_, layer, layers) = BLOCKS.into_iter().find(|(name, ..)| *name == family).unwrap_or((family, 0, 1));
        compare(family, &config, layer, layers, &layout);
    }
}

fn compare(family: &str, config: &MixerConfig, layer: usize, layers: usize, layout: &Layout) {
    let reference = reference(family);
    let [_, time, d_model] = reference["x"].shape().to_vec().try_into().expect("[batch, time, d_model]");
    config.validate(d_model).unwrap();
    let device = Device::flex().autodiff();
    let mixer = config.init(d_model, layer, &mut Init::new(0, 0.02, 0.02, layers, &device));
    let ours = checkpoint::tensors(&mixer);
    let path = folder(family).join("model.safetensors");
    let weights = translate(layout, &checkpoint::read(&path).unwrap().0, &ours);
    let mixer = checkpoint::apply(mixer, &weights, &path).unwrap();
    let mut gradients = reference_gradients(family);
    gradients.remove("x");
    let gradients = translate(layout, &gradients, &ours);

    let compare = |mixer: &AnyMixer, dtype, tolerance, of_gradients| {
        let tensor = |name: &str| Tensor::<3>::from_data(reference[name].clone(), (&device, dtype));
        let close = |what: &str, found: Tensor<3>, expected: &str, tolerance| {
            assert_close(
                &format!("{family} in {dtype:?}: {what}"),
                &found.into_data(),
                &reference[expected],
                tolerance,
            );
        };
        let x = tensor("x").require_grad();
        let out = mixer.forward(x.clone(), &mut Silent);
        close("output", out.clone(), "out", tolerance);
        let mut cache = Cache::default();
        let steps = (0..time).map(|t| {
            let y = mixer.step(x.clone().narrow(1, t, 1), &mut cache, &mut Silent);
            cache.advance(1);
            y
        });
        close("output, token by token", Tensor::cat(steps.collect(), 1), "out", tolerance);
        let backward = (out * tensor("w")).sum().backward();
        close("gradient of x", x.grad(&backward).unwrap(), "grad.x", of_gradients);
        let found = gradients_by_name(mixer, &backward);
        for (name, expected) in &gradients {
            let what = format!("{family} in {dtype:?}: gradient of {name}");
            assert_close(&what, found.get(name).expect(&what), expected, of_gradients);
        }
    };
    compare(&mixer, DType::F32, 2e-5, 1e-4);
    // In double precision nothing is left but the rounding of the stored reference.
    compare(&common::double(mixer), DType::F64, 3e-7, 3e-7);
}

/// A layer of a whole checkpoint, of which only the attention is read.
#[test]
fn the_attention_of_gpt_oss_is_read_from_a_checkpoint() {
    for (family, layer) in [("gpt_oss_sliding", 0), ("gpt_oss_full", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let weights = checkpoint::read(&folder(family).join("model.safetensors")).unwrap().0;
        let named = |(name, data)| (format!("model.layers.{layer}.self_attn.{name}"), data);
        let weights = weights.into_iter().map(named).collect();
        checkpoint::write(&dir.path().join("model.safetensors"), &weights, Default::default()).unwrap();
        std::fs::copy(folder(family).join("config.json"), dir.path().join("config.json")).unwrap();
        let (_, mixer) = pretrained::gpt_oss::attention(dir.path(), layer, &Device::flex()).unwrap();
        let reference = reference(family);
        let x = Tensor::from_data(reference["x"].clone(), &Device::flex());
        assert_close(family, &mixer.forward(x, &mut Silent).into_data(), &reference["out"], 2e-5);

        let refused = |layer| pretrained::gpt_oss::attention(dir.path(), layer, &Device::flex()).unwrap_err();
        let other = refused(1 - layer).to_string();
        assert!(other.contains("holds 0"), "{other}");
        assert!(refused(2).to_string().contains("layer 2 is not among 0..2"));
    }
}

fn qwen3_next_delta(fields: &Fields) -> (MixerConfig, Layout) {
    let (k_heads, heads) = (fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads"));
    let (key_dim, value_dim) = (fields.size("linear_key_head_dim"), fields.size("linear_value_head_dim"));
    let config = GatedDeltaConfig {
        k_heads: Some(k_heads),
        key_dim: Some(key_dim),
        value_dim: Some(value_dim),
        conv: fields.size("linear_conv_kernel_dim"),
        chunk: 8,
        ..GatedDeltaConfig::new(heads)
    };
    let share = heads / k_heads;
    let v = share * value_dim;
    let mut layout = renamed(&[
        ("conv", "conv1d.weight"),
        ("a_log", "A_log"),
        ("dt_bias", "dt_bias"),
        ("norm.weight", "norm.weight"),
        ("o_proj.weight", "out_proj.weight"),
    ]);
    for (name, from, count) in
        [("q", 0, key_dim), ("k", key_dim, key_dim), ("v", 2 * key_dim, v), ("z", 2 * key_dim + v, v)]
    {
        layout.push((format!("{name}_proj.weight"), vec![rows("in_proj_qkvz.weight", k_heads, from, count)]));
    }
    for (name, from) in [("b", 0), ("a", share)] {
        layout.push((format!("{name}_proj.weight"), vec![rows("in_proj_ba.weight", k_heads, from, share)]));
    }
    (MixerConfig::GatedDelta(config), layout)
}

fn gpt_oss(fields: &Fields, window: Option<usize>) -> (MixerConfig, Layout) {
    let rope = fields.inner("rope_parameters");
    let scaling = RopeScaling::Yarn {
        factor: rope.number("factor"),
        original: rope.number("original_max_position_embeddings"),
        beta_fast: rope.number("beta_fast"),
        beta_slow: rope.number("beta_slow"),
        truncate: rope.flag("truncate"),
    };
    let config = SoftmaxConfig {
        kv_heads: Some(fields.size("num_key_value_heads")),
        head_dim: Some(fields.size("head_dim")),
        qk_norm: false,
        position: Position::Rope(Rope {
            theta: rope.number("rope_theta"),
            fraction: 1.0,
            layout: RopeLayout::HalfSplit,
            scaling: Some(scaling),
        }),
        window,
        sink: Some(Sink::Logit {}),
        bias: fields.flag("attention_bias"),
        ..SoftmaxConfig::new(fields.size("num_attention_heads"))
    };
    let mut layout = projections("");
    layout.extend(
        ["q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias"].map(|name| (name.into(), vec![all(name)])),
    );
    layout.extend(renamed(&[("sink", "sinks")]));
    (MixerConfig::Softmax(config), layout)
}

fn gemma2(fields: &Fields) -> (MixerConfig, Layout) {
    let softcap = Some(fields.number("attn_logit_softcapping"));
    let config = SoftmaxConfig { window: Some(fields.size("sliding_window")), softcap, ..llama(fields) };
    (MixerConfig::Softmax(config), projections(""))
}

fn alibi(fields: &Fields) -> (MixerConfig, Layout) {
    let position = Position::Alibi {};
    let config = SoftmaxConfig { qk_norm: false, position, ..SoftmaxConfig::new(fields.size("n_heads")) };
    let d_model = fields.size("d_model");
    let mut layout = renamed(&[("o_proj.weight", "out_proj.weight")]);
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        layout.push((format!("{name}_proj.weight"), vec![rows("Wqkv.weight", 1, i * d_model, d_model)]));
    }
    (MixerConfig::Softmax(config), layout)
}

fn latent(fields: &Fields) -> (MixerConfig, Layout) {
    let position = Position::Rope(Rope {
        theta: fields.inner("rope_parameters").number("rope_theta"),
        fraction: 1.0,
        layout: if fields.flag("rope_interleave") { RopeLayout::Interleaved } else { RopeLayout::HalfSplit },
        scaling: None,
    });
    let config = LatentConfig {
        rank: Some(fields.size("kv_lora_rank")),
        query_rank: Some(fields.size("q_lora_rank")),
        content_dim: Some(fields.size("qk_nope_head_dim")),
        position_dim: Some(fields.size("qk_rope_head_dim")),
        value_dim: Some(fields.size("v_head_dim")),
        position,
        ..LatentConfig::new(fields.size("num_attention_heads"))
    };
    let layout = renamed(&[
        ("q_down.weight", "q_a_proj.weight"),
        ("q_norm.weight", "q_a_layernorm.weight"),
        ("q_proj.weight", "q_b_proj.weight"),
        ("kv_down.weight", "kv_a_proj_with_mqa.weight"),
        ("kv_norm.weight", "kv_a_layernorm.weight"),
        ("kv_proj.weight", "kv_b_proj.weight"),
        ("o_proj.weight", "o_proj.weight"),
    ]);
    (MixerConfig::Latent(config), layout)
}

fn mamba2(fields: &Fields) -> (MixerConfig, Layout) {
    let (heads, head_dim, state_dim) = (fields.size("num_heads"), fields.size("head_dim"), fields.size("state_size"));
    let config = Mamba2Config {
        head_dim: Some(head_dim),
        state_dim,
        conv: fields.size("conv_kernel"),
        norm_eps: fields.number("layer_norm_epsilon"),
        chunk: fields.size("chunk_size"),
        ..Mamba2Config::new(heads)
    };
    let mut layout = renamed(&[
        ("conv", "conv1d.weight"),
        ("conv_bias", "conv1d.bias"),
        ("a_log", "A_log"),
        ("dt_bias", "dt_bias"),
        ("d", "D"),
        ("norm.weight", "norm.weight"),
        ("o_proj.weight", "out_proj.weight"),
    ]);
    let mut from = 0;
    let inner = heads * head_dim;
    for (name, count) in [("z", inner), ("x", inner), ("b", state_dim), ("c", state_dim), ("dt", heads)] {
        layout.push((format!("{name}_proj.weight"), vec![rows("in_proj.weight", 1, from, count)]));
        from += count;
    }
    (MixerConfig::Mamba2(config), layout)
}

fn lightning(fields: &Fields, decays: LightningDecays) -> (MixerConfig, Layout) {
    let (heads, d) = (fields.size("num_attention_heads"), fields.size("head_dim"));
    let config = LightningConfig {
        key_dim: Some(d),
        value_dim: Some(d),
        decays,
        norm_eps: 1e-6,
        chunk: fields.size("block_size"),
        ..LightningConfig::new(heads)
    };
    let mut layout = renamed(&[
        ("g_proj.weight", "output_gate.weight"),
        ("norm.weight", "norm.weight"),
        ("o_proj.weight", "out_proj.weight"),
    ]);
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        layout.push((format!("{name}_proj.weight"), vec![rows("qkv_proj.weight", heads, i * d, d)]));
    }
    (MixerConfig::Lightning(config), layout)
}

/// Llama's attention: heads, key heads, channels and rotation.
fn llama(fields: &Fields) -> SoftmaxConfig {
    SoftmaxConfig {
        kv_heads: Some(fields.size("num_key_value_heads")),
        head_dim: Some(fields.size("head_dim")),
        qk_norm: false,
        position: Position::rope(fields.inner("rope_parameters").number("rope_theta")),
        ..SoftmaxConfig::new(fields.size("num_attention_heads"))
    }
}

fn softmax(fields: &Fields, sink: Sink, more: &[(&str, &str)]) -> (MixerConfig, Layout) {
    let mut layout = projections("");
    layout.extend(renamed(more));
    (MixerConfig::Softmax(SoftmaxConfig { sink: Some(sink), ..llama(fields) }), layout)
}

fn on_a_map(fields: &Fields, config: MultiTokenConfig) -> MultiTokenConfig {
    let SoftmaxConfig { kv_heads, head_dim, qk_norm, position, .. } = llama(fields);
    MultiTokenConfig { kv_heads, head_dim, qk_norm, position, ..config }
}

const MIXINGS: [(&str, &str); 2] = [("before.heads", "score_mixing"), ("after.heads", "weight_mixing")];

fn talking_heads(fields: &Fields) -> (MixerConfig, Layout) {
    let config = MultiTokenConfig::talking_heads(fields.size("num_attention_heads"));
    let mut layout = projections("attention.");
    layout.extend(renamed(&MIXINGS));
    (MixerConfig::MultiToken(on_a_map(fields, config)), layout)
}

fn multi_token(fields: &Fields) -> (MixerConfig, Layout) {
    let kernel = MapKernel { queries: fields.size("kernel_queries"), keys: fields.size("kernel_keys") };
    let mixing = MapMixing { kernel: Some(kernel), heads: Some(fields.size("mixed_heads")) };
    let gate = fields.flag("head_gate");
    let config = MultiTokenConfig {
        before: mixing,
        after: mixing,
        norm: Some(HeadNorm { depth_scaling: !gate, gate }),
        norm_eps: fields.number("subln_eps"),
        ..MultiTokenConfig::plain(fields.size("num_attention_heads"))
    };
    let mut layout = projections("attention.");
    layout.extend(renamed(&MIXINGS));
    layout.extend(renamed(&[
        ("before.kernel", "score_kernel"),
        ("after.kernel", "weight_kernel"),
        ("norm.norm.weight", "subln.weight"),
    ]));
    if gate {
        layout.extend(renamed(&[("norm.gate.weight", "gate.weight"), ("norm.gate_bias", "gate.bias")]));
    }
    (MixerConfig::MultiToken(on_a_map(fields, config)), layout)
}

fn moba(fields: &Fields) -> (MixerConfig, Layout) {
    let SoftmaxConfig { heads, kv_heads, head_dim, qk_norm, position, .. } = llama(fields);
    let (block, top_k) = (fields.size("moba_chunk_size"), fields.size("moba_topk"));
    let config = MobaConfig { heads, kv_heads, head_dim, qk_norm, position, block, top_k };
    (MixerConfig::Moba(config), projections("attention."))
}

const QKV: [(&str, &str); 3] =
    [("q_proj.weight", "q_proj.weight"), ("k_proj.weight", "k_proj.weight"), ("v_proj.weight", "v_proj.weight")];

fn nexus(fields: &Fields, inner: NexusInner) -> (MixerConfig, Layout) {
    let SoftmaxConfig { heads, kv_heads, head_dim, qk_norm, position, .. } = llama(fields);
    let order = fields.size("order");
    let config = NexusConfig { kv_heads, head_dim, qk_norm, position, order, inner, ..NexusConfig::new(heads) };
    let mut layout = renamed(&[("o_proj.weight", "o_proj.weight")]);
    layout.extend(below("outer.", "", renamed(&QKV)));
    (MixerConfig::Nexus(config), layout)
}
