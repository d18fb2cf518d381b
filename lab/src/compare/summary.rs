//! What came out.

use super::Interval;
use crate::error::at;
use crate::table::{Row, columns};
use crate::train::bits;
use crate::{Frame, History, LabError, Run, write_parquet};
use polars::prelude::DataFrame;
use serde::Serialize;
use std::path::Path;
use zoo::{Decoder, Mixer};

/// One run of one variant. The model is kept where it is one of the catalogue.
#[derive(Clone)]
pub struct VariantRun {
    pub variant: String,
    pub seed: u64,
    pub parameters: usize,
    pub history: History,
    pub model: Option<Decoder>,
}

impl VariantRun {
    /// A run of any mixer, under a name.
    pub fn of<M: Mixer>(variant: &str, run: &Run<M>) -> Self {
        Self {
            variant: variant.into(),
            seed: run.config.seed,
            parameters: run.parameters(),
            history: run.history.clone(),
            model: None,
        }
    }

    pub fn with_model(self, model: Decoder) -> Self {
        Self { model: Some(model), ..self }
    }
}

/// A variant's numbers over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub variant: String,
    pub parameters: usize,
    /// Parameters as a multiple of the baseline's.
    pub relative_parameters: f64,
    /// Final validation loss, nats per token.
    pub loss: Interval,
    /// Final accuracy on the validation batches.
    pub accuracy: Interval,
    /// Loss minus the baseline's, over the seeds both have: below 0 is better than the baseline.
    /// Paired, because a seed means the same data in the same order for both, which takes most of
    /// the spread between seeds out of the difference. None for the baseline.
    pub difference: Option<Interval>,
    /// Mean over the seeds.
    pub tokens_per_second: f64,
}

impl Row for Summary {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "variant" => |r| r.variant.clone(),
            "parameters" => |r| r.parameters as u64,
            "relative_parameters" => |r| r.relative_parameters,
            "seeds" => |r| r.loss.count as u64,
            "loss" => |r| r.loss.mean,
            "loss_ci95" => |r| r.loss.half_width,
            "bits" => |r| bits(r.loss.mean),
            "accuracy" => |r| r.accuracy.mean,
            "accuracy_ci95" => |r| r.accuracy.half_width,
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
            if run.history.validation_loss().is_none() {
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
    pub fn with<M: Mixer>(mut self, variant: &str, run: &Run<M>) -> Result<Self, LabError> {
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

    fn runs_of(&self, variant: &str) -> impl Iterator<Item = &VariantRun> {
        self.runs.iter().filter(move |run| run.variant == variant)
    }

    /// One row per variant, the baseline first.
    pub fn summary(&self) -> Vec<Summary> {
        let final_loss = |run: &VariantRun| run.history.validation_loss().unwrap_or(f64::NAN);
        let names = self.variants();
        let Some(&baseline) = names.first() else { return Vec::new() };
        let size = self.runs[0].parameters;
        let one = |&name: &&str| {
            let runs: Vec<&VariantRun> = self.runs_of(name).collect();
            let of = |value: &dyn Fn(&VariantRun) -> f64| {
                Interval::of(&runs.iter().map(|run| value(run)).collect::<Vec<_>>())
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
                parameters: runs[0].parameters,
                relative_parameters: runs[0].parameters as f64 / size as f64,
                loss: of(&final_loss),
                accuracy: of(&|run| run.history.accuracy().unwrap_or(f64::NAN)),
                difference: (name != baseline && !pairs.is_empty()).then(|| Interval::of(&pairs)),
                tokens_per_second: of(&|run| run.history.tokens_per_second()).mean,
            }
        };
        names.iter().map(one).collect()
    }

    /// [`Self::summary`] as a table: intervals are half-widths of 95 %, null where there is one seed.
    pub fn frame(&self) -> DataFrame {
        self.summary().frame()
    }

    /// Validation curves, over the steps that all of a variant's seeds evaluated.
    pub fn curves(&self) -> Vec<Curve> {
        let one = |name: &str| {
            let losses: Vec<Vec<(f64, f64)>> = self.runs_of(name).map(|run| run.history.validation_losses()).collect();
            let mut curve = Curve { variant: name.into(), steps: vec![], mean: vec![], low: vec![], high: vec![] };
            for &(step, _) in losses.first().into_iter().flatten() {
                let at = |run: &Vec<(f64, f64)>| run.iter().find(|(s, _)| *s == step).map(|(_, loss)| *loss);
                let Some(values) = losses.iter().map(at).collect::<Option<Vec<f64>>>() else { continue };
                let Interval { mean, half_width, .. } = Interval::of(&values);
                let half = half_width.unwrap_or(0.0);
                curve.steps.push(step);
                curve.mean.push(mean);
                curve.low.push(mean - half);
                curve.high.push(mean + half);
            }
            curve
        };
        self.variants().into_iter().map(one).collect()
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

/// The table as text. A difference whose interval leaves out 0 is marked with `*`.
impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let interval = |value: Interval, sign: bool| {
            let mean = if sign { format!("{:+.4}", value.mean) } else { format!("{:.4}", value.mean) };
            value.half_width.map_or(mean.clone(), |half| format!("{mean} ± {half:.4}"))
        };
        let heading = ["variant", "parameters", "seeds", "loss (nats/token)", "difference", "accuracy", "tokens/s"];
        let mut table = vec![heading.map(String::from)];
        table.extend(self.summary().into_iter().map(|row| {
            let sure = row.difference.is_some_and(|d| d.half_width.is_some_and(|half| d.mean.abs() > half));
            [
                row.variant,
                row.parameters.to_string(),
                row.loss.count.to_string(),
                interval(row.loss, false),
                row.difference.map_or("baseline".into(), |d| interval(d, true) + if sure { " *" } else { "" }),
                format!("{:.1} %", 100.0 * row.accuracy.mean),
                format!("{:.0}", row.tokens_per_second),
            ]
        }));
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        for row in &table {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        let sure =
            "± is the half-width of the 95 % interval over seeds; * a paired difference whose interval leaves out 0";
        let unsure = "one seed: no interval, so nothing is known about the spread";
        f.write_str(if self.summary().iter().any(|row| row.loss.count > 1) { sure } else { unsure })
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
