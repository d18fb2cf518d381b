//! How good a model is on the validation batches.

use super::cross_entropy;
use crate::LabError;
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
/// A token outside the model's vocabulary, or a time for which the dataset has no batches.
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
    let (mut loss, mut right, mut count) = (0.0, 0.0, 0.0);
    for batch in batches {
        let shape = [batch.batch, batch.time];
        let logits = model.forward(model.tokens(&batch.ids, shape)?);
        let targets = model.tokens(&batch.targets, shape)?;
        let predicted = logits.clone().argmax(2).into_data().convert::<i32>();
        let predicted = predicted.try_into_vec::<i32>().expect("converted to i32 just before");
        let answers = batch.answers() as f64;
        loss += answers * cross_entropy(logits, targets, &batch.mask).into_scalar::<f32>() as f64;
        right += answers * datasets::accuracy(batch, &predicted);
        count += answers;
    }
    Ok(Evaluation { loss: loss / count, accuracy: right / count })
}
