//! `cargo lab bench`: how fast a training step, decoding or one operator is on this machine.
//!
//! - `measure`: repetitions until the median is steady
//! - `machine`: what the device reaches when it does nothing else; memory
//! - `model`: the model that is measured, and the work it cannot avoid
//! - `step`, `decode`: what is measured
//! - `op`: one operator alone; `peers`: PyTorch beside it
//! - `notebook`: what a user of the notebook kernel waits for
//! - `report`: one result, for people and as JSON

mod decode;
mod machine;
mod measure;
mod model;
mod notebook;
mod op;
mod peers;
mod report;
mod step;

use anyhow::Result;
use attention::kernels;
use burn::tensor::Device;
use machine::{Machine, Memory};
use model::{ModelArguments, Work};
use report::{Report, implementations};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Duration;

/// Measure how fast this machine trains and decodes.
///
/// The median of repetitions, until it is steady to 1 %, with both quartiles; tokens per second; what the
/// work comes to per second, counted as the least that has to be computed (FLOP of matrix products) and
/// moved (bytes), as a share of what a product of 1024³ and a sum of long arrays reach at the
/// beginning of the same run; the most memory; and which implementation of each operator ran.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A training step: forward, backward, clipping, AdamW
    Step(ModelRun),
    /// Decoding after a context, greedily
    Decode(ModelRun),
    /// One operator alone, in its fast form and as its reference
    Op(op::Arguments),
    /// Steps and decoding beside PyTorch's, by turns, as a table (on the CPU)
    Peers(peers::Arguments),
    /// What a notebook's user waits for: the kernel, the first cell, small and large ones
    Notebook(notebook::Arguments),
}

#[derive(clap::Args)]
struct ModelRun {
    #[command(flatten)]
    model: ModelArguments,
    /// Tokens per sequence; of the context while decoding [default: 256; decode: 512]
    #[arg(long)]
    seq: Option<usize>,
    /// Sequences [default: 8; decode: 1]
    #[arg(long)]
    batch: Option<usize>,
    #[command(flatten)]
    common: Common,
    /// Repeats as often as each line on standard input says, and answers it with a line of JSON
    #[arg(long, hide = true)]
    follow: bool,
}

/// Options of everything that is measured.
#[derive(clap::Args)]
struct Common {
    /// cpu or cuda:N [default: as ATTENTION_DEVICE says, else CUDA where driver, NVRTC and headers are found]
    #[arg(long)]
    device: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Repeat at most this long, where the median does not get steady
    #[arg(long, default_value = "20", value_name = "SECONDS", value_parser = seconds)]
    longest: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let found = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    found.ok_or_else(|| "expected seconds, 0 or more".into())
}

/// What is measured.
struct Bench {
    parameters: usize,
    /// Tokens of one repetition.
    tokens: usize,
    work: Work,
    /// One repetition, and the seconds that count.
    run: Box<dyn FnMut() -> Result<f64>>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Step(run) => run.measure("step", step::bench, [8, 256]),
        What::Decode(run) => run.measure("decode", decode::bench, [1, 512]),
        What::Op(arguments) => op::run(&arguments),
        What::Peers(arguments) => peers::run(&arguments),
        What::Notebook(arguments) => notebook::run(&arguments),
    }
}

impl ModelRun {
    fn measure(
        &self,
        what: &str,
        bench: fn(&ModelArguments, [usize; 2], &Device) -> Result<Bench>,
        [batch, seq]: [usize; 2],
    ) -> Result<()> {
        let shape = [self.batch.unwrap_or(batch), self.seq.unwrap_or(seq)];
        let device = self.common.device()?;
        if self.follow {
            return follow(|| bench(&self.model, shape, &device), &device);
        }
        eprintln!("device: {}", lab::describe(&device));
        let machine = Machine::measured(&device)?;
        let memory = Memory::begin(&device);
        let Bench { parameters, tokens, work, mut run } = bench(&self.model, shape, &device)?;
        let (first, ran) = kernels::trace(&mut run);
        first?;
        let timing = measure::measure(self.common.longest, run)?;
        let ModelArguments { mixer, d_model, layers, heads, ffn, vocab, precision } = &self.model;
        let [batch, seq] = shape;
        let sizes = json!({
            "mixer": mixer, "d_model": d_model, "layers": layers, "heads": heads, "ffn": ffn, "vocab": vocab,
            "parameters": parameters, "batch": batch, "seq": seq, "precision": precision,
        });
        self.common.show(&Report {
            what: what.into(),
            sizes,
            timing,
            tokens,
            work,
            machine,
            memory: memory.end(),
            ran,
        });
        Ok(())
    }
}

impl Common {
    fn device(&self) -> Result<Device> {
        Ok(lab::device::named(self.device.as_deref())?)
    }

    fn show(&self, report: &Report) {
        match self.json {
            true => println!("{:#}", report.json()),
            false => println!("{report}"),
        }
    }
}

/// The protocol by which two programs take turns (`peers`, `torch_peer.py`): one line about the model;
/// then for every line read, a number, as many repetitions and a line with their durations; at the end
/// one about memory.
fn follow(bench: impl FnOnce() -> Result<Bench>, device: &Device) -> Result<()> {
    let memory = Memory::begin(device);
    let Bench { parameters, mut run, .. } = bench()?;
    let (first, ran) = kernels::trace(&mut run);
    first?;
    run()?;
    let say = |answer: Value| -> Result<()> {
        println!("{answer}");
        Ok(std::io::stdout().flush()?)
    };
    say(
        json!({ "parameters": parameters, "device": lab::describe(device), "implementations": implementations(&ran) }),
    )?;
    for line in std::io::stdin().lock().lines() {
        let repetitions: usize = line?.trim().parse()?;
        let seconds = (0..repetitions).map(|_| run()).collect::<Result<Vec<f64>>>()?;
        say(json!({ "ms": seconds.iter().map(|s| s * 1e3).collect::<Vec<_>>() }))?;
    }
    let (base, peak) = memory.end();
    say(json!({ "base_bytes": base, "peak_bytes": peak }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    #[test]
    fn a_time_is_seconds_from_0_on() {
        let command = || Arguments::augment_args(clap::Command::new("bench"));
        for line in ["step --longest", "op rope --longest", "notebook --pause"] {
            let parsed = |value: &str| command().try_get_matches_from(format!("bench {line}={value}").split(' '));
            assert!(parsed("0").is_ok() && parsed("0.5").is_ok(), "{line}");
            for wrong in ["inf", "nan", "-1", "1e300", "soon"] {
                let message = parsed(wrong).unwrap_err().to_string();
                assert!(message.contains(wrong) && message.contains("expected seconds, 0 or more"), "{message}");
            }
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
