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

/// CPU time of this process, in milliseconds: a busy machine does not change it much.
fn cpu_ms() -> f64 {
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    use burn::optim::GradientsParams;
    let variants = std::env::var("VARIANTS").unwrap_or("baseline gated differential hybrid".into());
    let steps = 8;
    let dir = tempfile::tempdir().unwrap();
    for variant in variants.split_whitespace() {
        let model = zoo::preset(variant, "small").unwrap();
        let config =
            TrainConfig { data: text(dir.path()), steps: 1000, eval_every: 0, ..TrainConfig::new(variant, model) };
        let dataset = config.data.open().unwrap();
        let mut trainer = Trainer::from_config(&config, &device()).unwrap().quiet();
        trainer.step().unwrap();
        let mut parts = [0.0; 5];
        let mut last = cpu_ms();
        let began = std::time::Instant::now();
        for step in 0..steps {
            let mut lap = |part: usize| {
                let now = cpu_ms();
                parts[part] += (now - last) / steps as f64;
                last = now;
            };
            let data = dataset.train(0, step, 8, 128);
            let model = trainer.model();
            let ids = model.tokens(&data.ids, [8, 128]).unwrap();
            let targets = model.tokens(&data.targets, [8, 128]).unwrap();
            let logits = model.forward(ids);
            lap(0);
            let loss = cross_entropy(logits, targets, &data.mask);
            lap(1);
            let mut gradients = GradientsParams::from_grads(loss.backward(), model);
            lap(2);
            let (_, squares, _) = gradient_squares(model, &gradients);
            squares.unwrap().into_data();
            lap(3);
            let model = trainer.model.take().unwrap();
            trainer.model = Some(trainer.optimizer.step(model, &mut gradients, 1e-3, 0.9));
            lap(4);
        }
        let wall = began.elapsed().as_secs_f64() * 1e3 / steps as f64;
        let cpu: f64 = parts.iter().sum();
        let before = cpu_ms();
        trainer.evaluate().unwrap();
        let evaluation = cpu_ms() - before;
        println!(
            "{variant:16} {} parameters: {cpu:.0} ms CPU, {wall:.0} ms wall per step: forward {:.0}, loss {:.0}, backward {:.0}, norm {:.0}, AdamW {:.0}; evaluation {evaluation:.0} ms CPU",
            config.model.parameters(),
            parts[0],
            parts[1],
            parts[2],
            parts[3],
            parts[4]
        );
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
    DatasetConfig::Corpus(CorpusConfig::Path(PathConfig { path }))
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
