//! Checkpoints of Hugging Face: shards, and what is wrong with a directory. That the numbers are
//! right is shown in `tests/parity.rs`.

mod common;

use burn::tensor::{Device, TensorData};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use zoo::checkpoint::{self, Tensors};
use zoo::pretrained::{self, unilm};
use zoo::*;

/// A copy of a small checkpoint, to be broken.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(family: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/data").join(family);
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn weights(&self) -> Tensors {
        checkpoint::read(&self.path("model.safetensors")).unwrap().0
    }

    fn write(&self, file: &str, tensors: &Tensors) {
        checkpoint::write(&self.path(file), tensors, HashMap::new()).unwrap();
    }

    /// The configuration with `key` set to a JSON value.
    fn set(&self, key: &str, value: &str) -> &Self {
        let json = std::fs::read_to_string(self.path("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&json).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        std::fs::write(self.path("config.json"), config.to_string()).unwrap();
        self
    }

    fn logits(&self) -> Vec<f32> {
        let (_, model) = pretrained::load(self.0.path(), &Device::flex()).unwrap();
        model.forward(model.tokens(&[1, 2, 3, 4], [1, 4]).unwrap()).into_data().try_into_vec().unwrap()
    }

    /// The message with which the directory is refused.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let message = pretrained::load(self.0.path(), &Device::flex()).map(drop).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}\nshould say {parts:?}");
    }
}

#[test]
fn shards_give_the_same_model_as_one_file() {
    let copy = Copy::of("qwen3");
    let whole = copy.logits();
    let (mut first, mut second) = (Tensors::new(), copy.weights());
    let names: Vec<String> = second.keys().cloned().collect();
    for name in &names[..names.len() / 2] {
        first.insert(name.clone(), second.remove(name).unwrap());
    }
    copy.write("model-00001-of-00002.safetensors", &first);
    copy.write("model-00002-of-00002.safetensors", &second);
    std::fs::remove_file(copy.path("model.safetensors")).unwrap();
    let file =
        |name: &String| format!("model-0000{}-of-00002.safetensors", if first.contains_key(name) { 1 } else { 2 });
    let map = |file: &dyn Fn(&String) -> String| -> serde_json::Value {
        let map: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), file(name).into())).collect();
        serde_json::json!({ "metadata": {}, "weight_map": map })
    };
    let index = copy.path("model.safetensors.index.json");
    std::fs::write(&index, map(&file).to_string()).unwrap();
    assert_eq!(copy.logits(), whole);

    // What was saved beside older shards is what is read.
    let (config, model) = pretrained::load(&copy.path(""), &Device::flex()).unwrap();
    let other = config.init(1, &Device::flex()).unwrap();
    pretrained::save(&copy.path(""), &config, &other).unwrap();
    assert_ne!(copy.logits(), whole);
    pretrained::save(&copy.path(""), &config, &model).unwrap();
    assert_eq!(copy.logits(), whole);
    assert!(!index.exists());
    std::fs::remove_file(copy.path("model.safetensors")).unwrap();

    // The index promises what the shard does not hold.
    std::fs::write(&index, map(&|_| "model-00001-of-00002.safetensors".into()).to_string()).unwrap();
    copy.refused(&["index.json", "not in the shards", second.keys().next().unwrap()]);
    for outside in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        std::fs::write(&index, map(&|_| outside.into()).to_string()).unwrap();
        copy.refused(&["index.json", outside, "no file name"]);
    }
    std::fs::write(&index, map(&|_| "model-00009.safetensors".into()).to_string()).unwrap();
    copy.refused(&["model-00009.safetensors"]);
    std::fs::write(&index, "{\"weight_map\": 3}").unwrap();
    copy.refused(&["index.json"]);
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    for family in common::PRETRAINED {
        let copy = Copy::of(family);
        let (config, model) = pretrained::load(copy.0.path(), &Device::flex()).unwrap();
        let (logits, weights) = (copy.logits(), copy.weights());
        pretrained::save(copy.0.path(), &config, &model).unwrap();
        let saved = copy.weights();
        assert!(weights.keys().eq(saved.keys()), "{family}: {:?}", saved.keys());
        for (name, data) in &weights {
            assert_eq!(saved[name].to_string(), data.to_string(), "{family}: {name}");
            assert_eq!(saved[name].as_bytes(), data.as_bytes(), "{family}: {name}");
        }
        assert_eq!(copy.logits(), logits, "{family}");
    }
}

#[test]
fn the_prediction_head_is_saved_and_found_again_by_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let config = zoo::preset("qwen3-next", "nano").unwrap();
    let model = config.init(5, &Device::flex()).unwrap();
    pretrained::save(folder.path(), &config, &model).unwrap();
    let (again, back) = pretrained::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!((again.parameters(), again.pattern.len()), (config.parameters(), 4));
    let run = |model: &zoo::Decoder| {
        let ids = model.tokens(&[1, 2, 3, 4], [1, 4]).unwrap();
        let (logits, ahead) = model.forward_ahead(ids, &mut zoo::Silent);
        [logits, ahead.expect("a prediction head")].map(|x| x.into_data().try_into_vec::<f32>().unwrap())
    };
    assert_eq!(run(&model), run(&back));
}

#[test]
fn a_weight_of_the_differential_norm_is_folded_into_the_output_matrix() {
    let copy = Copy::of("diffllama");
    let (config, model) = pretrained::load(copy.0.path(), &Device::flex()).unwrap();
    let mut weights = checkpoint::tensors(&model);
    for (name, data) in weights.iter_mut().filter(|(name, _)| name.ends_with("lambda.norm.weight")) {
        let values: Vec<f32> = (0..data.num_elements()).map(|i| 0.5 + i as f32 / 7.0).collect();
        *data = TensorData::new(values, data.shape().clone());
        assert!(name.starts_with("blocks."));
    }
    let model = checkpoint::apply(model, &weights, Path::new("changed")).unwrap();
    let ids = model.tokens(&[1, 2, 3, 4], [1, 4]).unwrap();
    let expected: Vec<f32> = model.forward(ids).into_data().try_into_vec().unwrap();
    pretrained::save(copy.0.path(), &config, &model).unwrap();
    let error = copy.logits().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-5, "off by {error:e}");
}

/// The reference of `diff_v1_unilm` turns half-split channels; released weights turn interleaved ones.
#[test]
fn a_differential_layer_computes_the_same_in_the_layouts_of_unilm_and_of_hugging_face() {
    use RopeLayout::{HalfSplit, Interleaved};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/data/diff_v1_unilm");
    let read = |name: &str| checkpoint::read(&folder.join(name)).unwrap().0;
    let (weights, reference) = (read("model.safetensors"), read("reference.safetensors"));
    let ids: Vec<i32> = reference["ids"].iter::<i32>().collect();
    let expected: Vec<f64> = reference["logits"].iter::<f64>().collect();
    // Heads 4, groups 2, channels 6 (config.json beside it).
    let config = |layout| {
        let mixer = DifferentialConfig {
            kv_heads: Some(2),
            head_dim: Some(6),
            position: Position::Rope(Rope { theta: 10_000.0, fraction: 1.0, layout, scaling: None }),
            ..DifferentialConfig::new(DifferentialVersion::V1, 4)
        };
        let stack = ModelConfig::new(32, 44, 3, vec![MixerConfig::Differential(mixer)]);
        ModelConfig { vocab_size: 61, tied: false, ..stack }
    };
    let off = |layout, ours: &Tensors| {
        let model = config(layout).init(0, &Device::flex()).unwrap();
        let model = common::double(checkpoint::apply(model, ours, Path::new("converted")).unwrap());
        let logits = model.forward(model.tokens(&ids, [2, 17]).unwrap()).into_data();
        logits.iter::<f64>().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    // `change` of every attention layer.
    let each = |tensors: &Tensors, change: &dyn Fn(&Tensors) -> Tensors| {
        let mut all = tensors.clone();
        for layer in 0..3 {
            let prefix = format!("model.layers.{layer}.self_attn.");
            let mut part = Tensors::new();
            all.retain(|name, data| match name.strip_prefix(&prefix) {
                Some(name) => part.insert(name.into(), data.clone()).is_some(),
                None => true,
            });
            all.extend(change(&part).into_iter().map(|(name, data)| (format!("{prefix}{name}"), data)));
        }
        all
    };
    let source = Path::new("a layer");
    let theirs = each(&weights, &|layer| unilm::to_hugging_face(layer, HalfSplit, source).unwrap());

    // As DiffLlama's loader reads them.
    let copy = Copy::of("diffllama");
    for (key, value) in [("num_attention_heads", "8"), ("num_key_value_heads", "4"), ("head_dim", "6")] {
        copy.set(key, value);
    }
    copy.set("hidden_size", "32").set("num_hidden_layers", "3").set("tie_word_embeddings", "false");
    let mut ours = pretrained::translate(copy.0.path(), theirs.clone()).unwrap();
    for layer in 0..3 {
        let ones = TensorData::new(vec![1f32; 12], [12]);
        ours.insert(format!("blocks.{layer}.mixer.lambda.norm.weight"), ones);
    }
    assert!(off(HalfSplit, &ours) < 5e-6, "off by {:e}", off(HalfSplit, &ours));

    // Back, and in the channels of released weights: unilm's names and rows are ours.
    for layout in [HalfSplit, Interleaved] {
        let back = each(&theirs, &|layer| unilm::from_hugging_face(layer, layout, source).unwrap());
        let ours: Tensors = back.iter().map(|(name, data)| (common::authors_name(name), data.clone())).collect();
        assert!(off(layout, &ours) < 5e-6, "{layout:?}: off by {:e}", off(layout, &ours));
        // There and back, bit for bit.
        let again = each(&back, &|layer| unilm::to_hugging_face(layer, layout, source).unwrap());
        assert!(again.iter().all(|(name, data)| data.as_bytes() == theirs[name].as_bytes()), "{layout:?}");
    }
}

#[test]
fn a_differential_layer_of_another_shape_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/data/diff_v1_unilm");
    let weights = checkpoint::read(&folder.join("model.safetensors")).unwrap().0;
    let strip =
        |(name, data): (String, TensorData)| Some((name.strip_prefix("model.layers.0.self_attn.")?.into(), data));
    let layer: Tensors = weights.into_iter().filter_map(strip).collect();
    let refused = |change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut layer = layer.clone();
        change(&mut layer);
        let error = unilm::to_hugging_face(&layer, RopeLayout::Interleaved, Path::new("layer 0")).unwrap_err();
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}\nshould say {parts:?}");
    };
    let numbers = |count: usize, width: usize| TensorData::new(vec![0f32; count * width], [count, width]);
    refused(&|l| drop(l.remove("subln.weight")), &["layer 0", "missing subln.weight"]);
    refused(&|l| drop(l.insert("o_proj.weight".into(), numbers(1, 1))), &["unknown o_proj.weight"]);
    refused(&|l| drop(l.insert("k_proj.weight".into(), numbers(30, 32))), &["k_proj.weight has 30 rows", "pairs of 6"]);
    refused(&|l| drop(l.insert("subln.weight".into(), numbers(1, 6))), &["subln.weight has 6"]);
    refused(&|l| drop(l.insert("lambda_q1".into(), numbers(1, 0))), &["lambda_q1"]);
}

#[test]
fn what_hugging_face_does_not_compute_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let preset = |variant| zoo::preset(variant, "nano").unwrap();
    let zero_centred = SoftmaxConfig { zero_centred: true, ..SoftmaxConfig::new(2) };
    let only_its_attention = ModelConfig::new(16, 24, 1, vec![MixerConfig::Softmax(zero_centred)]);
    let mut another_head = preset("qwen3-next");
    another_head.mtp = another_head.pattern.iter().find(|mixer| matches!(mixer, MixerConfig::GatedDelta(_))).cloned();
    for (config, part) in [
        (preset("deltanet"), "deltanet"),
        (preset("hybrid"), "zero-centred"),
        (preset("differential-v2"), "V1"),
        (preset("looped"), "looped"),
        (only_its_attention, "zero-centred"),
        (another_head, "supported"),
    ] {
        let model = config.init(0, &Device::flex()).unwrap();
        let to = folder.path().join("model");
        let message = pretrained::save(&to, &config, &model).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!to.exists());
    }
}

#[test]
fn only_the_gates_of_the_release_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let baseline = SoftmaxConfig { kv_heads: Some(1), ..SoftmaxConfig::new(2) };
    let mut saved = Vec::new();
    for row in tables::gated_attention(&baseline, 16).unwrap() {
        let config = ModelConfig::new(16, 24, 1, vec![row.mixer]);
        let model = config.init(0, &Device::flex()).unwrap();
        match pretrained::save(&folder.path().join(row.name), &config, &model) {
            Ok(()) => saved.push(row.name),
            Err(error) => assert!(error.to_string().contains("elementwise or headwise"), "{}: {error}", row.name),
        }
    }
    saved.retain(|name| name.starts_with('G'));
    assert_eq!(saved, ["G1 elementwise", "G1 headwise"]);
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_one_error() {
    let copy = Copy::of("gated_headwise");
    let mut weights = copy.weights();
    weights.remove("model.layers.1.mlp.up_proj.weight");
    weights.insert("model.layers.0.self_attn.rotor".into(), TensorData::new(vec![1f32], [1]));
    weights.insert("model.norm.weight".into(), TensorData::new(vec![1f32; 3], [3]));
    copy.write("model.safetensors", &weights);
    copy.refused(&[
        "missing model.layers.1.mlp.up_proj.weight",
        "unknown model.layers.0.self_attn.rotor",
        "norm.weight has shape",
    ]);
    let mut weights = Copy::of("gated_headwise").weights();
    weights.insert("model.layers.0.self_attn.q_proj.weight".into(), TensorData::new(vec![0f32; 320], [10, 32]));
    copy.write("model.safetensors", &weights);
    copy.refused(&["model.layers.0.self_attn.q_proj.weight has shape [10, 32], expected [52, 32]"]);
}

#[test]
fn gradients_that_do_not_fit_are_refused_by_name() {
    let copy = Copy::of("qwen3");
    let translate = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = copy.weights();
        change(&mut tensors);
        pretrained::translate(copy.0.path(), tensors).map_err(|e| e.to_string())
    };
    let one = || TensorData::new(vec![1f32], [1]);
    let refused = |change: &dyn Fn(&mut Tensors), part: &str| {
        let message = translate(change).unwrap_err();
        assert!(message.contains(part), "{message}\nshould say {part}");
    };
    refused(&|t| drop(t.remove("model.norm.weight")), "missing model.norm.weight");
    refused(&|t| drop(t.insert("rotor".into(), one())), "unknown rotor");
    refused(&|t| drop(t.insert("model.norm.weight".into(), one())), "model.norm.weight has shape [1], expected [");
    // What is no parameter, and what is one under another name already.
    let old = translate(&|t| {
        t.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), one());
        t.insert("lm_head.weight".into(), one());
    });
    assert_eq!(old.unwrap(), translate(&|_| {}).unwrap());
}

#[test]
fn every_unsupported_option_is_listed() {
    let copy = Copy::of("llama");
    copy.set("hidden_act", "\"gelu\"").set("attention_bias", "true").set("hidden_size", "\"wide\"");
    copy.set("rms_norm_eps", "\"small\"");
    copy.refused(&["gelu", "attention_bias", "hidden_size", "config.json"]);
    Copy::of("llama").set("model_type", "\"mamba\"").refused(&["`mamba`", "llama, qwen3, diffllama"]);
    Copy::of("llama").set("rope_parameters", "{\"rope_type\": \"longrope\"}").refused(&["`longrope`", "llama3"]);
    Copy::of("llama3")
        .set("rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8}")
        .refused(&["high_freq_factor"]);
    Copy::of("qwen3").set("layer_types", "[\"sliding_attention\"]").refused(&["sliding_attention"]);
    Copy::of("fla_kda").set("allow_neg_eigval", "\"true\"").refused(&["allow_neg_eigval", "true or false"]);
    Copy::of("qwen3_next").set("mlp_only_layers", "[\"0\"]").refused(&["mlp_only_layers", "a list of whole numbers"]);
    Copy::of("llama").set("num_key_value_heads", "3").refused(&["num_attention_heads 4", "num_key_value_heads 3"]);
    Copy::of("diffllama").set("num_key_value_heads", "1").refused(&["num_key_value_heads 1"]);
}

#[test]
fn sizes_that_no_file_backs_are_refused_before_memory_is_taken() {
    for (key, value) in [("hidden_size", "262144"), ("vocab_size", "1000000"), ("num_hidden_layers", "4000")] {
        Copy::of("llama").set(key, value).refused(&["config.json describes"]);
    }
    for value in ["0", "-4", "4294967296", "1e300", "null"] {
        Copy::of("llama").set("num_attention_heads", value).refused(&["num_attention_heads"]);
    }
}

#[test]
fn weights_that_are_no_finite_floats_are_named() {
    let copy = Copy::of("llama");
    let mut weights = copy.weights();
    let norm = "model.norm.weight".to_string();
    let mut values: Vec<f32> = weights[&norm].iter::<f32>().collect();
    values[3] = f32::NAN;
    weights.insert(norm.clone(), TensorData::new(values, [32]));
    copy.write("model.safetensors", &weights);
    copy.refused(&["finite", "norm.weight"]);
    weights.insert(norm, TensorData::new(vec![1i32; 32], [32]));
    copy.write("model.safetensors", &weights);
    copy.refused(&["finite floating-point", "norm.weight"]);
}

#[test]
fn a_damaged_file_is_an_error_with_its_name_and_never_a_panic() {
    let copy = Copy::of("qwen3");
    let path = copy.path("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let json = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let with = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &whole[8 + header..]].concat();
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("seven bytes", whole[..7].to_vec()),
        ("header cut", whole[..8 + header / 2].to_vec()),
        ("data cut", whole[..whole.len() - 1].to_vec()),
        ("trailing data", [&whole[..], b"x"].concat()),
        ("header of 2^63 bytes", [&(1u64 << 63).to_le_bytes()[..], &whole[8..]].concat()),
        ("header longer than the file", [&(whole.len() as u64).to_le_bytes()[..], &whole[8..]].concat()),
        ("no JSON", with(&json.replace('{', "["))),
        ("a shape that overflows", with(&json.replacen("[32]", "[4294967296,4294967296]", 1))),
        ("offsets that overlap", with(&json.replacen("\"data_offsets\":[", "\"data_offsets\":[0,4],\"x\":[", 1))),
        ("an unknown dtype", with(&json.replacen("F32", "F31", 1))),
    ];
    for (what, bytes) in broken {
        std::fs::write(&path, bytes).unwrap();
        let message = pretrained::load(copy.0.path(), &Device::flex()).map(drop).expect_err(what).to_string();
        assert!(message.contains("model.safetensors"), "{what}: {message}");
    }
    // Every single flipped byte of the header: an error or a model, never a panic.
    for at in (0..8 + header).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        std::fs::write(&path, bytes).unwrap();
        let _ = pretrained::load(copy.0.path(), &Device::flex());
    }
}
