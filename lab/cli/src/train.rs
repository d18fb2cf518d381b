//! `cargo lab train`: one run.

use crate::root::{root, shown};
use anyhow::{Context, Result, bail};
use datasets::DatasetConfig;
use lab::train::{Precision, run_config};
use lab::{Run, TrainConfig, Trainer};
use std::path::{Path, PathBuf};
use zoo::presets;

/// Train one model into runs/NAME.
///
/// Checkpoints are complete whenever the process ends; --resume goes on from the last one, on the
/// CPU with the very numbers of a run that never stopped.
#[derive(clap::Args)]
pub struct Arguments {
    /// A run's configuration as JSON (--print-config shows one)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "size"])]
    config: Option<PathBuf>,
    /// A variant of the zoo, with or without its size: `gated`, `hybrid-small`
    #[arg(long, value_name = "VARIANT[-SIZE]")]
    preset: Option<String>,
    /// nano, tiny, small or medium [default: small]
    #[arg(long, requires = "preset")]
    size: Option<String>,
    #[command(flatten)]
    run: RunArguments,
    /// The run's name, a folder under --out [default: VARIANT-SIZE, or as in the file]
    #[arg(long)]
    name: Option<String>,
    /// Chooses the initial weights and the order of the data
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from the last complete checkpoint (--name alone is enough)
    #[arg(long)]
    resume: bool,
    /// The folder of all runs
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
    /// Print the configuration as JSON and stop
    #[arg(long)]
    print_config: bool,
}

impl Arguments {
    /// A flag that says nothing about a run that is there already.
    fn beside_a_run(&self) -> Option<&'static str> {
        let RunArguments { data, steps, batch, time, learning_rate, precision } = &self.run;
        let given = [
            ("--data", data.is_some()),
            ("--steps", steps.is_some()),
            ("--batch", batch.is_some()),
            ("--time", time.is_some()),
            ("--learning-rate", learning_rate.is_some()),
            ("--precision", precision.is_some()),
            ("--seed", self.seed.is_some()),
            ("--print-config", self.print_config),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }
}

/// What `train` and `compare` both take.
#[derive(clap::Args)]
pub struct RunArguments {
    /// `dependencies`, `mqar`, `needle`, a file or folder, `hub:OWNER/NAME`, or JSON
    #[arg(long)]
    data: Option<String>,
    /// Updates of the weights
    #[arg(long)]
    steps: Option<usize>,
    /// Sequences per step
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens per sequence
    #[arg(long)]
    time: Option<usize>,
    /// The highest learning rate
    #[arg(long)]
    learning_rate: Option<f64>,
    /// The numbers in which forward and backward are computed: f32, or bf16 (for GPUs; weights and their update stay f32)
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
}

/// As a configuration has it.
pub fn precision(name: &str) -> Result<Precision, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

impl RunArguments {
    /// Puts what was given into `config`; the model's vocabulary follows the data.
    pub fn apply(&self, config: &mut TrainConfig) -> Result<()> {
        if let Some(data) = &self.data {
            config.data = dataset(data)?;
            config.model.vocab_size = config.data.open()?.vocab_size();
        }
        let steps = self.steps.unwrap_or(config.steps);
        if steps < config.steps {
            // The warm-up is the same part of a shorter run.
            config.warmup = config.warmup * steps / config.steps;
        }
        config.steps = steps;
        config.batch = self.batch.unwrap_or(config.batch);
        config.time = self.time.unwrap_or(config.time);
        if let Some(rate) = self.learning_rate {
            // The last rate stays the same part of the highest.
            config.min_learning_rate = (config.min_learning_rate * (rate / config.learning_rate)).min(rate);
            config.learning_rate = rate;
        }
        config.precision = self.precision.unwrap_or(config.precision);
        Ok(())
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let given = arguments.config.is_some() || arguments.preset.is_some();
    if !given {
        let Some(name) = arguments.name.as_ref().filter(|_| arguments.resume) else {
            bail!(
                "what to train? --preset VARIANT[-SIZE] (variants: {}; sizes: {}), --config FILE, or --resume --name RUN",
                presets::VARIANTS.join(", "),
                sizes().join(", ")
            );
        };
        if let Some(other) = arguments.beside_a_run() {
            bail!("`{other}` belongs to --preset or --config: --resume --name {name} goes on as the run was begun");
        }
        let dir = existing(&arguments.out.join(name))?;
        let device = lab::device()?;
        eprintln!("{}", crate::doctor::device_line()?);
        return finish(Trainer::resume(dir, &device)?);
    }
    let config = configure(&arguments)?;
    if arguments.print_config {
        println!("{}", config.to_json());
        return Ok(());
    }
    let dir = arguments.out.join(&config.name);
    let begun = dir.is_dir() && lab::train::checkpoints(&dir).is_ok_and(|found| !found.is_empty());
    if begun && !arguments.resume {
        bail!("the run `{}` is there already: --resume goes on with it, --name NAME makes another", shown(&dir));
    }
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    finish(Trainer::from_config(&config, &device)?.runs_dir(&arguments.out)?)
}

fn finish(mut trainer: Trainer) -> Result<()> {
    let config = trainer.config();
    let (name, parameters) = (&config.name, config.model.parameters());
    eprintln!("{name}: {parameters} parameters, {} steps", config.steps);
    let run: Run = trainer.run()?;
    println!("{run}");
    if let Some(dir) = &run.dir {
        eprintln!("saved in {}; `cargo lab probe {}` looks inside", shown(dir), shown(dir));
    }
    Ok(())
}

fn configure(arguments: &Arguments) -> Result<TrainConfig> {
    let mut config = match (&arguments.config, &arguments.preset) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            TrainConfig::from_json(&text).with_context(|| format!("{} is no configuration of a run", path.display()))?
        }
        (None, Some(preset)) => {
            let (variant, size) = split(preset, arguments.size.as_deref())?;
            let mut config = TrainConfig::new(format!("{variant}-{size}"), zoo::preset(variant, size)?);
            // A run at a terminal may be stopped at any time.
            config.checkpoint_every = config.eval_every;
            config
        }
        (None, None) => unreachable!("asked for before"),
    };
    arguments.run.apply(&mut config)?;
    config.seed = arguments.seed.unwrap_or(config.seed);
    if let Some(name) = &arguments.name {
        config.name.clone_from(name);
    }
    config.validate()?;
    config.model.validate()?;
    Ok(config)
}

pub fn sizes() -> Vec<&'static str> {
    presets::sizes().collect()
}

/// `hybrid-small` is the variant `hybrid` at size `small`; a variant may have a hyphen of its own.
fn split<'a>(preset: &'a str, size: Option<&'a str>) -> Result<(&'a str, &'a str)> {
    let ending = preset.rsplit_once('-').filter(|(_, end)| sizes().contains(end));
    let (variant, inside) = match ending {
        Some((variant, end)) if !presets::VARIANTS.contains(&preset) => (variant, Some(end)),
        _ => (preset, None),
    };
    match (inside, size) {
        (Some(inside), Some(size)) if inside != size => {
            bail!("--preset {preset} says size {inside} and --size says {size}; give one of them")
        }
        _ => {}
    }
    let size = inside.or(size).unwrap_or("small");
    // Both names are checked, and answered with the valid ones.
    zoo::preset(variant, size)?;
    Ok((variant, size))
}

/// What a person writes for a dataset.
fn dataset(text: &str) -> Result<DatasetConfig> {
    let json = match text {
        "dependencies" => r#"{"type": "corpus", "source": "dependencies"}"#.to_string(),
        "mqar" | "needle" => format!(r#"{{"type": "{text}"}}"#),
        _ if text.starts_with('{') => text.into(),
        _ => {
            let (source, key, value) = match text.strip_prefix("hub:") {
                Some(name) => ("hub", "name", name.to_string()),
                None if Path::new(text).exists() => ("path", "path", std::path::absolute(text)?.display().to_string()),
                None => bail!(
                    "unknown data `{text}`; valid: dependencies, mqar, needle, an existing file or folder, \
                     hub:OWNER/NAME, or JSON such as {{\"type\": \"mqar\", \"pairs\": 8}}"
                ),
            };
            serde_json::json!({"type": "corpus", "source": source, key: value}).to_string()
        }
    };
    serde_json::from_str(&json).with_context(|| format!("--data {text}"))
}

/// A run's folder, or the ones there are.
pub fn existing(dir: &Path) -> Result<PathBuf> {
    let Err(error) = run_config(dir) else { return Ok(dir.into()) };
    // A model has the file too, and so has a run of another version.
    let because = if dir.join("config.json").is_file() { format!(" ({error})") } else { String::new() };
    let among = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| run_config(path).is_ok()).map(|path| shown(&path)).collect()
    };
    let folder = dir.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut valid = folder.map(among).unwrap_or_default();
    if let Ok(root) = root() {
        valid.extend(among(&root.join("runs")));
    }
    valid.sort();
    valid.dedup();
    match &valid[..] {
        [] => bail!(
            "no run in `{}`{because}, and none in runs/ yet; `cargo lab train --preset gated-small` makes one",
            dir.display()
        ),
        valid => bail!("no run in `{}`{because}; valid: {}", dir.display(), valid.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_names_its_size_or_not() {
        assert_eq!(split("gated-headwise-tiny", None).unwrap(), ("gated-headwise", "tiny"));
        assert_eq!(split("differential-v2", Some("nano")).unwrap(), ("differential-v2", "nano"));
        assert_eq!(split("baseline", None).unwrap(), ("baseline", "small"));
        assert_eq!(split("hybrid-nano", Some("nano")).unwrap(), ("hybrid", "nano"));
        let message = split("hybrid-nano", Some("tiny")).unwrap_err().to_string();
        assert!(message.contains("nano") && message.contains("tiny"), "{message}");
    }

    #[test]
    fn an_unknown_variant_or_size_is_answered_with_the_valid_ones() {
        let message = split("gatd-nano", None).unwrap_err().to_string();
        assert!(message.contains("gatd") && presets::VARIANTS.iter().all(|v| message.contains(v)), "{message}");
        let message = split("gated", Some("huge")).unwrap_err().to_string();
        assert!(message.contains("huge") && sizes().iter().all(|size| message.contains(size)), "{message}");
    }

    #[test]
    fn data_is_a_word_a_path_or_json() {
        assert_eq!(dataset("dependencies").unwrap(), DatasetConfig::default());
        assert!(matches!(dataset("needle").unwrap(), DatasetConfig::Needle(_)));
        assert!(
            matches!(dataset(r#"{"type": "mqar", "pairs": 2}"#).unwrap(), DatasetConfig::Mqar(config) if config.pairs == 2)
        );
        assert!(matches!(dataset("src").unwrap(), DatasetConfig::Corpus(datasets::CorpusConfig::Path(_))));
        assert!(matches!(dataset("hub:owner/name").unwrap(), DatasetConfig::Corpus(datasets::CorpusConfig::Hub(_))));
        let message = dataset("nedle").unwrap_err().to_string();
        assert!(message.contains("nedle") && message.contains("needle"), "{message}");
        let message = crate::terminal::chain(&dataset(r#"{"type": "mqar", "pears": 2}"#).unwrap_err());
        assert!(message.contains("pears") && message.contains("pairs"), "{message}");
    }

    #[test]
    fn a_shorter_run_or_another_rate_keeps_the_shape_of_the_schedule() {
        let none =
            || RunArguments { data: None, steps: None, batch: None, time: None, learning_rate: None, precision: None };
        let applied = |arguments: RunArguments| {
            let mut config = TrainConfig::new("run", zoo::preset("gated", "nano").unwrap());
            arguments.apply(&mut config).unwrap();
            config.validate().unwrap();
            config
        };
        let plain = applied(none());
        assert_eq!(plain, TrainConfig::new("run", zoo::preset("gated", "nano").unwrap()));
        let steps = |steps| applied(RunArguments { steps: Some(steps), ..none() }).warmup;
        assert_eq!([5, 50, 300, 600, 5000].map(steps), [0, 4, 25, 50, 50]);
        let slow = applied(RunArguments { learning_rate: Some(2e-4), ..none() });
        assert_eq!(slow.learning_rate, 2e-4);
        assert!((slow.min_learning_rate - 2e-5).abs() < 1e-12, "{}", slow.min_learning_rate);
    }

    #[test]
    fn an_unknown_run_is_answered_with_the_runs_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder_with(folder.path(), "gated-small", &a_run());
        folder_with(folder.path(), "gated-model", &zoo::preset("gated", "nano").unwrap().to_json());
        assert_eq!(existing(&run).unwrap(), run);
        let message = existing(&folder.path().join("gated")).unwrap_err().to_string();
        assert!(message.contains("gated-small") && !message.contains("gated-model"), "{message}");
    }

    #[test]
    fn a_folder_whose_configuration_is_of_something_else_is_no_run_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        folder_with(folder.path(), "gated-small", &a_run());
        let model = folder_with(folder.path(), "gated-model", &zoo::preset("gated", "nano").unwrap().to_json());
        let message = existing(&model).unwrap_err().to_string();
        assert!(message.contains("unknown field") && message.contains("gated-small"), "{message}");
    }

    fn a_run() -> String {
        TrainConfig::new("gated-small", zoo::preset("gated", "nano").unwrap()).to_json()
    }

    fn folder_with(folder: &Path, name: &str, config: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("config.json"), config).unwrap();
        path
    }
}
