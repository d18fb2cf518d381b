//! Decoding: one token after another, greedily, after a context.

use super::Bench;
use super::model::{ModelArguments, Work, forward_flops};
use super::step::noise;
use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use std::time::Instant;
use zoo::{Cache, GenerateConfig, Generation};

/// Tokens that are written and timed, after a first one that ends the reading of the context.
pub const WRITTEN: usize = 64;

pub fn bench(arguments: &ModelArguments, [batch, context]: [usize; 2], device: &Device) -> Result<Bench> {
    let config = arguments.config()?;
    let model = arguments.precision.of(&config.init(0, device)?);
    let parameters = model.num_params();
    let prompts: Vec<Vec<i32>> = (0..batch).map(|row| noise(config.vocab_size, row * context, context)).collect();
    let flops = forward_flops(&model, &config, [batch, context + WRITTEN / 2, 1]);
    let how = GenerateConfig::new(1 + WRITTEN);
    let cached = {
        let mut text = model.stream(&prompts, &GenerateConfig::new(1))?;
        one_each(&mut text, batch)?;
        text.cache().iter().map(Cache::bytes).sum::<usize>()
    };
    let run = move || {
        let mut text = model.stream(&prompts, &how)?;
        one_each(&mut text, batch)?;
        let started = Instant::now();
        for _ in 0..WRITTEN {
            one_each(&mut text, batch)?;
        }
        Ok(started.elapsed().as_secs_f64() / WRITTEN as f64)
    };
    Ok(Bench {
        parameters,
        tokens: batch,
        work: Work { flops, bytes: (parameters * arguments.weight_bytes() + cached) as f64 },
        run: Box::new(run),
    })
}

/// The next token of every text. Each is read by the host, so the device has done its work.
fn one_each(text: &mut Generation, batch: usize) -> Result<()> {
    for _ in 0..batch {
        text.next().context("the text ended early")??;
    }
    Ok(())
}
