//! Speed and memory against length.

use crate::LabError;
use crate::table::{Row, columns};
use burn::module::Module;
use polars::prelude::DataFrame;
use serde::Serialize;
use std::time::Instant;
use zoo::{Decoder, Silent};

/// Decoding the last tokens of a sequence of one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecodeCost {
    /// Tokens in the cache.
    pub length: usize,
    /// Median time of one token, in seconds.
    pub seconds_per_token: f64,
    /// What the caches of all layers hold, in bytes, for one sequence.
    pub cache_bytes: usize,
}

impl Row for DecodeCost {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "length" => |r| r.length as u64,
            "seconds_per_token" => |r| r.seconds_per_token,
            "cache_bytes" => |r| r.cache_bytes as u64,
        )
    }
}

/// Steps of which the median is taken.
const WINDOW: usize = 15;

/// Decodes one sequence token by token up to the longest of `lengths`, and reports the time of a
/// token (median of the last 15 up to each length, the device waited for) and the caches' size.
///
/// # Errors
/// A device that fails; [`LabError::Interrupted`].
pub fn decode_cost(model: &Decoder, lengths: &[usize]) -> Result<Vec<DecodeCost>, LabError> {
    let model = model.valid();
    let vocab = model.vocab_size();
    let device = model.device();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut cache = model.cache();
    let mut times = Vec::with_capacity(longest);
    let mut costs = Vec::new();
    for t in 0..longest {
        cell_runtime::check_interrupt()?;
        let ids = model.tokens(&[(t % vocab) as i32], [1, 1])?;
        let started = Instant::now();
        let _logits = model.step(ids, &mut cache, &mut Silent);
        device.sync().map_err(|e| LabError::Device(e.to_string()))?;
        times.push(started.elapsed().as_secs_f64());
        if lengths.contains(&(t + 1)) {
            let recent = &times[times.len().saturating_sub(WINDOW)..];
            let cache_bytes = cache.iter().map(|c| c.bytes()).sum();
            costs.push(DecodeCost { length: t + 1, seconds_per_token: median(recent), cache_bytes });
        }
    }
    Ok(costs)
}

/// Reading a whole sequence at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForwardCost {
    /// Tokens of the sequence.
    pub length: usize,
    /// Median time of a forward pass divided by its tokens, in seconds.
    pub seconds_per_token: f64,
}

impl Row for ForwardCost {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "length" => |r| r.length as u64,
            "seconds_per_token" => |r| r.seconds_per_token,
        )
    }
}

/// The forward pass over one sequence of each length: median of `repeats`, after one to warm up.
///
/// # Errors
/// A device that fails.
pub fn forward_cost(model: &Decoder, lengths: &[usize], repeats: usize) -> Result<Vec<ForwardCost>, LabError> {
    let model = model.valid();
    let vocab = model.vocab_size();
    let device = model.device();
    let one = |&length: &usize| {
        let ids: Vec<i32> = (0..length).map(|t| (t % vocab) as i32).collect();
        let ids = model.tokens(&ids, [1, length])?;
        let mut times = Vec::new();
        for _ in 0..=repeats.max(1) {
            let started = Instant::now();
            let _logits = model.forward(ids.clone());
            device.sync().map_err(|e| LabError::Device(e.to_string()))?;
            times.push(started.elapsed().as_secs_f64());
        }
        Ok(ForwardCost { length, seconds_per_token: median(&times[1..]) / length as f64 })
    };
    lengths.iter().map(one).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
