//! The batch, the trait every dataset implements, and the score of an answer.

use crate::DatasetError;

/// Token ids with next-token targets; row-major `[batch, time]`.
///
/// `ids[r * time + t]` is what the model reads at time `t` of row `r`, and
/// `targets[r * time + t]` is what it should predict there. Where `mask` is 0 the target is a valid
/// id that means nothing, so a gather never leaves the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub batch: usize,
    /// Tokens per row.
    pub time: usize,
    /// What is read, `[batch, time]`.
    pub ids: Vec<i32>,
    /// What is to be predicted, `[batch, time]`.
    pub targets: Vec<i32>,
    /// 1 where the loss counts, else 0, `[batch, time]`.
    pub mask: Vec<f32>,
}

impl Batch {
    /// Room for `batch` rows of `time` tokens, to be filled row by row.
    pub(crate) fn with_capacity(batch: usize, time: usize) -> Self {
        let tokens = batch * time;
        Self {
            batch,
            time,
            ids: Vec::with_capacity(tokens),
            targets: Vec::with_capacity(tokens),
            mask: Vec::with_capacity(tokens),
        }
    }

    /// The ids of row `row`, `[time]`.
    ///
    /// # Panics
    /// If `row` is not below `batch`.
    pub fn row(&self, row: usize) -> &[i32] {
        &self.ids[row * self.time..(row + 1) * self.time]
    }

    /// How many positions the loss counts.
    pub fn answers(&self) -> usize {
        self.mask.iter().filter(|&&m| m > 0.0).count()
    }
}

/// A source of batches.
///
/// Batch number `step` is a pure function of (seed, step): two models see the same data in the same
/// order, and a resumed run continues where it was.
pub trait Dataset: Send + Sync {
    /// A short name for tables and file names.
    fn name(&self) -> &str;

    /// Number of distinct token ids; every id in a batch is in `0..vocab_size`.
    fn vocab_size(&self) -> usize;

    /// Training batch number `step`.
    ///
    /// # Panics
    /// Where [`check`](Dataset::check) for this `time` is an error.
    fn train(&self, seed: u64, step: usize, batch: usize, time: usize) -> Batch;

    /// Fixed evaluation batches, the same for every model and seed.
    ///
    /// # Panics
    /// Where [`check`](Dataset::check) for this `time` is an error.
    fn validation(&self, index: usize, batch: usize, time: usize) -> Batch;

    /// For display: text, or the symbols of the task ("k12", "v7", …). Never fails; an id outside
    /// the vocabulary is shown as `<id>`.
    fn decode(&self, ids: &[i32]) -> String;

    /// Whether rows of `time` tokens can be drawn. To be asked once, before training.
    ///
    /// # Errors
    /// Names the sizes: [`DatasetError::TooShort`] for a text, [`DatasetError::Parameter`] for a
    /// task.
    fn check(&self, time: usize) -> Result<(), DatasetError> {
        let _ = time;
        Ok(())
    }

    /// One line for a log: what the data is, how much there is, what was left out.
    fn describe(&self) -> String {
        self.name().to_owned()
    }
}

/// The share of masked positions where `predicted` equals the target.
///
/// `accuracy = Σ mask · [predicted = target] / Σ mask`
///
/// `predicted` holds the argmax ids for every position, `[batch, time]`, those without mask
/// included. NaN when the mask is empty.
///
/// # Panics
/// If `predicted` is not as long as the batch.
pub fn accuracy(batch: &Batch, predicted: &[i32]) -> f64 {
    assert_eq!(
        predicted.len(),
        batch.targets.len(),
        "accuracy: expected [batch, time] = [{}, {}] predicted ids, got {}",
        batch.batch,
        batch.time,
        predicted.len()
    );
    let right = (0..predicted.len()).filter(|&i| batch.mask[i] > 0.0 && predicted[i] == batch.targets[i]).count();
    right as f64 / batch.answers() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_masked_positions_only() {
        let batch =
            Batch { batch: 1, time: 4, ids: vec![0; 4], targets: vec![1, 2, 3, 4], mask: vec![1.0, 1.0, 0.0, 0.0] };
        assert_eq!(accuracy(&batch, &[1, 9, 3, 4]), 0.5);
        assert_eq!(accuracy(&batch, &[1, 2, 0, 0]), 1.0);
    }
}
