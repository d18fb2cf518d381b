//! Massive activations (Sun et al. 2024, arXiv 2402.17762): a few channels of the residual stream,
//! mostly at the first token, thousands of times the size of the rest.

use super::observe;
use crate::LabError;
use crate::table::{Row, columns};
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use zoo::Decoder;

/// The largest value of the residual stream at one depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Activation {
    /// Blocks the stream has passed: 0 is the embedding, `n` the output of block `n − 1`.
    pub depth: usize,
    /// The largest `|x|`.
    pub largest: f64,
    /// The median of `|x|`.
    pub median: f64,
    /// Position in the sequence where the largest stands.
    pub time: usize,
    /// Channel where it stands.
    pub channel: usize,
}

impl Activation {
    /// How many times the median the largest is. The paper calls 1000 (and above 100 in size) massive.
    pub fn ratio(&self) -> f64 {
        self.largest / self.median
    }
}

impl Row for Activation {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "depth" => |r| r.depth as u64,
            "largest" => |r| r.largest,
            "median" => |r| r.median,
            "ratio" => |r| r.ratio(),
            "time" => |r| r.time as u64,
            "channel" => |r| r.channel as u64,
        )
    }
}

/// The largest activation of the residual stream after the embedding and after every block, over
/// all batches.
///
/// # Errors
/// A token outside the vocabulary.
pub fn largest_activation(model: &Decoder, batches: &[Batch]) -> Result<Vec<Activation>, LabError> {
    let mut places = vec!["embedding".to_string()];
    places.extend((0..model.depth()).map(|layer| format!("blocks.{layer}.out")));
    let globs: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut sizes: Vec<Vec<f32>> = vec![Vec::new(); places.len()];
    let mut largest = vec![(0f32, 0, 0); places.len()];
    for batch in batches {
        let record = observe(model, batch, &globs)?;
        for (depth, place) in places.iter().enumerate() {
            let Some(value) = record.values.get(place) else { continue };
            let (time, width) = (value.shape()[1], value.shape()[2]);
            let values = value.to_vec();
            for (i, value) in values.iter().enumerate() {
                if value.abs() > largest[depth].0 {
                    largest[depth] = (value.abs(), i / width % time, i % width);
                }
            }
            sizes[depth].extend(values.iter().map(|v| v.abs()));
        }
    }
    let rows = sizes.iter_mut().zip(largest).enumerate().filter(|(_, (sizes, _))| !sizes.is_empty());
    Ok(rows
        .map(|(depth, (sizes, (largest, time, channel)))| {
            let middle = sizes.len() / 2;
            let median = *sizes.select_nth_unstable_by(middle, f32::total_cmp).1;
            Activation { depth, largest: largest.into(), median: median.into(), time, channel }
        })
        .collect())
}
