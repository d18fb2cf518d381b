//! A training step in bf16 on what stands in for a GPU: the CUDA kernels, run by the emulator of `kernels/compute/tests/cuda`.

#[path = "../kernels/compute/tests/cuda/emulator.rs"]
mod emulator;

use attention::kernels::{Implementation, Ran, cuda::emulated, trace};
use attention::prelude::*;
use lab::train::Precision;
use std::collections::BTreeSet;

fn config(variant: &str, precision: Precision) -> TrainConfig {
    let base = ModelConfig { vocab_size: 32, ..ModelConfig::new(32, 48, 2, Vec::new()) };
    let mut model = presets::variant(variant, 2, base).unwrap();
    model.pattern.truncate(2);
    let data = DatasetConfig::Mqar(MqarConfig { vocab_size: 32, pairs: 4, time: 72, ..MqarConfig::default() });
    TrainConfig { data, batch: 2, time: 72, eval_batches: 1, precision, ..TrainConfig::new(variant, model) }
}

/// Two steps: loss and norm of the gradients of each, and what ran.
fn steps(variant: &str, precision: Precision) -> (Vec<[f64; 2]>, Vec<Ran>) {
    let mut trainer = Trainer::from_config(&config(variant, precision), &Device::flex()).unwrap().quiet();
    let two = || -> Vec<lab::train::HistoryRow> { (0..2).map(|_| trainer.step().unwrap()).collect() };
    let (rows, ran) = trace(two);
    (rows.iter().map(|row| [row.train_loss, row.gradient_norm]).collect(), ran)
}

#[test]
fn a_step_in_bf16_is_made_of_cuda_kernels_and_is_that_of_f32() {
    let emulator = emulator::emulator();
    for variant in ["gated", "differential", "gated-delta"] {
        let (expected, _) = steps(variant, Precision::F32);
        let (found, ran) = emulated(emulator.clone(), || steps(variant, Precision::Bf16));
        let others: BTreeSet<String> = ran
            .iter()
            .filter(|ran| ran.implementation != Implementation::Cuda)
            .map(|ran| format!("{} {ran}", ran.operator))
            .collect();
        println!("{variant}: {found:?}, {expected:?} in f32; not of our kernels: {others:?}");
        assert_eq!(others, BTreeSet::from(["linear reference: no CUDA kernel for this operator".into()]), "{variant}");
        for (found, expected) in found.iter().zip(&expected) {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 0.02, "{variant}: {found} in bf16, {expected} in f32");
            }
        }
    }
}
