//! The decoder: configurations, hybrids, checkpoints, and a mixer that the crate does not know.

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, activation::log_softmax};
use common::largest;
use zoo::presets::VARIANTS;
use zoo::*;

fn ids(model: &Decoder, shape: [usize; 2]) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..shape[0] * shape[1]).map(|i| (i * i * 31 + 7 * i) as i32 % 256).collect();
    model.tokens(&ids, shape).expect("bytes")
}

#[test]
fn every_preset_has_the_parameters_of_its_baseline_to_one_percent() {
    for size in presets::sizes() {
        let baseline = preset("baseline", size).unwrap().parameters() as f64;
        for variant in presets::VARIANTS {
            let config = preset(variant, size).unwrap();
            config.validate().unwrap();
            let ratio = config.parameters() as f64 / baseline;
            assert!((ratio - 1.0).abs() <= 0.01, "{variant}-{size}: {ratio}");
        }
    }
}

#[test]
fn a_configuration_counts_the_parameters_of_its_model() {
    for variant in presets::VARIANTS {
        for tied in [true, false] {
            let config = ModelConfig { tied, ..preset(variant, "nano").unwrap() };
            let model = config.init(0, &Device::flex()).unwrap();
            assert_eq!(config.parameters(), model.num_params(), "{variant}");
        }
    }
}

#[test]
fn a_configuration_survives_json() {
    for variant in presets::VARIANTS {
        let config = preset(variant, "tiny").unwrap();
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config, "{variant}");
    }
}

#[test]
fn the_hybrid_is_three_linear_blocks_to_a_gated_one() {
    let model = preset("hybrid", "nano").unwrap().init(0, &Device::flex()).unwrap();
    let linear: Vec<bool> = model.blocks.iter().map(|b| b.mixer.is::<GatedDelta>()).collect();
    assert_eq!(linear, [true, true, true, false]);
}

#[test]
fn decoding_equals_the_whole_sequence() {
    let device = Device::flex();
    for variant in presets::VARIANTS {
        let model = preset(variant, "nano").unwrap().init(1, &device).unwrap();
        let ids = ids(&model, [2, 20]);
        let whole = model.forward(ids.clone());
        let mut cache = model.cache();
        let steps = (0..20).map(|t| model.step(ids.clone().narrow(1, t, 1), &mut cache, &mut Silent)).collect();
        let error = largest(whole - Tensor::cat(steps, 1));
        assert!(error < 1e-4, "{variant}: off by {error:e}");
    }
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_seed_another() {
    let config = preset("hybrid", "nano").unwrap();
    let model = |seed| checkpoint::tensors(&config.init(seed, &Device::flex()).unwrap());
    assert_eq!(model(3), model(3));
    assert_ne!(model(3), model(4));
}

#[test]
fn bad_configurations_name_both_numbers_or_the_valid_values() {
    let error = |config: ModelConfig| config.validate().unwrap_err().to_string();
    let base = preset("baseline", "nano").unwrap();
    let heads = |heads| vec![MixerConfig::Softmax(SoftmaxConfig::new(heads))];
    assert_eq!(error(ModelConfig { pattern: heads(5), ..base.clone() }), "d_model 32 is not divisible by heads 5");
    assert!(error(ModelConfig { pattern: heads(0), ..base.clone() }).contains("heads must be at least 1, got 0"));
    assert!(
        error(ModelConfig { pattern: vec![], ..base.clone() }).contains("pattern must be a list of at least one mixer")
    );
    assert!(error(ModelConfig { layers: 0, ..base.clone() }).contains("layers must be at least 1"));

    let unknown = preset("gatet", "nano").unwrap_err().to_string();
    assert!(unknown.contains("`gatet`") && unknown.contains("gated-headwise"), "{unknown}");
    let unknown = preset("gated", "huge").unwrap_err().to_string();
    assert!(unknown.contains("`huge`") && unknown.contains("nano, tiny, small, medium"), "{unknown}");

    let unknown = ModelConfig::from_json(&base.to_json().replace("softmax", "softmix")).unwrap_err().to_string();
    assert!(unknown.contains("softmix") && unknown.contains("gated_delta"), "{unknown}");
    let misspelt = ModelConfig::from_json(&base.to_json().replace("\"heads\"", "\"haeds\"")).unwrap_err().to_string();
    assert!(misspelt.contains("haeds"), "{misspelt}");
}

#[test]
fn a_key_that_no_table_knows_is_refused_in_every_table_of_every_variant() {
    for variant in VARIANTS {
        let config = serde_json::to_value(preset(variant, "nano").unwrap()).unwrap();
        let tables = tables(&config, "");
        assert!(tables.len() >= 2, "{variant}: {tables:?}");
        for table in tables {
            let mut changed = config.clone();
            let inside = changed.pointer_mut(&table).unwrap().as_object_mut().unwrap();
            inside.insert("no_such_key".into(), 1.into());
            let refused = ModelConfig::from_json(&changed.to_string()).map(drop);
            let message = refused.expect_err(&format!("{variant}, table `{table}`")).to_string();
            // A table without keys has none to offer.
            let answers = ["`no_such_key`, expected", "`no_such_key`, there are no fields"];
            assert!(answers.iter().any(|a| message.contains(a)), "{variant}, table `{table}`: {message}");
        }
    }
}

/// Pointers to every object in a JSON value.
fn tables(value: &serde_json::Value, at: &str) -> Vec<String> {
    let (own, inner): (Vec<String>, Vec<_>) = match value {
        serde_json::Value::Object(fields) => (vec![at.into()], fields.iter().map(|(k, v)| (k.clone(), v)).collect()),
        serde_json::Value::Array(items) => {
            (Vec::new(), items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect())
        }
        _ => return Vec::new(),
    };
    own.into_iter().chain(inner.into_iter().flat_map(|(key, value)| tables(value, &format!("{at}/{key}")))).collect()
}

#[test]
fn token_ids_out_of_range_are_an_error_that_names_them() {
    let model = preset("baseline", "nano").unwrap().init(0, &Device::flex()).unwrap();
    let error = model.tokens(&[1, 2, 256, 4], [2, 2]).unwrap_err().to_string();
    assert_eq!(error, "token id 256 at position 2 is outside the vocabulary 0..256");
    assert!(model.tokens(&[-1], [1, 1]).unwrap_err().to_string().contains("token id -1"));
    assert!(model.tokens(&[1, 2, 3], [2, 2]).unwrap_err().to_string().contains("3 token ids do not fill"));
}

#[test]
fn a_checkpoint_gives_back_the_same_logits_and_a_broken_one_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for variant in presets::VARIANTS {
        let config = preset(variant, "nano").unwrap();
        let model = config.init(5, &device).unwrap();
        checkpoint::save(dir.path(), &config, &model).unwrap();
        let (read, loaded) = checkpoint::load(dir.path(), &device).unwrap();
        assert_eq!(read, config);
        let ids = ids(&model, [1, 9]);
        assert_eq!(model.forward(ids.clone()).into_data(), loaded.forward(ids).into_data(), "{variant}");
    }

    let weights = dir.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).unwrap();
        let error = checkpoint::load(dir.path(), &device).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{length} bytes: {error}");
    }
    let mut broken = whole.clone();
    broken[3] = 0xff;
    std::fs::write(&weights, &broken).unwrap();
    assert!(checkpoint::load(dir.path(), &device).unwrap_err().to_string().contains("model.safetensors"));
    std::fs::remove_file(&weights).unwrap();
    assert!(checkpoint::load(dir.path(), &device).unwrap_err().to_string().contains("model.safetensors"));
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_one_error_that_lists_them_all() {
    let model = preset("gated", "nano").unwrap().init(0, &Device::flex()).unwrap();
    let mut tensors = checkpoint::tensors(&model);
    let gate = tensors.remove("blocks.1.mixer.gate_proj.weight").expect("named by its place");
    tensors.insert("blocks.1.mixer.gait_proj.weight".into(), gate.clone());
    tensors.insert("norm.weight".into(), gate);
    let error = checkpoint::apply(model, &tensors, "x.safetensors".as_ref()).unwrap_err().to_string();
    for part in
        ["missing blocks.1.mixer.gate_proj.weight", "unknown blocks.1.mixer.gait_proj.weight", "norm.weight has shape"]
    {
        assert!(error.contains(part), "{error}");
    }
}

/// A mixer that this crate does not know: the mean of everything so far, projected.
#[derive(Module, Debug)]
struct RunningMean {
    proj: Linear,
}

impl Mixer for RunningMean {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        let time = x.dims()[1];
        let counts = Tensor::<1, Int>::arange(1..time as i64 + 1, &x.device()).float().reshape([1, time, 1]);
        tap.at("out", self.proj.forward(x.cumsum(1) / counts))
    }
}

#[test]
fn a_mixer_from_outside_trains_decodes_and_is_probed_with_no_change_to_the_crate() {
    let device = Device::flex().autodiff();
    let config = ModelConfig::new(16, 32, 2, vec![]);
    let mut model =
        Decoder::with_mixers(&config, 0, &device, |_, init| RunningMean { proj: Linear::residual(16, 16, init) })
            .unwrap();
    let sequence = ids(&model, [2, 12]);
    let mut optimizer = AdamWConfig::new().init();
    let loss = |model: &Decoder| {
        let log_probabilities = log_softmax(model.forward(sequence.clone().narrow(1, 0, 11)), 2);
        log_probabilities.gather(2, sequence.clone().narrow(1, 1, 11).unsqueeze_dim(2)).mean().neg()
    };
    let first: f32 = loss(&model).into_scalar();
    for _ in 0..30 {
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
    }
    let last: f32 = loss(&model).into_scalar();
    assert!(last < 0.5 * first, "loss {first} → {last}");

    let model = model.valid();
    let sequence = ids(&model, [2, 12]);
    let mut record = Record::new(&["blocks.*.mixer.out"]);
    let whole = model.forward_with(sequence.clone(), &mut record);
    assert_eq!(record.layers("mixer.out").len(), 2);
    let mut cache = model.cache();
    let steps = (0..12).map(|t| model.step(sequence.clone().narrow(1, t, 1), &mut cache, &mut Silent)).collect();
    assert!(largest(whole - Tensor::cat(steps, 1)) < 1e-4);
}

#[test]
fn a_mixer_from_outside_stands_beside_one_of_the_catalogue_and_its_weights_are_saved_and_read() {
    let device = Device::flex();
    let config = preset("baseline", "nano").unwrap();
    let width = config.d_model;
    let model = |seed| {
        Decoder::with_mixers(&config, seed, &device, |layer, init| match layer {
            0 => AnyMixer::new(RunningMean { proj: Linear::residual(width, width, init) }),
            _ => config.mixer(layer).init(width, layer, init),
        })
        .unwrap()
    };
    let (one, other) = (model(0), model(1));
    assert!(one.blocks[0].mixer.is::<RunningMean>() && one.blocks[1].mixer.is::<Softmax>());
    assert!(one.blocks[1].mixer.downcast_ref::<RunningMean>().is_none());
    // A mixer prints as itself, and boxed once more it is still the same.
    assert!(one.to_string().contains("RunningMean {"), "{one}");
    assert!(format!("{:?}", one.blocks[0].mixer).starts_with("RunningMean {"));
    assert!(AnyMixer::new(one.blocks[0].mixer.clone()).is::<RunningMean>());

    let dir = tempfile::tempdir().unwrap();
    zoo::checkpoint::save(dir.path(), &config, &one).unwrap();
    let path = dir.path().join("model.safetensors");
    let (tensors, _) = zoo::checkpoint::read(&path).unwrap();
    assert!(tensors.contains_key("blocks.0.mixer.proj.weight") && tensors.contains_key("blocks.1.mixer.q_proj.weight"));
    let sequence = ids(&one, [1, 8]);
    let logits = |model: &Decoder| model.forward(sequence.clone()).into_data();
    assert_ne!(logits(&one), logits(&other));
    assert_eq!(logits(&one), logits(&zoo::checkpoint::apply(other, &tensors, &path).unwrap()));
    // Hugging Face has no class of it.
    let refused = zoo::pretrained::save(dir.path(), &config, &one).unwrap_err().to_string();
    assert!(refused.contains("the mixer of block 0 is not of the kind"), "{refused}");
}
