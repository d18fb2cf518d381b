//! How good a model is on the validation batches.

use super::cross_entropy;
use crate::LabError;
use crate::error::invalid;
use burn::module::Module;
use datasets::{Batch, Dataset};
use serde::{Deserialize, Serialize};
use zoo::Decoder;

/// Loss and accuracy over a dataset's fixed validation batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over all counted positions, in nats per token.
    pub loss: f64,
    /// Share of counted positions whose most likely token is the target.
    pub accuracy: f64,
}

/// Evaluates on validation batches `0 .. batches` of `[batch, time]`: the same for every model.
///
/// # Errors
/// A token outside the model's vocabulary, a time for which the dataset has no batches, batches without a
/// counted position.
pub fn evaluate(
    model: &Decoder,
    dataset: &dyn Dataset,
    batches: usize,
    batch: usize,
    time: usize,
) -> Result<Evaluation, LabError> {
    dataset.check(time)?;
    let batches: Vec<Batch> = (0..batches).map(|index| dataset.validation(index, batch, time)).collect();
    evaluate_batches(model, &batches)
}

/// The same over batches at hand.
pub(crate) fn evaluate_batches(model: &Decoder, batches: &[Batch]) -> Result<Evaluation, LabError> {
    let model = model.valid();
    let mut tally = Tally::default();
    for batch in batches {
        tally.add(&model, batch)?;
    }
    tally.evaluation()
}

/// Sums over counted positions.
#[derive(Default)]
pub(crate) struct Tally {
    loss: f64,
    right: f64,
    count: f64,
}

impl Tally {
    /// Counts a batch that `model`, without autodiff, answers. One without counted positions adds nothing.
    pub(crate) fn add(&mut self, model: &Decoder, batch: &Batch) -> Result<(), LabError> {
        let answers = batch.answers() as f64;
        if answers == 0.0 {
            return Ok(()); // its means are NaN
        }
        let shape = [batch.batch, batch.time];
        let logits = model.forward(model.tokens(&batch.ids, shape)?);
        let targets = model.tokens(&batch.targets, shape)?;
        let predicted = logits.clone().argmax(2).into_data().convert::<i32>();
        let predicted = predicted.try_into_vec::<i32>().expect("converted to i32 just before");
        self.loss += answers * cross_entropy(logits, targets, &batch.mask).into_scalar::<f32>() as f64;
        self.right += answers * datasets::accuracy(batch, &predicted);
        self.count += answers;
        Ok(())
    }

    /// The means over all that was counted.
    ///
    /// # Errors
    /// Nothing was.
    pub(crate) fn evaluation(&self) -> Result<Evaluation, LabError> {
        if self.count == 0.0 {
            return invalid("the number of counted positions in the batches", 0, "at least 1");
        }
        Ok(Evaluation { loss: self.loss / self.count, accuracy: self.right / self.count })
    }
}
