//! `cargo lab probe`: what is inside a trained model.

use crate::root::shown;
use crate::train::existing;
use anyhow::{Context, Result};
use datasets::Dataset;
use lab::Run;
use lab::plot::{AttentionGrid, Bars, Lines};
use lab::probe::{Report, layer_means, patterns};
use std::path::{Path, PathBuf};

/// Look inside a run: attention sinks, activations, gates, λ, decays, decoding.
///
/// Prints the tables and writes them (Parquet), report.json and figures (SVG) to RUN/probe/.
#[derive(clap::Args)]
pub struct Arguments {
    /// A run's folder (runs/NAME), or its name
    run: PathBuf,
    /// Validation batches to read
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    batches: u16,
    /// Context lengths at which decoding is timed
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512])]
    lengths: Vec<usize>,
}

/// As many tokens as can still be read beside a small pattern.
const PATTERN_TOKENS: usize = 24;

pub fn run(arguments: Arguments) -> Result<()> {
    let named = PathBuf::from("runs").join(&arguments.run);
    let plain = arguments.run.components().count() == 1 && !arguments.run.join("config.json").is_file();
    let dir = existing(if plain { &named } else { &arguments.run })?;
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let run = Run::load(&dir, &device).with_context(|| format!("cannot read the run {}", shown(&dir)))?;
    println!("{run}");
    let config = &run.config;
    let dataset = config.data.open().context("cannot open the run's data")?;
    let batches: Vec<_> =
        (0..arguments.batches.into()).map(|index| dataset.validation(index, config.batch, config.time)).collect();
    let report = Report::new(&run.model, &batches, &arguments.lengths)?;
    println!("{report}");
    let out = dir.join("probe");
    report.save(&out)?;
    draw(&run, &report, dataset.as_ref(), batches[0].row(0), &out)?;
    eprintln!("saved in {}", shown(&out));
    Ok(())
}

/// Figures of what the model has: sinks by layer, patterns of one short text, λ, losses.
fn draw(run: &Run, report: &Report, dataset: &dyn Dataset, ids: &[i32], out: &Path) -> Result<()> {
    let name = &run.config.name;
    let (steps, losses): (Vec<f64>, Vec<f64>) = run.history.validation_losses().into_iter().unzip();
    // A run that was stopped early may have none.
    if !losses.is_empty() {
        let curve = Lines::new(format!("Validation loss of {name}")).x("step", "").y("loss", "nats/token");
        curve.line(name.as_str(), steps, losses).save(out.join("loss.svg"))?;
    }

    let masses = layer_means(&report.first_token_mass);
    // Of one token a sequence there is no mass: every query is the first.
    if masses.iter().any(|(_, mass)| mass.is_finite()) {
        let bars =
            Bars::new(format!("Attention on the first token, {name}")).x("layer", "").y("share", "mean over heads");
        let bars = masses.iter().fold(bars, |bars, (layer, mass)| bars.bar(layer.to_string(), *mass));
        bars.save(out.join("first_token_mass.svg"))?;
    }
    if !masses.is_empty() {
        let ids = &ids[..ids.len().min(PATTERN_TOKENS)];
        let grid = AttentionGrid::new(format!("Attention patterns, {name}")).x("key", "").y("query", "").causal();
        let all = patterns(&run.model, ids)?.into_iter().filter(|pattern| pattern.name == "pattern");
        let grid = all.fold(grid, |grid, p| grid.panel(format!("layer {}, head {}", p.layer, p.head), p.rows()));
        let tokens = ids.iter().map(|&id| dataset.decode(&[id]));
        grid.tokens(tokens).save(out.join("patterns.svg"))?;
    }
    if !report.lambdas.is_empty() {
        let bars = Bars::new(format!("λ by layer, {name}")).x("layer", "").y("λ", "");
        let bars = report.lambdas.iter().fold(bars, |bars, row| bars.bar(row.layer.to_string(), row.mean));
        bars.save(out.join("lambda.svg"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use datasets::{Batch, DatasetConfig, MqarConfig};
    use lab::{History, TrainConfig};

    #[test]
    fn a_run_of_one_token_a_sequence_is_drawn_without_bars_of_the_first_token() {
        let model = zoo::preset("baseline", "nano").unwrap();
        let run = Run {
            config: TrainConfig::new("one", model.clone()),
            model: model.init(0, &Device::flex()).unwrap(),
            history: History::default(),
            interrupted: false,
            dir: None,
        };
        let batch = Batch { batch: 2, time: 1, ids: vec![1, 2], targets: vec![2, 3], mask: vec![1.0; 2] };
        let report = Report::new(&run.model, std::slice::from_ref(&batch), &[]).unwrap();
        let dataset = DatasetConfig::Mqar(MqarConfig::default()).open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        draw(&run, &report, dataset.as_ref(), batch.row(0), folder.path()).unwrap();
        assert!(!folder.path().join("first_token_mass.svg").exists());
        assert!(folder.path().join("patterns.svg").exists());
    }
}
