//! What came out.

use super::Interval;
use crate::error::at;
use crate::table::{Row, columns};
use crate::train::bits;
use crate::{Frame, History, LabError, Run, write_parquet};
use polars::prelude::DataFrame;
use serde::Serialize;
use std::path::Path;
use zoo::Decoder;

/// One run of one variant.
#[derive(Clone)]
pub struct VariantRun {
    pub variant: String,
    pub seed: u64,
    pub parameters: usize,
    pub history: History,
    /// Absent where the run diverged.
    pub model: Option<Decoder>,
    /// What was wrong where loss or gradients stopped being finite, and the history ends before, or where an
    /// evaluation gave a loss that is not. Such a run counts as diverged and enters no mean.
    pub diverged: Option<String>,
}

impl VariantRun {
    /// A run of any mixer, under a name.
    pub fn of(variant: &str, run: &Run) -> Self {
        let mut losses = run.history.validation_losses().into_iter();
        let diverged = losses.find(|(_, loss)| !loss.is_finite());
        let diverged = diverged.map(|(step, loss)| format!("validation loss {loss} after step {step}"));
        Self {
            variant: variant.into(),
            seed: run.config.seed,
            parameters: run.parameters(),
            history: run.history.clone(),
            model: diverged.is_none().then(|| run.model.clone()),
            diverged,
        }
    }
}

/// A variant's numbers over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub variant: String,
    pub parameters: usize,
    /// Parameters as a multiple of the baseline's.
    pub relative_parameters: f64,
    /// Seeds whose run was finished, and those whose run diverged.
    pub seeds: usize,
    pub diverged: usize,
    /// Final validation loss, nats per token. None where every run diverged, as of all means here.
    pub loss: Option<Interval>,
    /// Final accuracy on the validation batches.
    pub accuracy: Option<Interval>,
    /// Loss minus the baseline's, over the seeds both have: below 0 is better than the baseline.
    /// Paired, because a seed means the same data in the same order for both, which takes most of
    /// the spread between seeds out of the difference. None for the baseline.
    pub difference: Option<Interval>,
    /// Mean over the seeds.
    pub tokens_per_second: Option<f64>,
}

impl Row for Summary {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "variant" => |r| r.variant.clone(),
            "parameters" => |r| r.parameters as u64,
            "relative_parameters" => |r| r.relative_parameters,
            "seeds" => |r| r.seeds as u64,
            "diverged" => |r| r.diverged as u64,
            "loss" => |r| r.loss.map(|loss| loss.mean),
            "loss_ci95" => |r| r.loss.and_then(|loss| loss.half_width),
            "bits" => |r| r.loss.map(|loss| bits(loss.mean)),
            "accuracy" => |r| r.accuracy.map(|accuracy| accuracy.mean),
            "accuracy_ci95" => |r| r.accuracy.and_then(|accuracy| accuracy.half_width),
            "difference" => |r| r.difference.map(|d| d.mean),
            "difference_ci95" => |r| r.difference.and_then(|d| d.half_width),
            "tokens_per_second" => |r| r.tokens_per_second,
        )
    }
}

/// A variant's validation loss against the step: mean and 95 % band over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    pub variant: String,
    pub steps: Vec<f64>,
    pub mean: Vec<f64>,
    /// Lower and upper edge; the mean itself where there is one seed.
    pub low: Vec<f64>,
    pub high: Vec<f64>,
}

/// All runs of a comparison. The first one's variant is the baseline.
#[derive(Clone)]
pub struct Comparison {
    pub runs: Vec<VariantRun>,
    /// Whether the stop button ended it: the runs are those that were finished.
    pub interrupted: bool,
}

impl Comparison {
    /// A comparison of runs made elsewhere, of a mixer of one's own among them.
    ///
    /// # Errors
    /// No runs, a run without a final evaluation, the same variant and seed twice.
    pub fn from_runs(runs: Vec<VariantRun>) -> Result<Self, LabError> {
        if runs.is_empty() {
            return Err(LabError::Compare("there are no runs".into()));
        }
        for (i, run) in runs.iter().enumerate() {
            if run.diverged.is_none() && run.history.validation_loss().is_none() {
                return Err(LabError::Compare(format!("`{}` with seed {} was never evaluated", run.variant, run.seed)));
            }
            if runs[..i].iter().any(|other| (&other.variant, other.seed) == (&run.variant, run.seed)) {
                return Err(LabError::Compare(format!("`{}` with seed {} is there twice", run.variant, run.seed)));
            }
        }
        Ok(Self { runs, interrupted: false })
    }

    /// The same with one more run.
    ///
    /// # Errors
    /// As [`Self::from_runs`].
    pub fn with(mut self, variant: &str, run: &Run) -> Result<Self, LabError> {
        self.runs.push(VariantRun::of(variant, run));
        Ok(Self { interrupted: self.interrupted, ..Self::from_runs(self.runs)? })
    }

    /// The variants, the baseline first.
    pub fn variants(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !names.contains(&run.variant.as_str()) {
                names.push(&run.variant);
            }
        }
        names
    }

    /// The model of a variant's first seed.
    pub fn model(&self, variant: &str) -> Option<&Decoder> {
        self.runs_of(variant).find_map(|run| run.model.as_ref())
    }

    /// The runs of a variant that did not diverge.
    fn runs_of(&self, variant: &str) -> impl Iterator<Item = &VariantRun> {
        self.runs.iter().filter(move |run| run.variant == variant && run.diverged.is_none())
    }

    /// One row per variant, the baseline first.
    pub fn summary(&self) -> Vec<Summary> {
        let final_loss = |run: &VariantRun| run.history.validation_loss().unwrap_or(f64::NAN);
        let names = self.variants();
        let Some(&baseline) = names.first() else { return Vec::new() };
        let size = self.runs[0].parameters;
        let one = |&name: &&str| {
            let all: Vec<&VariantRun> = self.runs.iter().filter(|run| run.variant == name).collect();
            let runs: Vec<&VariantRun> = self.runs_of(name).collect();
            let of = |value: &dyn Fn(&VariantRun) -> f64| {
                let values: Vec<f64> = runs.iter().map(|run| value(run)).collect();
                (!values.is_empty()).then(|| Interval::of(&values))
            };
            let pairs: Vec<f64> = runs
                .iter()
                .filter_map(|run| {
                    let other = self.runs_of(baseline).find(|other| other.seed == run.seed)?;
                    Some(final_loss(run) - final_loss(other))
                })
                .collect();
            Summary {
                variant: name.into(),
                parameters: all[0].parameters,
                relative_parameters: all[0].parameters as f64 / size as f64,
                seeds: runs.len(),
                diverged: all.len() - runs.len(),
                loss: of(&final_loss),
                accuracy: of(&|run| run.history.accuracy().unwrap_or(f64::NAN)),
                difference: (name != baseline && !pairs.is_empty()).then(|| Interval::of(&pairs)),
                tokens_per_second: of(&|run| run.history.tokens_per_second()).map(|speed| speed.mean),
            }
        };
        names.iter().map(one).collect()
    }

    /// [`Self::summary`] as a table: intervals are half-widths of 95 %, null where there is one seed; means are
    /// null where every run diverged.
    pub fn frame(&self) -> DataFrame {
        self.summary().frame()
    }

    /// Validation curves, over the steps that all of a variant's finished runs evaluated; none for a variant
    /// without such a run.
    pub fn curves(&self) -> Vec<Curve> {
        let one = |name: &str| {
            let losses: Vec<Vec<(f64, f64)>> = self.runs_of(name).map(|run| run.history.validation_losses()).collect();
            let first = losses.first()?;
            let mut curve = Curve { variant: name.into(), steps: vec![], mean: vec![], low: vec![], high: vec![] };
            for &(step, _) in first {
                let at = |run: &Vec<(f64, f64)>| run.iter().find(|(s, _)| *s == step).map(|(_, loss)| *loss);
                let Some(values) = losses.iter().map(at).collect::<Option<Vec<f64>>>() else { continue };
                let Interval { mean, half_width, .. } = Interval::of(&values);
                let half = half_width.unwrap_or(0.0);
                curve.steps.push(step);
                curve.mean.push(mean);
                curve.low.push(mean - half);
                curve.high.push(mean + half);
            }
            Some(curve)
        };
        self.variants().into_iter().filter_map(one).collect()
    }

    /// `comparison.parquet` (the table) and `VARIANT-seedN.parquet` (every step of every run).
    ///
    /// # Errors
    /// A file that cannot be written, with its name.
    pub fn save(&self, dir: &Path) -> Result<(), LabError> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        write_parquet(&dir.join("comparison.parquet"), &self.frame())?;
        for run in &self.runs {
            write_parquet(&dir.join(format!("{}-seed{}.parquet", run.variant, run.seed)), &run.history.frame())?;
        }
        Ok(())
    }
}

/// The table as text, and what its numbers mean.
impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let interval = |value: Interval, sign: bool| {
            let mean = if sign { format!("{:+.4}", value.mean) } else { format!("{:.4}", value.mean) };
            value.half_width.map_or(mean.clone(), |half| format!("{mean} ± {half:.4}"))
        };
        let dash = || "–".to_string();
        let summary = self.summary();
        let heading = ["variant", "parameters", "seeds", "loss, nats/token", "minus the first", "accuracy", "tokens/s"];
        let rows = summary.iter().map(|row| {
            let sure = row.difference.is_some_and(|d| d.half_width.is_some_and(|half| d.mean.abs() > half));
            [
                row.variant.clone(),
                row.parameters.to_string(),
                row.seeds.to_string(),
                row.loss.map_or("diverged".into(), |loss| interval(loss, false)),
                row.difference.map_or_else(dash, |d| interval(d, true) + if sure { " *" } else { "" }),
                row.accuracy.map_or_else(dash, |accuracy| format!("{:.1} %", 100.0 * accuracy.mean)),
                row.tokens_per_second.map_or_else(dash, |speed| format!("{speed:.0}")),
            ]
        });
        let table: Vec<_> = std::iter::once(heading.map(String::from)).chain(rows).collect();
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        for row in &table {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        for run in &self.runs {
            if let Some(problem) = &run.diverged {
                writeln!(f, "{} with seed {} diverged: {problem}", run.variant, run.seed)?;
            }
        }
        f.write_str(match summary.iter().map(|row| row.seeds).max() {
            None | Some(0) => "no run was finished",
            Some(1) => "one seed: how far the numbers would move with another is not known",
            Some(_) => {
                "± is half of the 95 % interval over the seeds; differences are taken seed by seed, and * marks one \
                 whose interval leaves out 0"
            }
        })
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
