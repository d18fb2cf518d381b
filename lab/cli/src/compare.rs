//! `cargo lab compare`: several variants, and how sure the difference is.

use crate::root::shown;
use crate::train::RunArguments;
use anyhow::Result;
use lab::plot::Lines;
use lab::{CompareConfig, Comparison, TrainConfig};
use std::path::PathBuf;

/// Train variants at equal parameters on equal data, and compare them.
///
/// The first variant is the baseline. Prints mean and 95 % interval over the seeds, and writes the
/// tables (Parquet), comparison.json (the configuration) and a figure of the loss curves (SVG) to the
/// folder it names.
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
    // Not config.json, by which a folder is known as a run.
    zoo::checkpoint::write_atomically(&out.join("comparison.json"), json.as_bytes())?;
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let comparison = lab::compare(&config, &device)?;
    comparison.save(&out)?;
    println!("{comparison}");
    if !comparison.curves().is_empty() {
        curves(&comparison).save(out.join("loss.svg"))?;
    }
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
