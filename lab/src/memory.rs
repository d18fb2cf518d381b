//! Memory networks on stories: the paper's recipe (Sukhbaatar et al. 2015, §4.2) and accuracy.
//!
//! ```text
//! g ← Σ over the batch of the gradients of −log â[answer]      summed, not averaged
//! g ← g · min(1, clip / ‖g‖)                                   all gradients together
//! w ← w − rate · g                                             rate halved every 25 epochs
//! ```
//!
//! [`hop_attention`] shows what a network looks at hop by hop; `cargo lab memory` trains one and
//! prints that for a few questions.

mod attention;

pub use attention::{HopAttention, hop_attention};

use crate::LabError;
use crate::error::invalid;
use crate::train::{cross_entropy, gradient_squares};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use datasets::{Babi, BabiBatch};
use serde::{Deserialize, Serialize};
use zoo::memory_network::with_empty_memories;
use zoo::{MemoryNetwork, MemoryNetworkConfig, Silent, Tap};

/// How a memory network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryRecipe {
    /// Epochs with the softmax. Default 100.
    pub epochs: usize,
    /// Default 32.
    pub batch: usize,
    /// Rate of the first epochs with the softmax. Default 0.01.
    pub learning_rate: f64,
    /// After how many epochs the rate is halved, again and again. Default 25.
    pub halve_every: usize,
    /// Largest norm of all gradients together. Default 40.
    pub clip: f64,
    /// Linear start: so many epochs without the memories' softmax come first. 0 for none. Default
    /// 20, as in the authors' program; the paper waits until the validation loss no longer falls,
    /// which a tenth of 1000 questions is too few to tell.
    pub linear_epochs: usize,
    /// Rate of the linear epochs. Default 0.005.
    pub linear_rate: f64,
    /// Empty memories put in at random while training, as a share of the sentences. Default 0.1.
    pub noise: f64,
    /// Share of the examples kept back for validation. Default 0.1.
    pub validation: f64,
    /// Trainings from other initial weights, of which the one with the lowest training loss is
    /// kept (the paper: 10). Default 1.
    pub restarts: usize,
    pub seed: u64,
}

impl Default for MemoryRecipe {
    fn default() -> Self {
        Self {
            epochs: 100,
            batch: 32,
            learning_rate: 0.01,
            halve_every: 25,
            clip: 40.0,
            linear_epochs: 20,
            linear_rate: 0.005,
            noise: 0.1,
            validation: 0.1,
            restarts: 1,
            seed: 0,
        }
    }
}

impl MemoryRecipe {
    /// The memories that stories of up to so many sentences need while training: one for each, and
    /// room for the empty ones, which would otherwise push out the oldest sentences, facts or not.
    pub fn memory(&self, sentences: usize) -> usize {
        sentences + (self.noise * sentences as f64).ceil() as usize
    }

    /// # Errors
    /// Names the value that does not fit and what would.
    pub fn validate(&self) -> Result<(), LabError> {
        for (name, value) in [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("halve_every", self.halve_every),
            ("restarts", self.restarts),
        ] {
            if value == 0 {
                return invalid(name, value, "at least 1");
            }
        }
        for (name, value) in
            [("learning_rate", self.learning_rate), ("linear_rate", self.linear_rate), ("clip", self.clip)]
        {
            if !(value > 0.0 && value.is_finite()) {
                return invalid(name, value, "a positive number");
            }
        }
        Ok(())
    }
}

/// One pass over the training examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryEpoch {
    /// Whether the memories had no softmax.
    pub linear: bool,
    pub learning_rate: f64,
    /// Mean over the epoch, in nats per question, with noise.
    pub train_loss: f64,
    /// After the epoch, without noise.
    pub validation_loss: f64,
    pub accuracy: f64,
}

/// A trained network and how it came about.
#[derive(Clone, Debug)]
pub struct MemoryRun {
    /// Without autodiff.
    pub model: MemoryNetwork,
    pub history: Vec<MemoryEpoch>,
    /// Training loss of the last epoch of every restart, infinite where it diverged: restart i has the recipe's
    /// seed + i.
    pub train_losses: Vec<f64>,
    /// The restart that `model` and `history` are of: the one with the lowest of `train_losses`.
    pub restart: usize,
    /// Whether the stop button ended it: the last of `train_losses` is that of an early epoch.
    pub interrupted: bool,
}

/// Loss in nats per question, share of right answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryScore {
    pub loss: f64,
    pub accuracy: f64,
}

/// Trains a network of `config` on `data`; with several restarts a line on stderr tells of each. The stop button
/// ends it after the epoch.
///
/// # Errors
/// Bad values, sentences that do not fit; [`LabError::MemoryNotFinite`] where every restart diverged.
pub fn train_memory_network(
    config: &MemoryNetworkConfig,
    recipe: &MemoryRecipe,
    data: &Babi,
    device: &Device,
) -> Result<MemoryRun, LabError> {
    recipe.validate()?;
    let (train, validation) = data.split(recipe.validation, recipe.seed)?;
    let stopped = || cell_runtime::check_interrupt().is_err();
    best_of(recipe.restarts, |restart| train_once(config, recipe, &train, &validation, restart, device, &stopped))
}

/// A restart, as far as it came.
struct Training {
    model: MemoryNetwork,
    history: Vec<MemoryEpoch>,
    interrupted: bool,
}

/// The restart with the lowest training loss, of those that `train` brings to an end.
fn best_of(restarts: usize, mut train: impl FnMut(usize) -> Result<Training, LabError>) -> Result<MemoryRun, LabError> {
    let (mut best, mut diverged) = (None, None);
    let mut train_losses: Vec<f64> = Vec::new();
    let mut interrupted = false;
    while train_losses.len() < restarts && !interrupted {
        let restart = train_losses.len();
        let training = match train(restart) {
            Err(error @ LabError::MemoryNotFinite { .. }) => {
                if restarts > 1 {
                    eprintln!("{error}");
                }
                diverged = Some(error);
                train_losses.push(f64::INFINITY);
                continue;
            }
            training => training?,
        };
        interrupted = training.interrupted;
        let last = training.history.last().expect("at least one epoch");
        let loss = last.train_loss;
        if restarts > 1 {
            let (number, kept) = (restart + 1, 100.0 * last.accuracy);
            eprintln!(
                "restart {number} of {restarts}: training loss {loss:.4} nats/question, {kept:.1} % of validation right"
            );
        }
        if train_losses.iter().all(|other| loss < *other) {
            best = Some((training, restart));
        }
        train_losses.push(loss);
    }
    match best {
        Some((Training { model, history, .. }, restart)) => {
            Ok(MemoryRun { model, history, train_losses, restart, interrupted })
        }
        None => Err(diverged.expect("at least one restart")),
    }
}

fn train_once(
    config: &MemoryNetworkConfig,
    recipe: &MemoryRecipe,
    train: &Babi,
    validation: &Babi,
    restart: usize,
    device: &Device,
    stopped: &dyn Fn() -> bool,
) -> Result<Training, LabError> {
    let seed = recipe.seed.wrapping_add(restart as u64);
    let mut model = config.init(seed, device)?.train();
    let mut history: Vec<MemoryEpoch> = Vec::new();
    model.linear = recipe.linear_epochs > 0;
    let mut since = 0;
    let mut interrupted = false;
    while (model.linear || since < recipe.epochs) && !interrupted {
        let rate = match model.linear {
            true => recipe.linear_rate,
            false => recipe.learning_rate * 0.5f64.powi((since / recipe.halve_every) as i32),
        };
        let epoch = history.len();
        let mut sum = 0.0;
        for (step, places) in train.order(seed, epoch).chunks(recipe.batch).enumerate() {
            let mut batch = train.batch(places, config.memory, train.words())?;
            let shape = [batch.batch, batch.memory, batch.words];
            // A stream of its own for every batch, also of different epochs.
            let noise = seed ^ ((epoch as u64) << 32 | step as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            batch.stories = with_empty_memories(&batch.stories, shape, recipe.noise, noise)?;
            let (loss, gradient_norm);
            (model, loss, gradient_norm) = update(model, &batch, rate, recipe.clip)?;
            if !loss.is_finite() || !gradient_norm.is_finite() {
                let (restart, epoch) = (restart + 1, epoch + 1);
                return Err(LabError::MemoryNotFinite { restart, seed, epoch, rate, loss, gradient_norm });
            }
            sum += loss;
        }
        let score = memory_score(&model, validation)?;
        history.push(MemoryEpoch {
            linear: model.linear,
            learning_rate: rate,
            train_loss: sum / train.examples.len() as f64,
            validation_loss: score.loss,
            accuracy: score.accuracy,
        });
        interrupted = stopped();
        since += 1;
        if model.linear && since == recipe.linear_epochs {
            (model.linear, since) = (false, 0);
        }
    }
    Ok(Training { model: model.valid(), history, interrupted })
}

/// One step, if the loss and the gradients are finite; the summed loss of the batch before it, and the norm.
fn update(
    model: MemoryNetwork,
    batch: &BabiBatch,
    rate: f64,
    clip: f64,
) -> Result<(MemoryNetwork, f64, f64), LabError> {
    let loss = loss(&model, batch, logits(&model, batch, &mut Silent)?)? * batch.batch as f64;
    let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
    let (_, squares, _) = gradient_squares(&model, &gradients);
    let squares = squares.expect("embeddings have gradients");
    let norm = squares.sum().into_scalar::<f32>().sqrt() as f64;
    let loss = loss.into_scalar::<f32>() as f64;
    if !loss.is_finite() || !norm.is_finite() {
        return Ok((model, loss, norm));
    }
    let rate = rate * if norm > clip { clip / norm } else { 1.0 };
    Ok((model.map(&mut Descend { gradients: &mut gradients, rate }), loss, norm))
}

/// Plain SGD: `w ← w − rate · g`.
struct Descend<'a> {
    gradients: &'a mut GradientsParams,
    rate: f64,
}

impl ModuleMapper for Descend<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        param.map(|weight| {
            let required = weight.is_require_grad();
            Tensor::from_inner(weight.inner() - gradient * self.rate).set_require_grad(required)
        })
    }
}

/// Logits `[batch, vocab_size]` of a batch of stories while `tap` watches.
///
/// # Errors
/// Ids outside the network's vocabulary, more sentences than it remembers.
pub fn logits(model: &MemoryNetwork, batch: &BabiBatch, tap: &mut dyn Tap) -> Result<Tensor<2>, LabError> {
    let stories = model.stories(&batch.stories, [batch.batch, batch.memory, batch.words])?;
    let questions = model.questions(&batch.questions, [batch.batch, batch.words])?;
    Ok(model.forward_with(stories, questions, tap))
}

fn loss(model: &MemoryNetwork, batch: &BabiBatch, logits: Tensor<2>) -> Result<Tensor<1>, LabError> {
    let [rows, vocab] = logits.dims();
    let answers: Tensor<2, Int> = Tensor::from_data(TensorData::new(batch.answers.clone(), [rows, 1]), &model.device());
    Ok(cross_entropy(logits.reshape([rows, 1, vocab]), answers, &vec![1.0; rows]))
}

/// Loss and accuracy on all of `data`.
///
/// # Errors
/// As [`logits`].
pub fn memory_score(model: &MemoryNetwork, data: &Babi) -> Result<MemoryScore, LabError> {
    let model = model.valid();
    let (mut nats, mut right) = (0.0, 0);
    let places: Vec<usize> = (0..data.examples.len()).collect();
    for places in places.chunks(256) {
        let batch = data.batch(places, model.config.memory, data.words())?;
        let logits = logits(&model, &batch, &mut Silent)?;
        let predicted = logits.clone().argmax(1).into_data().convert::<i32>();
        let predicted = predicted.try_into_vec::<i32>().expect("converted to i32 just before");
        right += predicted.iter().zip(&batch.answers).filter(|(a, b)| a == b).count();
        nats += loss(&model, &batch, logits)?.into_scalar::<f32>() as f64 * batch.batch as f64;
    }
    let count = data.examples.len() as f64;
    Ok(MemoryScore { loss: nats / count, accuracy: right as f64 / count })
}

#[cfg(test)]
mod tests;
