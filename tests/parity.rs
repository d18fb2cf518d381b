//! Every definition against its original: logits, every hidden state and every gradient.
//!
//! `tests/parity/make.py` made the references in f64 with the originals' own code where it is on
//! PyPI, and with a re-derivation from the formula where it is not; `tests/parity/README.md` says which.

#[path = "../zoo/tests/common/mod.rs"]
mod common;

use attention::prelude::*;
use burn::tensor::DType;
use common::gradients_by_name;
use std::path::{Path, PathBuf};
use zoo::checkpoint::Tensors;
use zoo::{checkpoint, pretrained};

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/data").join(family)
}

fn reference(family: &str) -> Tensors {
    checkpoint::read(&folder(family).join("reference.safetensors")).expect("a reference").0
}

fn values(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The largest difference, as a part of the largest value expected.
fn relative(what: &str, found: &TensorData, expected: &TensorData) -> f64 {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    assert!(scale > 0.0, "{what}: the reference is zero");
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

fn assert_close(what: &str, found: &TensorData, expected: &TensorData, tolerance: f64) {
    let error = relative(what, found, expected);
    assert!(error < tolerance, "{what}: off by {error:e}, allowed {tolerance:e}");
}

/// Compares a decoder with the reference of `family`, whose gradients are here under our names.
fn compare(family: &str, model: &Decoder, expected_gradients: &Tensors) {
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

/// The gradients of a reference, without their prefix.
fn reference_gradients(family: &str) -> Tensors {
    let named = |(name, data): (String, TensorData)| Some((name.strip_prefix("grad.")?.to_owned(), data));
    reference(family).into_iter().filter_map(named).collect()
}

#[test]
fn checkpoints_of_hugging_face_give_the_originals_numbers() {
    for family in ["llama", "llama3", "qwen3", "gated_headwise", "gated_elementwise", "diffllama", "qwen3_next"] {
        let (_, model) = pretrained::load(&folder(family), &Device::flex().autodiff()).unwrap();
        let expected = pretrained::translate(&folder(family), reference_gradients(family)).unwrap();
        compare(family, &model, &expected);
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
        compare(family, &model, &ours(reference_gradients(family)));
    }
}

/// Qwen3-Next's Gated DeltaNet layer alone. Its projections are grouped by key head.
#[test]
fn the_gated_delta_layer_is_that_of_qwen3_next() {
    let (family, k_heads, v_heads, key_dim, value_dim) = ("qwen3_next_delta", 2, 4, 6, 8);
    let reference = reference(family);
    let [batch, time, d_model] = reference["x"].shape().to_vec().try_into().expect("[batch, time, d_model]");
    let config = GatedDeltaConfig {
        k_heads: Some(k_heads),
        key_dim: Some(key_dim),
        value_dim: Some(value_dim),
        conv: 4,
        chunk: 8,
        ..GatedDeltaConfig::new(v_heads)
    };
    let values_of = v_heads / k_heads;
    let ours = |tensors: &Tensors| -> Tensors {
        let mut all = Tensors::new();
        let rows = |data: &TensorData, group: usize, from: usize, count: usize| {
            let values: Vec<f32> = data.iter::<f32>().collect();
            let width = data.shape()[1];
            let taken: Vec<f32> = (0..k_heads)
                .flat_map(|g| values[(g * group + from) * width..(g * group + from + count) * width].to_vec())
                .collect();
            TensorData::new(taken, [k_heads * count, width])
        };
        let (qk, v) = (key_dim, values_of * value_dim);
        for (name, from, count) in [("q", 0, qk), ("k", qk, qk), ("v", 2 * qk, v), ("z", 2 * qk + v, v)] {
            let part = rows(&tensors["in_proj_qkvz.weight"], 2 * qk + 2 * v, from, count);
            all.insert(format!("{name}_proj.weight"), part);
        }
        for (name, from) in [("b", 0), ("a", values_of)] {
            let part = rows(&tensors["in_proj_ba.weight"], 2 * values_of, from, values_of);
            all.insert(format!("{name}_proj.weight"), part);
        }
        let conv = &tensors["conv1d.weight"];
        all.insert("conv".into(), TensorData::new(conv.iter::<f32>().collect::<Vec<_>>(), [conv.shape()[0], 4]));
        for (theirs, name) in [
            ("A_log", "a_log"),
            ("dt_bias", "dt_bias"),
            ("norm.weight", "norm.weight"),
            ("out_proj.weight", "o_proj.weight"),
        ] {
            all.insert(name.into(), tensors[theirs].clone());
        }
        all
    };
    let path = folder(family).join("model.safetensors");
    let device = Device::flex().autodiff();
    let mixer = config.init(d_model, &mut Init::new(0, 0.02, 0.02, 1, &device));
    let mixer = checkpoint::apply(mixer, &ours(&checkpoint::read(&path).unwrap().0), &path).unwrap();
    let tensor = |name: &str| Tensor::<3>::from_data(reference[name].clone(), (&device, DType::F32));
    let x = tensor("x").require_grad();
    let out = mixer.forward(x.clone(), &mut Silent);
    assert_close("the layer's output", &out.clone().into_data(), &reference["out"], 2e-5);
    let steps = {
        let mut cache = Cache::default();
        let step = |t| {
            let y = mixer.step(x.clone().narrow(1, t, 1), &mut cache, &mut Silent);
            cache.advance(1);
            y
        };
        Tensor::cat((0..time).map(step).collect(), 1)
    };
    assert_close("the layer, token by token", &steps.into_data(), &reference["out"], 2e-5);
    let backward = (out * tensor("w")).sum().backward();
    assert_close("gradient of x", &x.grad(&backward).unwrap().into_data(), &reference["grad.x"], 1e-4);
    let found = gradients_by_name(&mixer, &backward);
    let mut expected = reference_gradients(family);
    expected.remove("x");
    let expected = ours(&expected);
    assert_eq!(found.len(), expected.len());
    for (name, gradient) in &expected {
        assert_close(&format!("gradient of {name}"), &found[name], gradient, 1e-4);
    }
    assert_eq!(batch, 2);
}
