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
    // PyTorch's own f32 is up to 7e-5 (absolute) from f64 there, see README.md: a choice of experts multiplies what rounding leaves.
    forward(model, if family == "qwen3_next" { 5e-5 } else { 2e-5 });

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

#[test]
fn checkpoints_of_hugging_face_give_the_originals_numbers() {
    for family in common::PRETRAINED {
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
        let fields = Fields::of(family);
        let mixer = DifferentialConfig {
            head_dim: Some(fields.size("head_dim")),
            kv_heads: Some(fields.size("num_key_value_heads")),
            norm_eps: 1e-5,
            position: Position::rope(10_000.0),
            ..DifferentialConfig::new(version, fields.size("num_attention_heads"))
        };
        let config = ModelConfig {
            vocab_size: fields.size("vocab_size"),
            tied: fields.flag("tie_word_embeddings"),
            norm_eps: fields.number("rms_norm_eps"),
            ..ModelConfig::new(
                fields.size("hidden_size"),
                fields.size("intermediate_size"),
                fields.size("num_hidden_layers"),
                vec![MixerConfig::Differential(mixer)],
            )
        };
        let ours = |tensors: Tensors| -> Tensors {
            tensors.into_iter().map(|(name, data)| (common::authors_name(&name), data)).collect()
        };
        let path = folder(family).join("model.safetensors");
        let model = config.init(0, &Device::flex().autodiff()).unwrap();
        let model = checkpoint::apply(model, &ours(checkpoint::read(&path).unwrap().0), &path).unwrap();
        compare_models(family, &model, &ours(reference_gradients(family)));
    }
}
