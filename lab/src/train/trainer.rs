//! The loop.

use super::files::RunFiles;
use super::history::bits;
use super::progress::Progress;
use super::{
    AdamW, Evaluation, History, HistoryRow, TrainConfig, checkpoints, evaluate_batches, gradient_squares, objective,
    run_config,
};
use crate::LabError;
use crate::error::invalid;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Transaction};
use datasets::{Batch, Dataset};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use zoo::Decoder;

/// Trains a decoder of any mixer, as far as it is told.
///
/// Steps, whole runs and stopped runs go on from each other: the trainer holds the model, the
/// optimiser and the history, and what it does next depends on nothing else.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lab::{TrainConfig, Trainer};
/// let config = TrainConfig::new("gated", zoo::preset("gated", "small")?);
/// let mut trainer = Trainer::from_config(&config, &lab::device()?)?.runs_dir("runs")?;
/// let row = trainer.step()?; // one update
/// let run = trainer.run()?; // the rest
/// println!("{}", run.history.frame());
/// # Ok(()) }
/// ```
pub struct Trainer {
    config: TrainConfig,
    dataset: Arc<dyn Dataset>,
    /// Drawn once: they are the same at every evaluation.
    validation: Vec<Batch>,
    /// Absent only while the optimiser maps it.
    pub(super) model: Option<Decoder>,
    pub(super) optimizer: AdamW,
    pub(super) history: History,
    pub(super) files: Option<RunFiles>,
    quiet: bool,
    untrained: Vec<String>,
}

/// A trained model and how it came about.
#[derive(Clone)]
pub struct Run {
    pub config: TrainConfig,
    /// Without autodiff: for probing and decoding.
    pub model: Decoder,
    pub history: History,
    /// Whether the stop button ended it; [`Trainer::run`] goes on.
    pub interrupted: bool,
    /// Where the checkpoints are.
    pub dir: Option<PathBuf>,
}

impl Trainer {
    /// A trainer of the catalogue model that `config` describes, on the data it describes.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration or the data.
    pub fn from_config(config: &TrainConfig, device: &Device) -> Result<Self, LabError> {
        config.model.validate()?;
        let model = config.model.init(config.seed, device)?;
        Self::new(config.clone(), model, config.data.open()?)
    }

    /// The trainer of a run folder (`runs/NAME`), at its latest complete checkpoint. Its mixers are those that
    /// its configuration names; a run of one's own mixers goes on by [`Self::new`] and [`Self::runs_dir`].
    ///
    /// # Errors
    /// [`LabError::NoCheckpoint`]; a corrupt file, with its name.
    pub fn resume(dir: impl AsRef<Path>, device: &Device) -> Result<Self, LabError> {
        let dir = dir.as_ref();
        let config = run_config(dir)?;
        if checkpoints(dir)?.is_empty() {
            return Err(LabError::NoCheckpoint { dir: dir.into() });
        }
        Self::from_config(&config, device)?.continue_in(RunFiles { dir: dir.into() })
    }

    /// A trainer of a decoder of any mixer. `config.model` is kept for the record; the decoder is
    /// what trains.
    ///
    /// # Errors
    /// A bad value in `config`, a vocabulary smaller than the data's, a time the data cannot fill.
    pub fn new(config: TrainConfig, decoder: Decoder, dataset: Arc<dyn Dataset>) -> Result<Self, LabError> {
        config.validate()?;
        dataset.check(config.time)?;
        let (model, data) = (decoder.vocab_size(), dataset.vocab_size());
        if model < data {
            return Err(LabError::Vocabulary { model, data, dataset: dataset.name().into() });
        }
        let validation: Vec<Batch> =
            (0..config.eval_batches).map(|index| dataset.validation(index, config.batch, config.time)).collect();
        if validation.iter().all(|batch| batch.answers() == 0) {
            return invalid("the number of counted positions in the validation batches", 0, "at least 1");
        }
        Ok(Self {
            optimizer: AdamW::new(config.betas, config.weight_decay),
            model: Some(decoder.train()),
            history: History::default(),
            files: None,
            quiet: false,
            untrained: Vec::new(),
            validation,
            config,
            dataset,
        })
    }

    /// Keeps checkpoints and metrics in `path/NAME`. Where the very same run is there already, the
    /// trainer goes on from its latest complete checkpoint, and a line says so. What the code of a mixer of
    /// one's own computes is not part of the configuration: when it was changed, the run needs another name.
    ///
    /// # Errors
    /// [`LabError::OtherConfig`] or [`LabError::OtherData`] where a run of this name has another
    /// configuration or was trained on other text (nothing is overwritten); a corrupt file, with its
    /// name.
    pub fn runs_dir(self, path: impl AsRef<Path>) -> Result<Self, LabError> {
        let files = RunFiles::open(path.as_ref(), &self.config)?;
        self.continue_in(files)
    }

    fn continue_in(mut self, files: RunFiles) -> Result<Self, LabError> {
        if let Some((_, dir)) = checkpoints(&files.dir)?.pop() {
            let model = self.model.take().expect("a trainer between steps has its model");
            let device = model.device();
            let state = RunFiles::load(&dir, &self.config, model, &device)?;
            let (then, now) = (state.data, self.dataset.describe());
            if then != now {
                return Err(LabError::OtherData { dir, then, now });
            }
            self.model = Some(state.model);
            self.optimizer = state.optimizer;
            self.history = state.history;
            // Also where training is quiet: else a run that was found would look like one that was made.
            let (step, steps, run) = (self.history.step(), self.config.steps, files.dir.display());
            match step < steps {
                true => eprintln!("goes on from step {step} of {steps} of `{run}`"),
                false => eprintln!("`{run}` is finished already, at step {step}: nothing is trained"),
            }
        }
        self.files = Some(files);
        Ok(self)
    }

    /// Prints nothing while it trains. That a checkpoint was found is told all the same.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The model as it is now, on a device with autodiff.
    pub fn model(&self) -> &Decoder {
        self.model.as_ref().expect("a trainer between steps has its model")
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Parameters that the last step's loss did not depend on: they have no gradient and stay.
    pub fn untrained(&self) -> &[String] {
        &self.untrained
    }

    /// One update of the weights.
    ///
    /// Loss and gradient norm are formed on the device and read by the host once, together, before
    /// any weight changes: a second read would stop the device a second time, and a later one
    /// would find a NaN only in weights that it has spoilt already.
    ///
    /// # Errors
    /// [`LabError::NotFinite`], with the model as it was before the step.
    pub fn step(&mut self) -> Result<HistoryRow, LabError> {
        if self.model().device() == Device::flex() { kernels::in_pool(|| self.step_here()) } else { self.step_here() }
    }

    fn step_here(&mut self) -> Result<HistoryRow, LabError> {
        let started = Instant::now();
        let step = self.history.step();
        let TrainConfig { seed, batch, time, clip, .. } = self.config;
        let data = self.dataset.train(seed, step, batch, time);
        let model = self.model();
        let (loss, whole) = objective(&self.config.precision.of(model), &self.config, &data)?;
        let mut gradients = GradientsParams::from_grads(whole.backward(), model);
        let (names, squares, untrained) = gradient_squares(model, &gradients);
        let squares = squares.expect("a decoder's embedding has a gradient");

        let read = Transaction::default().register(loss.inner()).register(whole.inner()).register(squares).execute();
        let mut read = read.into_iter().map(|data| data.iter::<f64>().collect::<Vec<_>>());
        let [loss, whole] = [(); 2].map(|()| read.next().expect("a loss")[0]);
        let squares = read.next().expect("the squares");
        let gradient_norm = squares.iter().sum::<f64>().sqrt();
        if !whole.is_finite() || !gradient_norm.is_finite() {
            let bad = |(name, square): (&String, &f64)| (!square.is_finite()).then(|| name.clone());
            let weights = zoo::checkpoint::tensors(model).into_iter();
            let broken = weights.filter(|(_, data)| data.iter::<f64>().any(|x| !x.is_finite()));
            return Err(LabError::NotFinite {
                run: self.config.name.clone(),
                step: step + 1,
                loss: whole,
                gradient_norm,
                last_loss: self.history.rows.last().map(|row| row.train_loss),
                weights: broken.map(|(name, _)| name).collect(),
                gradients: names.iter().zip(&squares).filter_map(bad).collect(),
            });
        }
        let scale = if gradient_norm > clip { clip / gradient_norm } else { 1.0 };
        let learning_rate = self.config.rate(step);
        let model = self.model.take().expect("a trainer between steps has its model");
        self.model = Some(self.optimizer.step(model, &mut gradients, learning_rate, scale));
        self.untrained = untrained;

        let (tokens, seconds) = (data.ids.len(), started.elapsed().as_secs_f64());
        let row = HistoryRow {
            step: step + 1,
            tokens: self.history.rows.last().map_or(0, |row| row.tokens) + tokens,
            train_loss: loss,
            validation_loss: None,
            accuracy: None,
            learning_rate,
            gradient_norm,
            tokens_per_second: tokens as f64 / seconds,
            seconds: self.history.seconds() + seconds,
        };
        self.history.rows.push(row.clone());
        Ok(row)
    }

    /// Loss and accuracy of the model as it is now, over the run's validation batches.
    pub fn evaluate(&self) -> Result<Evaluation, LabError> {
        evaluate_batches(&self.config.precision.of(self.model()), &self.validation)
    }

    /// The same, kept in the row of the last step.
    fn evaluate_row(&mut self) -> Result<(), LabError> {
        let Evaluation { loss, accuracy } = self.evaluate()?;
        let row = self.history.rows.last_mut().expect("a step was made");
        (row.validation_loss, row.accuracy) = (Some(loss), Some(accuracy));
        Ok(())
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Those of [`Self::step`]; files that cannot be written; [`LabError::Busy`].
    pub fn run(&mut self) -> Result<Run, LabError> {
        self.run_until(self.config.steps)
    }

    /// Trains until `step` updates are made (or to the end), and leaves a checkpoint there, also where
    /// [`Self::step`] made them.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_until(&mut self, step: usize) -> Result<Run, LabError> {
        let until = step.min(self.config.steps);
        let _lock = self.files.as_ref().map(RunFiles::lock).transpose()?;
        let progress = Progress::new(&self.config, &self.history, until, self.quiet);
        let every = |interval: usize, step: usize| interval > 0 && step.is_multiple_of(interval);
        let begun = self.history.step();
        let mut interrupted = false;
        while self.history.step() < until && !interrupted {
            let first = self.optimizer.updates() == 0;
            let step = self.step()?.step;
            if first && !self.untrained.is_empty() {
                progress.note(&format!("no gradient reaches {}", self.untrained.join(", ")));
            }
            let evaluated = every(self.config.eval_every, step) || step == self.config.steps;
            if evaluated {
                self.evaluate_row()?;
            }
            interrupted = cell_runtime::check_interrupt().is_err();
            let last = interrupted || step == until;
            progress.step(&self.config, &self.history, evaluated, last);
            // What the last step leaves is written behind the loop, once.
            if let Some(files) = self.files.as_ref().filter(|_| !last) {
                let save = every(self.config.checkpoint_every, step);
                if save {
                    self.save(files)?;
                }
                if save || evaluated {
                    files.write_metrics(&self.history)?;
                }
            }
        }
        let unseen = |row: &HistoryRow| row.step == self.config.steps && row.validation_loss.is_none();
        if self.history.rows.last().is_some_and(unseen) {
            self.evaluate_row()?;
        }
        let step = self.history.step();
        let unsaved = |files: &&RunFiles| step > begun || step > 0 && !files.checkpoint(step).exists();
        if let Some(files) = self.files.as_ref().filter(unsaved) {
            self.save(files)?;
            files.write_metrics(&self.history)?;
        }
        if interrupted {
            progress.note(&format!("stopped after step {step} of {until}"));
        }
        Ok(Run {
            config: self.config.clone(),
            model: self.model().valid(),
            history: self.history.clone(),
            interrupted,
            dir: self.files.as_ref().map(|files| files.dir.clone()),
        })
    }

    fn save(&self, files: &RunFiles) -> Result<(), LabError> {
        files.save(&self.config, self.model(), &self.optimizer, &self.history, &self.dataset.describe())
    }
}

impl Run {
    /// The run in a folder (`runs/NAME`) as its latest complete checkpoint has it, with the mixers that its
    /// configuration names.
    ///
    /// # Errors
    /// [`LabError::NoCheckpoint`]; a corrupt file, with its name.
    pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Self, LabError> {
        let dir = dir.as_ref();
        let config = run_config(dir)?;
        let Some((_, checkpoint)) = checkpoints(dir)?.pop() else {
            return Err(LabError::NoCheckpoint { dir: dir.into() });
        };
        let model = config.model.init(config.seed, device)?;
        let state = RunFiles::load(&checkpoint, &config, model, device)?;
        Ok(Self {
            config,
            model: state.model.valid(),
            history: state.history,
            interrupted: false,
            dir: Some(dir.into()),
        })
    }

    pub fn parameters(&self) -> usize {
        self.model.num_params()
    }
}

/// `gated: 1 003 520 parameters, 600 steps, validation loss 1.92 nats (2.77 bits) per token, …`
impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} parameters, {} steps", self.config.name, self.parameters(), self.history.step())?;
        if let (Some(loss), Some(accuracy)) = (self.history.validation_loss(), self.history.accuracy()) {
            write!(
                f,
                ", validation loss {loss:.4} nats ({:.4} bits) per token, accuracy {:.1} %",
                bits(loss),
                100.0 * accuracy
            )?;
        }
        write!(f, ", {:.0} tokens/s, {:.1} s", self.history.tokens_per_second(), self.history.seconds())?;
        if self.interrupted { f.write_str(", stopped") } else { Ok(()) }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
