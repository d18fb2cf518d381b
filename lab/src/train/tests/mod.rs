//! The claims of `train`.

mod disk;
mod kill;
mod learning;
mod loss;
mod update;

use super::*;
use crate::LabError;
use burn::tensor::Device;
use datasets::{DatasetConfig, MqarConfig};
use zoo::ModelConfig;

fn device() -> Device {
    Device::flex()
}

/// A run of a few milliseconds per step with three kinds of mixers.
fn small(name: &str, steps: usize) -> TrainConfig {
    let mut pattern = zoo::presets::pattern("gated-delta", 2).unwrap();
    pattern.extend(zoo::presets::pattern("differential", 2).unwrap());
    pattern.extend(zoo::presets::pattern("gated", 2).unwrap());
    let model = ModelConfig { vocab_size: 32, ..ModelConfig::new(16, 32, 3, pattern) };
    let data = DatasetConfig::Mqar(MqarConfig { vocab_size: 32, pairs: 2, time: 16, ..MqarConfig::default() });
    TrainConfig {
        data,
        steps,
        batch: 4,
        time: 16,
        warmup: 3,
        eval_every: 5,
        eval_batches: 2,
        ..TrainConfig::new(name, model)
    }
}

fn trainer(config: &TrainConfig) -> Trainer {
    Trainer::from_config(config, &device()).unwrap().quiet()
}

/// Everything of a history that does not depend on the clock, to the last bit.
fn bits_of(history: &History) -> Vec<[u64; 5]> {
    let row = |row: &HistoryRow| {
        let validation = row.validation_loss.map_or(0, f64::to_bits);
        let accuracy = row.accuracy.map_or(0, f64::to_bits);
        [row.step as u64, row.train_loss.to_bits(), validation, accuracy, row.gradient_norm.to_bits()]
    };
    history.rows.iter().map(row).collect()
}

fn message<T>(result: Result<T, LabError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}
