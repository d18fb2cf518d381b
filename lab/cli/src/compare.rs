//! `cargo lab compare`: several variants, and how sure the difference is.

use crate::root::shown;
use crate::train::RunArguments;
use anyhow::Result;
use lab::compare::Interval;
use lab::plot::Lines;
use lab::{CompareConfig, Comparison, TrainConfig};
use std::path::PathBuf;

/// Train variants at equal parameters on equal data, and compare them.
///
/// The first variant is the baseline. Prints mean and 95 % interval over the seeds, and writes the
/// tables (Parquet), config.json and a figure of the loss curves (SVG) to the folder it names.
#[derive(clap::Args)]
pub struct Arguments {
    /// Variants of the zoo, the baseline first
    #[arg(long, value_delimiter = ',', default_value = "baseline,gated,differential,hybrid")]
    variants: Vec<String>,
    /// nano, tiny, small or medium
    #[arg(long, default_value = "small")]
    size: String,
    /// How many seeds (0, 1, …): intervals need at least two
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[command(flatten)]
    run: RunArguments,
    /// Where results go [default: runs/compare-SIZE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the configuration as JSON and stop
    #[arg(long)]
    print_config: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let config = configure(&arguments)?;
    let json = serde_json::to_string_pretty(&config)?;
    if arguments.print_config {
        println!("{json}");
        return Ok(());
    }
    // A folder that cannot be written is found out before the training, not after.
    let out = arguments.out.unwrap_or_else(|| format!("runs/compare-{}", arguments.size).into());
    if out.join("comparison.parquet").exists() {
        anyhow::bail!("a comparison is in {} already: --out DIR makes another", shown(&out));
    }
    std::fs::create_dir_all(&out).map_err(|error| anyhow::anyhow!("cannot create {}: {error}", out.display()))?;
    zoo::checkpoint::write_atomically(&out.join("config.json"), json.as_bytes())?;
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let comparison = lab::compare(&config, &device)?;
    comparison.save(&out)?;
    curves(&comparison).save(out.join("loss.svg"))?;
    println!("{}", table(&comparison));
    eprintln!("saved in {}", shown(&out));
    Ok(())
}

/// Validation losses with the 95 % band over the seeds.
fn curves(comparison: &Comparison) -> Lines {
    let lines = Lines::new("Validation loss").x("step", "").y("loss", "nats/token");
    comparison
        .curves()
        .into_iter()
        .fold(lines, |lines, curve| lines.line_with_band(curve.variant, curve.steps, curve.mean, curve.low, curve.high))
}

/// One line per variant, and what the numbers mean.
fn table(comparison: &Comparison) -> String {
    let interval = |interval: &Interval, sign: bool| {
        let mean = if sign { format!("{:+.4}", interval.mean) } else { format!("{:.4}", interval.mean) };
        interval.half_width.map_or(mean.clone(), |half| format!("{mean} ± {half:.4}"))
    };
    let header = ["variant", "parameters", "loss, nats/token", "minus the first", "accuracy", "tokens/s"];
    let rows = comparison.summary().into_iter().map(|row| {
        let difference = row.difference.as_ref().map_or("–".into(), |difference| interval(difference, true));
        let accuracy = format!("{:.1} %", 100.0 * row.accuracy.mean);
        let speed = format!("{:.0}", row.tokens_per_second);
        [row.variant, row.parameters.to_string(), interval(&row.loss, false), difference, accuracy, speed]
    });
    let lines: Vec<[String; 6]> = std::iter::once(header.map(String::from)).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            // Names to the left, numbers to the right.
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            text += &cell;
        }
        text += "\n";
    }
    let seeds = comparison.summary().first().map_or(0, |row| row.loss.count);
    text += &match seeds {
        0 | 1 => "One seed: how far the numbers would move with another is not known (--seeds 3).".into(),
        _ => format!(
            "± is half of the 95 % interval over {seeds} seeds; differences are taken seed by seed. A difference \
             whose interval holds 0 is not shown to be one."
        ),
    };
    text
}

fn configure(arguments: &Arguments) -> Result<CompareConfig> {
    let variants: Vec<&str> = arguments.variants.iter().map(|name| name.trim()).collect();
    let seeds: Vec<u64> = (0..arguments.seeds).collect();
    let first = variants.first().copied().unwrap_or_default();
    let mut base = TrainConfig::new("compare", zoo::preset(first, &arguments.size)?);
    arguments.run.apply(&mut base)?;
    base.validate()?;
    Ok(CompareConfig::presets(base, &variants, &arguments.size, &seeds)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn configured(line: &[&str]) -> Result<CompareConfig> {
        configure(&Line::parse_from(["compare"].iter().chain(line)).arguments)
    }

    #[test]
    fn the_four_variants_are_compared_unless_others_are_named() {
        let names = |line: &[&str]| configured(line).unwrap().variants.into_iter().map(|v| v.name).collect::<Vec<_>>();
        assert_eq!(names(&["--size", "nano"]), ["baseline", "gated", "differential", "hybrid"]);
        assert_eq!(names(&["--size", "nano", "--variants", "gated, baseline"]), ["gated", "baseline"]);
    }

    #[test]
    fn an_unknown_variant_or_size_is_answered_with_the_valid_ones() {
        let message = configured(&["--variants", "baseline,gatd"]).unwrap_err().to_string();
        assert!(message.contains("gatd") && message.contains("gated-delta"), "{message}");
        let message = configured(&["--size", "huge"]).unwrap_err().to_string();
        assert!(message.contains("huge") && message.contains("nano"), "{message}");
    }
}
