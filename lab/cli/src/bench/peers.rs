//! Ours and PyTorch's, measured by turns in one run.
//!
//! Each side is a process of its own that repeats when it is told to ([`super::follow`],
//! `kernels/compute/benches/torch_peer.py`): both see the same machine in the same minute, and what
//! disturbs one disturbs the other.

use super::measure::Timing;
use crate::root::root;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

#[derive(clap::Args)]
pub struct Arguments {
    /// The Python that has what the head of kernels/compute/benches/torch_peer.py names
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: PathBuf,
    /// Rows whose name holds this
    #[arg(long, default_value = "", value_name = "TEXT")]
    only: String,
    /// Turns of each side
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Another build of this program to be measured in its place
    #[arg(long, value_name = "PROGRAM")]
    ours: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A line of the table.
struct Row {
    name: &'static str,
    ours: &'static str,
    theirs: &'static str,
    /// How often the peer's number is to be ours.
    target: f64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Milliseconds of a step; so many a turn.
    Time(usize),
    /// The most memory above what the process had before its model.
    Memory,
}

const STEPS: Kind = Kind::Time(3);
/// Each writes 64 tokens.
const TEXTS: Kind = Kind::Time(4);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("step, softmax; PyTorch", "step", "step plain", 1.5, STEPS),
    row("step, hybrid; Qwen3-Next of Hugging Face", "step --mixer hybrid", "step qwen3-next", 2.0, STEPS),
    row("step, DIFF V1; DiffLlama of Hugging Face", "step --mixer differential", "step diffllama", 1.5, STEPS),
    row("decode a token after 512, softmax; Qwen3 of Hugging Face", "decode",
        "decode qwen3 --seq 512 --batch 1", 5.0, TEXTS),
    row("decode a token after 512, DIFF V1; DiffLlama of Hugging Face", "decode --mixer differential",
        "decode diffllama --seq 512 --batch 1", 5.0, TEXTS),
    row("decode a token after 512, hybrid; Qwen3-Next of Hugging Face", "decode --mixer hybrid",
        "decode qwen3-next --seq 512 --batch 1", 5.0, TEXTS),
    row("memory of a step, 1 × 2048, softmax; PyTorch", "step --seq 2048 --batch 1",
        "step plain --seq 2048 --batch 1", 1.0, Kind::Memory),
    row("memory of a step, 1 × 4096, softmax; PyTorch", "step --seq 4096 --batch 1",
        "step plain --seq 4096 --batch 1", 1.0, Kind::Memory),
];

const fn row(name: &'static str, ours: &'static str, theirs: &'static str, target: f64, kind: Kind) -> Row {
    Row { name, ours, theirs, target, kind }
}

/// What both sides did.
struct Outcome {
    /// Milliseconds or MiB.
    ours: Timing,
    theirs: Timing,
    /// Theirs over ours, of each round.
    ratios: Timing,
    implementations: Value,
    versions: Value,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(&arguments.only)).collect();
    if rows.is_empty() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("no row holds `{}`; the rows: {}", arguments.only, names.join(" · "));
    }
    if arguments.rounds == 0 || arguments.threads == 0 {
        bail!("--rounds {} and --threads {} must be at least 1", arguments.rounds, arguments.threads);
    }
    let mut answers = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let outcome = outcome(row, arguments).with_context(|| format!("cannot measure `{}`", row.name))?;
        answers.push(outcome.json(row));
        if !arguments.json {
            if number == 0 {
                println!("{} threads; {}", arguments.threads, outcome.versions.as_str().unwrap_or_default());
                println!("| | ours | peer | ratio (quartiles) | target | ran |\n|---|---|---|---|---|---|");
            }
            println!("{}", outcome.line(row));
        }
    }
    if arguments.json {
        println!("{:#}", Value::Array(answers));
    }
    Ok(())
}

fn outcome(row: &Row, arguments: &Arguments) -> Result<Outcome> {
    let threads = arguments.threads.to_string();
    let mut ours = Command::new(arguments.ours.clone().map_or_else(std::env::current_exe, Ok)?);
    ours.arg("bench")
        .args(row.ours.split(' '))
        .args(["--follow", "--device", "cpu"])
        .env("RAYON_NUM_THREADS", &threads);
    let mut theirs = Command::new(&arguments.python);
    theirs.arg(root()?.join("kernels/compute/benches/torch_peer.py")).args(row.theirs.split(' '));
    theirs.args(["--threads", &threads]).env("OMP_NUM_THREADS", &threads);
    let (mut ours, mut theirs) = (Side::start(ours)?, Side::start(theirs)?);
    let parameters = [&ours, &theirs].map(|side| side.about["parameters"].as_f64().unwrap_or(f64::NAN));
    let apart = (parameters[0] / parameters[1] - 1.0).abs();
    if apart.is_nan() || apart > 0.01 {
        bail!("the models are not of one size: {} parameters, and {} of the peer", parameters[0], parameters[1]);
    }
    let mut numbers = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    let (rounds, repetitions) = match row.kind {
        Kind::Time(repetitions) => (arguments.rounds, repetitions),
        Kind::Memory => (1, 1),
    };
    for round in 0..rounds {
        let mut turn = [Vec::new(), Vec::new()];
        // Who begins changes, so that a drift favours nobody.
        for side in [round % 2, 1 - round % 2] {
            turn[side] = [&mut ours, &mut theirs][side].repeat(repetitions)?;
        }
        let [a, b] = turn.each_ref().map(|turn| Timing::new(turn.clone()).median());
        ratios.push(b / a);
        numbers.iter_mut().zip(turn).for_each(|(all, turn)| all.extend(turn));
    }
    let (implementations, versions) = (ours.about["implementations"].clone(), theirs.about["versions"].clone());
    let memory = [ours.end()?, theirs.end()?];
    if row.kind == Kind::Memory {
        numbers = memory.map(|mib| vec![mib]);
        ratios = vec![memory[1] / memory[0]];
    }
    let [ours, theirs] = numbers.map(Timing::new);
    Ok(Outcome { ours, theirs, ratios: Timing::new(ratios), implementations, versions })
}

impl Outcome {
    fn line(&self, row: &Row) -> String {
        let unit = if row.kind == Kind::Memory { "MiB" } else { "ms" };
        let number = |t: &Timing| match t.median() {
            small if small < 10.0 => format!("{small:.3} {unit}"),
            large => format!("{large:.1} {unit}"),
        };
        let [low, high] = self.ratios.quartiles();
        let spread = if row.kind == Kind::Memory { String::new() } else { format!(" ({low:.2} to {high:.2})") };
        let ran = self.implementations.as_object().into_iter().flatten();
        let ran: Vec<String> = ran.map(|(name, how)| format!("{name}: {}", how.as_str().unwrap_or_default())).collect();
        format!(
            "| {} | {} | {} | {:.2}{spread} | {} | {} |",
            row.name,
            number(&self.ours),
            number(&self.theirs),
            self.ratios.median(),
            row.target,
            ran.join(", ")
        )
    }

    fn json(&self, row: &Row) -> Value {
        let unit = if row.kind == Kind::Memory { "mib" } else { "ms" };
        json!({
            "name": row.name, "unit": unit, "ours": self.ours.median(), "peer": self.theirs.median(),
            "ours_quartiles": self.ours.quartiles(), "peer_quartiles": self.theirs.quartiles(),
            "ratio": self.ratios.median(), "ratio_quartiles": self.ratios.quartiles(), "target": row.target,
            "implementations": self.implementations, "versions": self.versions,
        })
    }
}

/// One of the two processes.
struct Side {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
    /// Its first line.
    about: Value,
    program: String,
}

impl Side {
    fn start(mut command: Command) -> Result<Self> {
        let program = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let answers = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut side = Self { child, answers, about: Value::Null, program };
        side.about = side.answer()?;
        Ok(side)
    }

    /// Milliseconds of each repetition.
    fn repeat(&mut self, repetitions: usize) -> Result<Vec<f64>> {
        let input = self.child.stdin.as_mut().expect("it is open until the end");
        writeln!(input, "{repetitions}")?;
        Ok(serde_json::from_value(self.answer()?["ms"].take())?)
    }

    /// Its memory in MiB, above what it had before its model.
    fn end(mut self) -> Result<f64> {
        drop(self.child.stdin.take());
        let memory = self.answer()?;
        self.child.wait()?;
        let [peak, base] = ["peak_bytes", "base_bytes"].map(|name| memory[name].as_f64().unwrap_or(f64::NAN));
        Ok((peak - base) / f64::from(1 << 20))
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.answers.next().with_context(|| format!("it ended early: {}", self.program))??;
        serde_json::from_str(&line).with_context(|| format!("{} wrote `{line}`", self.program))
    }
}

impl Drop for Side {
    /// A side whose partner failed does not go on.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
