use super::*;
use datasets::{CorpusConfig, PathConfig};
use std::sync::Arc;
use zoo::{Decoder, Init, Linear, Mixer, Tap};

/// Accuracy of a small model on recall after some steps.
fn recall(variant: &str, steps: usize) -> f64 {
    let mut pattern = zoo::presets::pattern(variant, 2).unwrap();
    for mixer in &mut pattern {
        if let zoo::MixerConfig::GatedDelta(config) = mixer {
            config.chunk = 16; // the whole sequence; a longer chunk would be filled up with nothing
        }
    }
    let model = ModelConfig { vocab_size: 16, ..ModelConfig::new(32, 64, 2, pattern) };
    let data = DatasetConfig::Mqar(MqarConfig { vocab_size: 16, pairs: 2, time: 16, ..MqarConfig::default() });
    let config = TrainConfig {
        data,
        steps,
        batch: 32,
        time: 16,
        learning_rate: 5e-3,
        min_learning_rate: 5e-3,
        eval_every: 0,
        ..TrainConfig::new(variant, model)
    };
    trainer(&config).run().unwrap().history.accuracy().unwrap()
}

/// Two pairs, 8 values: a blind guess is right in 1/8 of all cases, and a guess among the two values
/// seen in ½. Beyond ½ a model has bound keys to values.
#[test]
fn every_family_learns_to_recall_well_above_chance() {
    let steps =
        [("baseline", 160), ("gated", 160), ("differential", 1000), ("differential-v2", 160), ("gated-delta", 220)];
    for (variant, steps) in steps {
        let accuracy = recall(variant, steps);
        println!("{variant}: {:.1} % after {steps} steps", 100.0 * accuracy);
        assert!(accuracy > 0.8, "{variant}: accuracy {accuracy:.3} after {steps} steps, chance is 0.125 and 0.5");
    }
}

#[test]
fn a_gradient_reaches_every_parameter_of_every_variant() {
    for variant in zoo::presets::VARIANTS {
        let config = small(variant, 2);
        let model = zoo::presets::variant(variant, 2, ModelConfig { layers: 2, ..config.model }).unwrap();
        let config = TrainConfig { model, eval_every: 0, ..config };
        let mut trainer = trainer(&config);
        trainer.run().unwrap_or_else(|error| panic!("{variant}: {error}"));
        assert_eq!(trainer.untrained(), [""; 0], "{variant}");
    }
}

/// What bf16 rounds is a part in 256 of every number. The weights after the steps are those of f32, as far as that allows: Adam's
/// first steps have the size of the rate, whatever the gradient is.
#[test]
fn every_variant_trains_in_bf16_and_its_weights_stay_in_f32() {
    for variant in zoo::presets::VARIANTS {
        let config = small(variant, 3);
        let model = zoo::presets::variant(variant, 2, ModelConfig { layers: 2, ..config.model.clone() }).unwrap();
        let run = |precision| {
            let config = TrainConfig { model: model.clone(), precision, eval_every: 0, ..config.clone() };
            let mut trainer = trainer(&config);
            let run = trainer.run().unwrap_or_else(|error| panic!("{variant} in {precision:?}: {error}"));
            assert_eq!(trainer.untrained(), [""; 0], "{variant} in {precision:?}");
            for (name, weight) in zoo::checkpoint::tensors(&run.model) {
                assert_eq!(weight.dtype(), burn::tensor::DType::F32, "{name} of {variant}");
            }
            run.history
        };
        let (whole, rounded) = (run(Precision::F32), run(Precision::Bf16));
        for (whole, rounded) in whole.rows.iter().zip(&rounded.rows) {
            let step = whole.step;
            let numbers = [
                ("loss", whole.train_loss, rounded.train_loss, 0.01),
                ("gradient norm", whole.gradient_norm, rounded.gradient_norm, 0.1),
            ];
            for (what, whole, rounded, tolerance) in numbers {
                let off = (rounded / whole - 1.0).abs();
                assert!(off < tolerance, "{variant}, step {}: {what} {rounded} in bf16, {whole} in f32", step);
                assert_ne!(rounded, whole, "{variant}: {what}");
            }
        }
    }
}

/// A mixer as a notebook cell would write it: every token gets the mean of those so far.
#[derive(burn::module::Module, Debug)]
struct RunningMean {
    value: Linear,
    /// Not used: no gradient reaches it.
    idle: Linear,
}

impl Mixer for RunningMean {
    fn forward(&self, x: burn::tensor::Tensor<3>, tap: &mut dyn Tap) -> burn::tensor::Tensor<3> {
        let time = x.dims()[1];
        let count: Vec<f32> = (1..=time).map(|t| t as f32).collect();
        let count = burn::tensor::Tensor::<1>::from_floats(count.as_slice(), &x.device()).reshape([1, time, 1]);
        tap.at("out", self.value.forward(x).cumsum(1) / count)
    }
}

#[test]
fn a_mixer_of_ones_own_trains_and_an_unused_parameter_is_named() {
    let config = TrainConfig { steps: 30, ..small("own", 30) };
    let mixer = |_: usize, init: &mut Init| RunningMean {
        value: Linear::residual(16, 16, init),
        idle: Linear::new(16, 16, init),
    };
    let model = Decoder::with_mixers(&config.model, config.seed, &device(), mixer).unwrap();
    let mut trainer = Trainer::new(config.clone(), model, config.data.open().unwrap()).unwrap().quiet();
    let run = trainer.run().unwrap();
    let idle: Vec<String> = (0..3).map(|i| format!("blocks.{i}.mixer.idle.weight")).collect();
    assert_eq!(trainer.untrained(), idle);
    assert!(run.history.train_loss(5) < run.history.rows[0].train_loss - 0.1, "{run}");
}

fn text(dir: &std::path::Path) -> DatasetConfig {
    let path = dir.join("text.txt");
    std::fs::write(&path, "the quick brown fox jumps over the lazy dog; ".repeat(600)).unwrap();
    DatasetConfig::Corpus(CorpusConfig::Path(PathConfig::new(path)))
}

#[test]
fn the_loss_on_a_small_text_goes_down_from_that_of_a_blind_guess() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(dir.path());
    let model = ModelConfig::new(32, 64, 2, zoo::presets::pattern("baseline", 2).unwrap());
    let config = TrainConfig {
        data,
        time: 32,
        steps: 150,
        warmup: 5,
        eval_every: 0,
        eval_batches: 2,
        ..TrainConfig::new("text", model)
    };
    let run = trainer(&config).run().unwrap();
    let (first, last) = (run.history.rows[0].train_loss, run.history.validation_loss().unwrap());
    assert!((first - 256f64.ln()).abs() < 0.2, "an untrained model guesses blindly: ln 256, not {first}");
    assert!(last < 1.0, "{first} → {last}");
    let dataset: Arc<_> = config.data.open().unwrap();
    let again = evaluate(&run.model, dataset.as_ref(), 2, config.batch, config.time).unwrap();
    assert_eq!(Some(again.loss), run.history.validation_loss());
}

#[test]
fn batches_without_a_counted_position_are_left_out_and_no_others_are_refused() {
    let config = small("masks", 3);
    let model = config.model.init(0, &device()).unwrap();
    let dataset = config.data.open().unwrap();
    let batch = dataset.validation(0, 2, 16);
    let silent = datasets::Batch { mask: vec![0.0; 32], ..dataset.validation(1, 2, 16) };
    let alone = evaluate_batches(&model, std::slice::from_ref(&batch)).unwrap();
    assert!(alone.loss.is_finite());
    assert_eq!(evaluate_batches(&model, &[silent.clone(), batch]).unwrap(), alone);
    for nothing in [evaluate_batches(&model, &[silent]), evaluate(&model, dataset.as_ref(), 0, 2, 16)] {
        let error = message(nothing);
        assert!(error.contains("counted positions") && error.contains("at least 1, got 0"), "{error}");
    }
}
