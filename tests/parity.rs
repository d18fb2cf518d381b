//! Every definition against its original: logits, every hidden state and every gradient.
//!
//! `tests/parity/make.py` made the references in f64 with the originals' own code where it is on
//! PyPI, and with a re-derivation from the formula where it is not; `tests/parity/README.md` says which.

#[path = "../zoo/tests/common/mod.rs"]
mod common;
#[path = "parity/compare.rs"]
mod compare;
#[path = "parity/fla.rs"]
mod fla;
#[path = "parity/layers.rs"]
mod layers;

use attention::prelude::*;
use common::gradients_by_name;
use compare::*;
use zoo::checkpoint::Tensors;
use zoo::{checkpoint, pretrained};

/// Compares a decoder with the reference of `family`, whose gradients are here under our names.
fn compare_models(family: &str, model: &Decoder, expected_gradients: &Tensors) {
    let reference = reference(family);
    let ids: Vec<i32> = reference["ids"].iter::<i64>().map(|id| id as i32).collect();
    let [batch, time] = reference["ids"].shape().to_vec().try_into().expect("[batch, time]");
    let forward = |model: &Decoder, tolerance| {
        let mut record = Record::new(&["embedding", "blocks.*.out"]);
        let logits = model.forward_with(model.tokens(&ids, [batch, time]).unwrap(), &mut record);
        assert_close(&format!("{family}: logits"), &logits.to_data(), &reference["logits"], tolerance);
        for layer in 0..=model.blocks.len() {
            let name = if layer == 0 { "embedding".into() } else { format!("blocks.{}.out", layer - 1) };
            let (found, expected) = (record.get::<3>(&name).expect("recorded"), &reference[&format!("hidden.{layer}")]);
            assert_close(&format!("{family}: hidden {layer}"), &found.into_data(), expected, tolerance);
        }
        logits
    };
    forward(model, 2e-5);

    // In double precision nothing is left but the rounding of the stored reference.
    let model = common::double(model.clone());
    let logits = forward(&model, 1e-6);
    let targets: Vec<i32> = ids.chunks(time).flat_map(|row| row[1..].to_vec()).collect();
    let targets = model.tokens(&targets, [batch, time - 1]).unwrap();
    let loss = cross_entropy(logits.narrow(1, 0, time - 1), targets, &vec![1.0; batch * (time - 1)]);
    let found = gradients_by_name(&model, &loss.backward());
    assert!(!expected_gradients.is_empty());
    for (name, expected) in expected_gradients {
        let gradient = found.get(name).unwrap_or_else(|| panic!("{family}: no gradient of {name}"));
        assert_close(&format!("{family}: gradient of {name}"), gradient, expected, 1e-6);
    }
}

/// The folders that load as they are.
const FAMILIES: [&str; 9] = [
    "llama",
    "llama3",
    "qwen3",
    "gated_headwise",
    "gated_elementwise",
    "diffllama",
    "qwen3_next",
    "fla_gated_deltanet",
    "fla_kda",
];

#[test]
fn checkpoints_of_hugging_face_give_the_originals_numbers() {
    for family in FAMILIES {
        let (_, model) = pretrained::load(&folder(family), &Device::flex().autodiff()).unwrap();
        let expected = pretrained::translate(&folder(family), reference_gradients(family)).unwrap();
        compare_models(family, &model, &expected);
    }
}

/// The two layouts that are not Hugging Face's: unilm's V1 (neighbours paired, the norm of a head
/// has a weight) and V2.
#[test]
fn differential_attention_is_that_of_its_authors() {
    use DifferentialVersion::{V1, V2};
    for (family, version) in [("diff_v1_unilm", V1), ("diff_v2", V2)] {
        let json = std::fs::read_to_string(folder(family).join("config.json")).unwrap();
        let fields: serde_json::Value = serde_json::from_str(&json).unwrap();
        let size = |name: &str| fields[name].as_u64().unwrap_or_else(|| panic!("{family}: {name}")) as usize;
        let mixer = DifferentialConfig {
            head_dim: Some(size("head_dim")),
            kv_heads: Some(size("num_key_value_heads")),
            norm_eps: 1e-5,
            position: Position::rope(10_000.0),
            ..DifferentialConfig::new(version, size("num_attention_heads"))
        };
        let config = ModelConfig {
            vocab_size: size("vocab_size"),
            tied: fields["tie_word_embeddings"] == true,
            norm_eps: fields["rms_norm_eps"].as_f64().unwrap(),
            ..ModelConfig::new(
                size("hidden_size"),
                size("intermediate_size"),
                size("num_hidden_layers"),
                vec![MixerConfig::Differential(mixer)],
            )
        };
        let ours = |tensors: Tensors| -> Tensors {
            let rename = |name: String| {
                name.replace("model.layers.", "blocks.")
                    .replace("self_attn.lambda_proj", "mixer.lambda")
                    .replace("self_attn.lambda_", "mixer.lambda.")
                    .replace("self_attn.subln", "mixer.lambda.norm")
                    .replace("self_attn.out_proj", "mixer.o_proj")
                    .replace("self_attn", "mixer")
                    .replace("input_layernorm", "mixer_norm")
                    .replace("post_attention_layernorm", "feed_forward_norm")
                    .replace(".mlp.", ".feed_forward.")
                    .replace("model.embed_tokens.weight", "embedding")
                    .replace("model.norm", "norm")
                    .replace("lm_head.weight", "head")
            };
            tensors.into_iter().map(|(name, data)| (rename(name), data)).collect()
        };
        let path = folder(family).join("model.safetensors");
        let model = config.init(0, &Device::flex().autodiff()).unwrap();
        let model = checkpoint::apply(model, &ours(checkpoint::read(&path).unwrap().0), &path).unwrap();
        compare_models(family, &model, &ours(reference_gradients(family)));
    }
}
