//! Single-needle retrieval: one fact somewhere in noise, asked for at the end.

#[cfg(test)]
mod tests;

use rand::seq::index;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{parameter, symbols};
use crate::random::{Purpose, stream};
use crate::{Batch, Dataset, DatasetError};

/// Parameters of [`Needle`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeedleConfig {
    /// V: id 0 is the query marker; the rest is a third keys, a third values, the rest noise.
    /// Default 256.
    pub vocab_size: usize,
    /// Other key-value pairs in the noise. With none, finding *a* value is enough; with some, the
    /// key has to be matched. Default 0.
    pub distractors: usize,
    /// The time the batches will be drawn with, so that a bad fit is an error here. Default 128.
    pub time: usize,
}

impl Default for NeedleConfig {
    fn default() -> Self {
        Self { vocab_size: 256, distractors: 0, time: 128 }
    }
}

/// Single-needle retrieval with noise.
///
/// ```text
/// ids      n n n k7 v3 n n n n k2 v9 n n  ?  k7         [batch, time]
/// targets                                    v3         loss only here
///                needle        distractor
/// ```
///
/// The haystack is the first T − 2 positions; the needle (key, value) starts at position
/// s = ⌊depth · (T − 4) + ½⌋, so depth 0 is the beginning and depth 1 right before the query. In
/// training, s is uniform. Distractors have other keys and other values and lie on the pairs of
/// positions the needle leaves free. Noise is uniform over the noise tokens.
///
/// Requires T ≥ 2 · distractors + 6 and V ≥ 3 · (distractors + 1) + 1.
///
/// Source: the small surrogate of the multi-needle test in Ye et al. 2024, "Differential
/// Transformer" (arXiv 2410.05258), §3.4, with symbols in the place of cities and magic numbers.
#[derive(Clone, Debug)]
pub struct Needle {
    config: NeedleConfig,
}

impl Needle {
    /// The task with these parameters.
    ///
    /// # Errors
    /// [`DatasetError::Parameter`], naming the parameter, its value and what is valid.
    pub fn new(config: NeedleConfig) -> Result<Self, DatasetError> {
        let NeedleConfig { vocab_size, distractors, time } = config;
        let least = 3 * (distractors + 1) + 1;
        if vocab_size < least || i32::try_from(vocab_size).is_err() {
            let why = format!(
                "at least {least} (3 · (distractors + 1) + 1, distractors = {distractors}), and \
                 below 2³¹"
            );
            return Err(parameter("needle", "vocab_size", vocab_size, why));
        }
        let task = Self { config };
        task.check(time)?;
        Ok(task)
    }

    /// The parameters.
    pub fn config(&self) -> &NeedleConfig {
        &self.config
    }

    /// Accuracy of a blind guess among all values: 3 / (V − 1), rounded to whole tokens.
    pub fn chance(&self) -> f64 {
        1.0 / self.third() as f64
    }

    /// Accuracy of guessing among the values in the haystack, whatever their keys:
    /// 1 / (distractors + 1).
    pub fn chance_in_context(&self) -> f64 {
        1.0 / (self.config.distractors + 1) as f64
    }

    /// Evaluation examples with the needle at `depth` in 0…1 (0 the beginning, 1 next to the
    /// query). The rows of one seed differ between depths in nothing but where things lie: same
    /// needle, same noise. No training seed produces them.
    ///
    /// # Panics
    /// If `depth` is outside 0…1, and where [`check`](Dataset::check) for this `time` is an error.
    pub fn at_depth(&self, seed: u64, depth: f32, batch: usize, time: usize) -> Batch {
        assert!((0.0..=1.0).contains(&depth), "needle: depth = {depth}, expected 0 to 1");
        self.generate(Purpose::Depth, seed, 0, Some(depth), batch, time)
    }

    /// Where in the row the needle's key stands at `depth`.
    pub fn position(depth: f32, time: usize) -> usize {
        (f64::from(depth) * (time - 4) as f64).round() as usize
    }

    /// Tokens in the first two of the three kinds: keys `1..=third`, values after them, then noise.
    fn third(&self) -> usize {
        (self.config.vocab_size - 1) / 3
    }

    fn generate(
        &self,
        purpose: Purpose,
        seed: u64,
        step: usize,
        depth: Option<f32>,
        batch: usize,
        time: usize,
    ) -> Batch {
        if let Err(error) = self.check(time) {
            panic!("{error}");
        }
        let mut out = Batch::with_capacity(batch, time);
        for row in 0..batch {
            self.push_row(&mut stream(purpose, seed, step, row), depth, time, &mut out);
        }
        out
    }

    fn push_row(&self, rng: &mut impl Rng, depth: Option<f32>, time: usize, out: &mut Batch) {
        let (third, haystack) = (self.third(), time - 2);
        let pairs = self.config.distractors + 1;
        // What is drawn comes before where it lies, so that a depth changes only the places.
        let keys = index::sample(rng, third, pairs).into_vec();
        let values = index::sample(rng, third, pairs).into_vec();
        let noise = 2 * third as i32 + 1..self.config.vocab_size as i32;
        let mut ids: Vec<i32> = (0..time).map(|_| rng.random_range(noise.clone())).collect();

        let start = match depth {
            Some(depth) => Self::position(depth, time),
            None => rng.random_range(0..=haystack - 2),
        };
        // The pairs of positions before the needle end where it starts, those after it start where
        // it ends, so none overlaps it or another.
        let (before, after) = (start / 2, (haystack - 2 - start) / 2);
        let slots = index::sample(rng, before + after, pairs - 1);
        let place = |slot: usize| {
            if slot < before { start - 2 * (slot + 1) } else { start + 2 + 2 * (slot - before) }
        };
        let starts = std::iter::once(start).chain(slots.iter().map(place));
        for ((start, key), value) in starts.zip(&keys).zip(&values) {
            ids[start] = (1 + key) as i32;
            ids[start + 1] = (1 + third + value) as i32;
        }
        ids[time - 2] = 0;
        ids[time - 1] = (1 + keys[0]) as i32;
        out.ids.extend(ids);
        out.targets.extend(std::iter::repeat_n(0, time - 1));
        out.targets.push((1 + third + values[0]) as i32);
        out.mask.extend(std::iter::repeat_n(0.0, time - 1));
        out.mask.push(1.0);
    }
}

impl Dataset for Needle {
    fn name(&self) -> &str {
        "needle"
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn train(&self, seed: u64, step: usize, batch: usize, time: usize) -> Batch {
        self.generate(Purpose::Train, seed, step, None, batch, time)
    }

    fn validation(&self, index: usize, batch: usize, time: usize) -> Batch {
        self.generate(Purpose::Validation, 0, index, None, batch, time)
    }

    /// The marker as `?`, keys as `k0…`, values as `v0…`, noise as `n0…`.
    fn decode(&self, ids: &[i32]) -> String {
        let third = self.third();
        symbols(ids, |id| match id {
            0 => "?".into(),
            id if id <= third => format!("k{}", id - 1),
            id if id <= 2 * third => format!("v{}", id - third - 1),
            id if id < self.config.vocab_size => format!("n{}", id - 2 * third - 1),
            id => format!("<{id}>"),
        })
    }

    fn check(&self, time: usize) -> Result<(), DatasetError> {
        let distractors = self.config.distractors;
        let least = 2 * distractors + 6;
        if time < least {
            let expected = format!("at least {least} (2 · distractors + 6, distractors = {distractors})");
            return Err(parameter("needle", "time", time, expected));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let NeedleConfig { vocab_size, distractors, time } = self.config;
        format!(
            "needle: 1 needle and {distractors} distractors in {time} tokens, vocabulary \
             {vocab_size}"
        )
    }
}
