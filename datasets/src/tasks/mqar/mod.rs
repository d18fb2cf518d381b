//! Multi-query associative recall (MQAR): look up the values of several keys seen before.

#[cfg(test)]
mod tests;

use rand::seq::index;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{parameter, symbols};
use crate::random::{Purpose, stream};
use crate::{Batch, Dataset, DatasetError};

/// Parameters of [`Mqar`]. The defaults are the setting (T, P) = (64, 4) of the paper's figure 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqarConfig {
    /// V: ids `1..V/2` are keys, `V/2..V` values, 0 is empty. Default 8192.
    pub vocab_size: usize,
    /// P, the key-value pairs to remember; each is queried once. Default 4.
    pub pairs: usize,
    /// The time the batches will be drawn with, so that a bad fit is an error here. Default 64.
    pub time: usize,
    /// a: the smaller, the closer to the pairs the queries lie. Default 0.01.
    pub power_a: f64,
    /// Fill the room between the queries with random tokens rather than with 0. A random token may
    /// repeat a key, and so a little label noise comes with it. Default true.
    pub random_non_queries: bool,
}

impl Default for MqarConfig {
    fn default() -> Self {
        Self { vocab_size: 8192, pairs: 4, time: 64, power_a: 0.01, random_non_queries: true }
    }
}

/// Multi-query associative recall.
///
/// ```text
/// ids      k1 v1 k2 v2 … kP vP | · k2 · · · k1 · …       [batch, time]
/// targets                          v2       v1           loss only here
/// ```
///
/// For each row, P keys from `1..V/2` and P values from `V/2..V` are drawn without replacement. The
/// pairs fill the first 2P positions. Of the `space = (T − 2P)/2` even slots after them, P are drawn
/// one after the other without replacement with probability ∝ nᵃ⁻¹, n = 1…space, and the query for
/// pair i is put into slot gᵢ, at position 2P + 2gᵢ, its value being the target there (the shift to
/// the next token is already applied).
///
/// Requires 4P ≤ T, P ≤ V/2 − 1 and a > 0.
///
/// Source: Arora et al. 2023, "Zoology" (arXiv 2312.04927), §4 and the function
/// `multiquery_ar` of its code.
#[derive(Clone, Debug)]
pub struct Mqar {
    config: MqarConfig,
}

impl Mqar {
    /// The task with these parameters.
    ///
    /// # Errors
    /// [`DatasetError::Parameter`], naming the parameter, its value and what is valid.
    pub fn new(config: MqarConfig) -> Result<Self, DatasetError> {
        let MqarConfig { vocab_size, pairs, time, power_a, .. } = config;
        if pairs == 0 {
            return Err(parameter("mqar", "pairs", pairs, "at least 1".into()));
        }
        if pairs + 1 > vocab_size / 2 || i32::try_from(vocab_size).is_err() {
            return Err(parameter(
                "mqar",
                "vocab_size",
                vocab_size,
                format!("at least {} (2 · pairs + 2, pairs = {pairs}), and below 2³¹", 2 * pairs + 2),
            ));
        }
        if !(power_a > 0.0 && power_a.is_finite()) {
            return Err(parameter("mqar", "power_a", power_a, "a finite number above 0".into()));
        }
        let task = Self { config };
        task.check(time)?;
        Ok(task)
    }

    /// The parameters.
    pub fn config(&self) -> &MqarConfig {
        &self.config
    }

    /// Accuracy of a blind guess among all values: 1 / (V − V/2).
    pub fn chance(&self) -> f64 {
        1.0 / (self.config.vocab_size - self.first_value()) as f64
    }

    /// Accuracy of guessing among the values seen, without knowing which belongs to which key:
    /// 1/P. A model above this has bound keys to values.
    pub fn chance_in_context(&self) -> f64 {
        1.0 / self.config.pairs as f64
    }

    fn first_value(&self) -> usize {
        self.config.vocab_size / 2
    }

    fn generate(&self, purpose: Purpose, seed: u64, step: usize, batch: usize, time: usize) -> Batch {
        if let Err(error) = self.check(time) {
            panic!("{error}");
        }
        let mut out = Batch::with_capacity(batch, time);
        for row in 0..batch {
            self.push_row(&mut stream(purpose, seed, step, row), time, &mut out);
        }
        out
    }

    fn push_row(&self, rng: &mut impl Rng, time: usize, out: &mut Batch) {
        let MqarConfig { vocab_size, pairs, power_a, random_non_queries, .. } = self.config;
        let first_value = self.first_value();
        let keys = index::sample(rng, first_value - 1, pairs).into_vec();
        let values = index::sample(rng, vocab_size - first_value, pairs).into_vec();
        let gaps = gaps(rng, (time - 2 * pairs) / 2, pairs, power_a);

        let (mut ids, mut targets) = (vec![0; time], vec![0; time]);
        let mut mask = vec![0.0; time];
        for i in 0..pairs {
            let (key, value) = ((keys[i] + 1) as i32, (values[i] + first_value) as i32);
            ids[2 * i] = key;
            ids[2 * i + 1] = value;
            let query = 2 * pairs + 2 * gaps[i];
            ids[query] = key;
            targets[query] = value;
            mask[query] = 1.0;
        }
        if random_non_queries {
            for id in ids.iter_mut().filter(|id| **id == 0) {
                *id = rng.random_range(0..vocab_size as i32);
            }
        }
        out.ids.extend(ids);
        out.targets.extend(targets);
        out.mask.extend(mask);
    }
}

/// `count` of the slots `0..space`, drawn one after the other without replacement with probability
/// ∝ (n+1)ᵃ⁻¹.
///
/// Done as a race: slot n finishes at time Exp(1)/weight(n), and the order of the finishers is the
/// order of successive draws. (`rand`'s weighted sampling draws the same set, but leaves its order
/// open, and the order decides which pair gets the near slots.)
fn gaps(rng: &mut impl Rng, space: usize, count: usize, power_a: f64) -> Vec<usize> {
    let mut race: Vec<(f64, usize)> = (0..space)
        .map(|n| {
            let uniform: f64 = rng.random();
            let weight = (n as f64 + 1.0).powf(power_a - 1.0);
            (-(1.0 - uniform).ln() / weight, n)
        })
        .collect();
    race.sort_by(|a, b| a.0.total_cmp(&b.0));
    race.into_iter().take(count).map(|(_, n)| n).collect()
}

impl Dataset for Mqar {
    fn name(&self) -> &str {
        "mqar"
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn train(&self, seed: u64, step: usize, batch: usize, time: usize) -> Batch {
        self.generate(Purpose::Train, seed, step, batch, time)
    }

    fn validation(&self, index: usize, batch: usize, time: usize) -> Batch {
        self.generate(Purpose::Validation, 0, index, batch, time)
    }

    /// Keys as `k1…`, values as `v0…`, the empty id as `·`.
    fn decode(&self, ids: &[i32]) -> String {
        let first_value = self.first_value();
        symbols(ids, |id| match id {
            0 => "·".into(),
            id if id < first_value => format!("k{id}"),
            id if id < self.config.vocab_size => format!("v{}", id - first_value),
            id => format!("<{id}>"),
        })
    }

    fn check(&self, time: usize) -> Result<(), DatasetError> {
        let pairs = self.config.pairs;
        if time < 4 * pairs {
            let expected = format!("at least {} (4 · pairs, pairs = {pairs})", 4 * pairs);
            return Err(parameter("mqar", "time", time, expected));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let MqarConfig { vocab_size, pairs, time, .. } = self.config;
        format!("mqar: {pairs} pairs in {time} tokens, vocabulary {vocab_size}")
    }
}
