//! Runs `cargo build --workspace` and tells whoever waits how far it is.

use super::plan::{Plan, Unit};
use super::run::{Line, output, run};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What cargo said it made.
#[derive(Debug, Default)]
pub struct Artifacts {
    /// Library crates by name: every version, and every set of features, of each.
    pub crates: BTreeMap<String, Vec<Library>>,
    pub kernel: Option<PathBuf>,
    pub search: Vec<String>,
    /// Folders of the sources a notebook's completions come from.
    pub sources: BTreeMap<String, PathBuf>,
}

#[derive(Debug)]
pub struct Library {
    /// cargo's name of the package.
    pub package: String,
    pub features: Vec<String>,
    pub path: PathBuf,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
    /// None as long as nothing has been compiled.
    pub left: Option<Duration>,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.done, self.total)?;
        match self.left {
            Some(left) => write!(f, ", about {} left", readable(left)),
            None => Ok(()),
        }
    }
}

/// `40 s`, `7 min`: no more digits than an estimate has.
pub fn readable(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..10 => format!("{} s", seconds.max(1)),
        seconds @ 10..90 => format!("{} s", seconds.div_ceil(10) * 10),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

/// Whoever waits for a build.
pub trait Watch {
    /// A program runs, cargo or the compiler; its process, and its group's where it has one.
    fn began(&mut self, _group: i32) {}
    fn ended(&mut self, _group: i32) {}
    /// A line of what it says.
    fn said(&mut self, line: &str);
    fn progress(&mut self, progress: Progress);
    /// Everything is compiled; about how long linking takes is known from the last time.
    fn linking(&mut self, time: Option<Duration>);
}

pub struct Cargo<'a> {
    pub program: &'a Path,
    /// The compiler it is to use; else the one it would.
    pub rustc: Option<&'a Path>,
    pub workspace: &'a Path,
    /// Where to build; else where cargo itself would.
    pub target: Option<&'a Path>,
    /// As [`run`] has it.
    pub apart: bool,
}

impl Cargo<'_> {
    /// The program in its workspace, without arguments.
    pub fn command(&self) -> Command {
        let mut cargo = Command::new(self.program);
        cargo.current_dir(self.workspace);
        if let Some(rustc) = self.rustc {
            // Another path of the same compiler makes nothing out of date: cargo goes by what it says of its version.
            cargo.env("RUSTC", rustc);
        }
        cargo
    }

    /// Where cargo builds.
    pub fn target_folder(&self, watch: &mut dyn Watch) -> Result<PathBuf> {
        let mut metadata = self.command();
        let text = output(metadata.args(["metadata", "--no-deps", "--format-version=1"]), self.apart, watch)?;
        let metadata: Value = serde_json::from_str(&text).context("cargo's metadata cannot be read")?;
        metadata["target_directory"].as_str().map(PathBuf::from).context("cargo names no target folder")
    }

    pub fn build(&self, plan: &Plan, watch: &mut dyn Watch) -> Result<Artifacts> {
        let mut build = self.command();
        build.args(["build", "--workspace", "--message-format=json-render-diagnostics"]);
        if let Some(target) = self.target {
            build.arg("--target-dir").arg(target);
        }
        if std::io::stderr().is_terminal() {
            build.args(["--color", "always"]);
        }
        // Under `cargo run` and `cargo test` the environment names the package that runs. Some build scripts
        // watch these variables: this cargo would compile them anew, and the next one back again.
        for (name, _) in std::env::vars_os() {
            let watched = |name: &str| {
                ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start))
                    || ["CARGO_CRATE_NAME", "CARGO_BIN_NAME"].contains(&name)
            };
            if name.to_str().is_some_and(watched) {
                build.env_remove(name);
            }
        }
        let mut artifacts = Artifacts::default();
        let mut clock = Clock::new(plan);
        let well = run(&mut build, self.apart, watch, |line, watch| match line {
            Line::Err(line) => watch.said(&line),
            Line::Out(line) => {
                // What a build script or a macro prints is no message.
                let Ok(message) = serde_json::from_str::<Value>(&line) else { return };
                artifacts.note(&message);
                if let Some(progress) = clock.note(&message) {
                    watch.progress(progress);
                }
            }
        })?;
        if !well {
            bail!("`cargo build --workspace` failed in {}", self.workspace.display());
        }
        Ok(artifacts)
    }
}

/// Time left: what is left of the plan, at the pace of what has been compiled so far.
struct Clock {
    waiting: HashMap<(String, String), Vec<f64>>,
    left: f64,
    compiled: f64,
    done: usize,
    total: usize,
    begun: Instant,
}

impl Clock {
    fn new(plan: &Plan) -> Self {
        let mut waiting: HashMap<_, Vec<f64>> = HashMap::new();
        for Unit { package, target, seconds, .. } in &plan.units {
            waiting.entry((package.clone(), target.clone())).or_default().push(*seconds);
        }
        let left = plan.units.iter().map(|unit| unit.seconds).sum();
        Self { waiting, left, compiled: 0.0, done: 0, total: plan.units.len(), begun: Instant::now() }
    }

    /// None for messages that end no unit.
    fn note(&mut self, message: &Value) -> Option<Progress> {
        let package = message["package_id"].as_str()?.to_string();
        let target = match message["reason"].as_str()? {
            "compiler-artifact" => message["target"]["name"].as_str()?.replace('-', "_"),
            "build-script-executed" => "build_script_build".into(),
            _ => return None,
        };
        let seconds = self.waiting.get_mut(&(package, target))?.pop()?;
        self.done += 1;
        self.left -= seconds;
        if message["fresh"] == false {
            self.compiled += seconds;
        }
        // A first crate says little about the pace.
        let pace = match self.compiled > 20.0 {
            true => self.begun.elapsed().as_secs_f64() / self.compiled,
            false => 1.0 / super::plan::cores(),
        };
        let left = (self.compiled > 0.0).then(|| Duration::from_secs_f64((self.left * pace).max(0.0)));
        Some(Progress { done: self.done, total: self.total, left })
    }
}

impl Artifacts {
    fn note(&mut self, message: &Value) {
        match message["reason"].as_str() {
            Some("compiler-artifact") => self.artifact(message),
            Some("build-script-executed") => {
                let paths = message["linked_paths"].as_array().into_iter().flatten();
                for path in paths.filter_map(Value::as_str) {
                    if !self.search.iter().any(|known| known == path) {
                        self.search.push(path.to_string());
                    }
                }
            }
            _ => {}
        }
    }

    fn artifact(&mut self, message: &Value) {
        let name = message["target"]["name"].as_str().unwrap_or_default().replace('-', "_");
        if let Some(executable) = message["executable"].as_str() {
            if name == "attention_kernel" && message["profile"]["test"] == false {
                self.kernel = Some(executable.into());
            }
            return;
        }
        let strings = |field: &str| {
            let strings = message[field].as_array().into_iter().flatten();
            strings.filter_map(Value::as_str).map(String::from).collect::<Vec<_>>()
        };
        let files = strings("filenames");
        let Some(path) = files.iter().find(|f| f.ends_with(".rlib") || f.ends_with(".so")) else { return };
        let package = message["package_id"].as_str().unwrap_or_default();
        let source = message["target"]["src_path"].as_str().map(Path::new).and_then(Path::parent);
        // The project's own crates and burn's: what the facade hands on.
        if let (Some(source), true) = (source, package.starts_with("path+") || name.starts_with("burn")) {
            self.sources.insert(name.clone(), source.into());
        }
        let library = Library { package: package.into(), features: strings("features"), path: path.into() };
        self.crates.entry(name).or_default().push(library);
    }
}

/// Someone at a terminal, or a log: cargo's lines, and below them how far it is.
pub struct Terminal {
    bar: ProgressBar,
    said: Instant,
}

impl Terminal {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("    Building {bar:24} {msg}").expect("a template"));
        Self { bar, said: Instant::now() }
    }
}

impl Watch for Terminal {
    fn said(&mut self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn progress(&mut self, progress: Progress) {
        // Until something is compiled there is nothing to wait for.
        let Some(_) = progress.left else { return };
        // The plan's cargo, which came first, has ended the bar.
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_length(progress.total as u64);
        self.bar.set_position(progress.done as u64);
        self.bar.set_message(progress.to_string());
        if self.bar.is_hidden() && self.said.elapsed() > Duration::from_secs(30) {
            eprintln!("    Building {progress}");
            self.said = Instant::now();
        }
    }

    fn ended(&mut self, _group: i32) {
        self.bar.finish_and_clear();
    }

    fn linking(&mut self, time: Option<Duration>) {
        eprintln!(
            "     Linking the notebook session{}",
            time.map_or(String::new(), |time| format!(", about {}", readable(time)))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_shrinks_with_what_is_done_and_what_was_there_costs_nothing() {
        let unit = |name: &str, seconds| Unit::for_test(name, seconds);
        let plan = Plan { units: vec![unit("a", 10.0), unit("b", 30.0), unit("c", 60.0)], ..Plan::default() };
        let mut clock = Clock::new(&plan);
        let made = |name: &str, fresh: bool| json!({ "reason": "compiler-artifact", "package_id": name, "target": { "name": name }, "fresh": fresh });
        assert_eq!(clock.note(&json!({ "reason": "compiler-message", "package_id": "a" })), None);
        let fresh = clock.note(&made("a", true)).unwrap();
        assert_eq!((fresh.done, fresh.total, fresh.left), (1, 3, None));
        clock.begun -= Duration::from_secs(60);
        let half = clock.note(&made("b", false)).unwrap();
        let left = half.left.unwrap().as_secs_f64();
        assert!((left - 120.0).abs() < 1.0, "30 took 60 s, so 60 take 120: {left}");
        assert_eq!(half.to_string(), "2 of 3, about 2 min left");
        assert_eq!(clock.note(&made("c", false)).unwrap().left.map(|left| left.as_secs()), Some(0));
        assert_eq!(clock.note(&made("c", false)), None, "no unit ends twice");
    }

    #[test]
    fn the_bar_of_a_build_outlives_the_programs_before_it() {
        let mut terminal = Terminal::new();
        terminal.ended(1);
        assert!(terminal.bar.is_finished());
        terminal.progress(Progress { done: 1, total: 3, left: Some(Duration::from_secs(1)) });
        assert!(!terminal.bar.is_finished());
    }

    #[test]
    fn an_estimate_has_few_digits() {
        let readable = |seconds| readable(Duration::from_secs(seconds));
        assert_eq!([0, 7, 31, 100, 740].map(readable), ["1 s", "7 s", "40 s", "2 min", "12 min"]);
    }
}
