//! A training step, as the trainer makes it: batch, forward, backward, clipping, AdamW.

use super::Bench;
use super::model::{ModelArguments, Work, forward_flops};
use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use datasets::{Batch, Dataset};
use lab::{TrainConfig, Trainer};
use std::sync::Arc;
use std::time::Instant;

/// Accesses to a parameter that no step avoids. As it is computed with, the weight is read forwards and backwards. In
/// f32 it is read by the update, which writes it; the gradient is written, and read by the norm and by the update; both
/// moments are read and written.
const ACCESSES: [usize; 2] = [2, 9];

pub fn bench(arguments: &ModelArguments, [batch, time]: [usize; 2], device: &Device) -> Result<Bench> {
    let model = arguments.config()?;
    let precision = arguments.precision;
    let config = TrainConfig { batch, time, precision, eval_batches: 1, ..TrainConfig::new("bench", model.clone()) };
    let decoder = model.init(config.seed, device)?;
    let parameters = decoder.num_params();
    let bytes = ACCESSES[0] * arguments.weight_bytes() + ACCESSES[1] * size_of::<f32>();
    let flops = forward_flops(&decoder, &model, [batch, 0, time]).map(|forward| 3.0 * forward);
    let mut trainer = Trainer::new(config, decoder, Arc::new(Noise { vocab: model.vocab_size }))?.quiet();
    let device = device.clone();
    let run = move || {
        let started = Instant::now();
        trainer.step()?;
        device.sync()?;
        Ok(started.elapsed().as_secs_f64())
    };
    Ok(Bench {
        parameters,
        tokens: batch * time,
        work: Work { flops, bytes: (parameters * bytes) as f64 },
        run: Box::new(run),
    })
}

/// Tokens without an order: what they are makes no difference to the time.
struct Noise {
    vocab: usize,
}

impl Dataset for Noise {
    fn name(&self) -> &str {
        "noise"
    }
    fn vocab_size(&self) -> usize {
        self.vocab
    }
    fn train(&self, seed: u64, step: usize, batch: usize, time: usize) -> Batch {
        let start = seed as usize + step * batch * (time + 1);
        let row = |row: usize| noise(self.vocab, start + row * (time + 1), time + 1);
        let rows: Vec<Vec<i32>> = (0..batch).map(row).collect();
        let part = |from: usize| rows.iter().flat_map(|row| row[from..from + time].to_vec()).collect();
        Batch { batch, time, ids: part(0), targets: part(1), mask: vec![1.0; batch * time] }
    }
    fn validation(&self, index: usize, batch: usize, time: usize) -> Batch {
        self.train(1, index, batch, time)
    }
    fn decode(&self, ids: &[i32]) -> String {
        format!("{ids:?}")
    }
}

/// `count` ids of the vocabulary, numbers `start ..` of a sequence (SplitMix64's).
pub fn noise(vocab: usize, start: usize, count: usize) -> Vec<i32> {
    let mix = |i: usize| {
        let z = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (start..start + count).map(|i| (mix(i) % vocab as u64) as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::train::Precision;

    #[test]
    fn noise_is_of_the_vocabulary_and_its_targets_are_the_next_ids() {
        let data = Noise { vocab: 7 }.train(0, 3, 2, 50);
        assert!(data.ids.iter().all(|id| (0..7).contains(id)) && (0..7).all(|id| data.ids.contains(&id)));
        for row in 0..2 {
            assert_eq!(data.row(row)[1..], data.targets[row * 50..row * 50 + 49]);
        }
        assert_ne!(data.row(0), data.row(1));
    }

    #[test]
    fn a_repetition_trains_and_its_work_follows_the_shape() {
        let precision = Precision::F32;
        let sizes =
            ModelArguments { mixer: "baseline".into(), d_model: 16, layers: 1, heads: 2, ffn: 8, vocab: 9, precision };
        let of = |shape| bench(&sizes, shape, &Device::flex()).unwrap();
        let mut short = of([2, 4]);
        assert!((short.run)().unwrap() > 0.0);
        let long = of([2, 8]);
        assert_eq!((short.tokens, long.tokens, short.parameters), (8, 16, long.parameters));
        // Twice the tokens, and more than twice the pairs of them.
        assert!(long.work.flops.unwrap() > 2.0 * short.work.flops.unwrap());
    }
}
