//! How long a notebook's user waits: for the kernel, for the first cell, for small cells and large ones.

use super::measure::Timing;
use crate::environment::Environment;
use crate::root::root;
use anyhow::{Context, Result, bail};
use jupyter_kernel::client::{Client, Spec};
use jupyter_kernel::{InstallOptions, install};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// Kernels started one after the other; every cell runs once in each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The time between cells, in which a reader reads
    #[arg(long, default_value = "0.5", value_name = "SECONDS", value_parser = super::seconds)]
    pause: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What is timed, in this order. The first is the first of every notebook; its time stands apart.
/// The last defines a mixer, makes a model of it and trains it for a step.
const CELLS: [&str; 17] = [
    "use attention::prelude::*;\nlet device = burn::tensor::Device::flex();",
    "let x = Tensor::<2>::ones([4, 8], &device);",
    "println!(\"{x}\");",
    "1 + 1",
    "let y = x.clone().matmul(x.clone().transpose());",
    "y.dims()",
    "let total = y.clone().sum().into_scalar::<f32>();",
    "total",
    "let names = vec![(\"a\", 1.5f32), (\"b\", 2.0)];",
    "names.iter().map(|(name, v)| format!(\"{name}{v}\")).collect::<Vec<_>>()",
    "fn twice(v: f32) -> f32 { 2.0 * v }",
    "twice(total)",
    "#[derive(Module, Debug)]\nstruct Head { q: burn::nn::Linear, k: burn::nn::Linear }\nimpl Head {\n    \
     fn scores(&self, x: Tensor<3>) -> Tensor<3> { self.q.forward(x.clone()).matmul(self.k.forward(x).swap_dims(1, 2)) }\n}",
    "let model = preset(\"baseline\", \"nano\")?.init(0, &device)?;",
    "model.num_params()",
    "let train = TrainConfig { steps: 1, warmup: 1, eval_every: 0, eval_batches: 1, \
     ..TrainConfig::new(\"mixer\", preset(\"baseline\", \"nano\")?) };\nlet data = train.data.open()?;",
    "#[derive(Module, Debug)]\nstruct RunningMean { proj: Linear }\nimpl Mixer for RunningMean {\n    \
     fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {\n        let time = x.dims()[1];\n        \
     let counts = Tensor::<1, Int>::arange(1..time as i64 + 1, &x.device()).float().reshape([1, time, 1]);\n        \
     tap.at(\"out\", self.proj.forward(x.cumsum(1) / counts))\n    }\n}\n\
     let width = train.model.d_model;\nlet mixers = Decoder::with_mixers(&train.model, 0, &device.clone().autodiff(), \
     |_, init| RunningMean { proj: Linear::residual(width, width, init) })?;\n\
     let run = Trainer::new(train.clone(), mixers, data.clone())?.quiet().run()?;",
];

/// What a kernel took, in seconds.
struct Waits {
    name: String,
    ready: Timing,
    /// Of what the kernel needs before the first cell, where it needs something.
    before: Option<Timing>,
    cells: Vec<Timing>,
}

impl Waits {
    fn small(&self) -> Timing {
        Timing::new(self.cells[1..CELLS.len() - 1].iter().map(Timing::median).collect())
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.rounds == 0 {
        bail!("--rounds is 0, expected at least 1");
    }
    let root = root()?;
    let prefix = Environment::new(&root).prefix();
    let installed = install(&InstallOptions { workspace: root.clone(), prefix }).context("cannot make the kernel")?;
    let mut kernels = vec![(Spec::load(&installed.kernelspec)?, None)];
    match evcxr() {
        Some(program) => {
            let home = std::env::temp_dir().join("attention-evcxr");
            kernels.push((
                stock(&program, &home, &root)?,
                Some(format!(":dep attention = {{ path = {:?} }}", home.join("dylib"))),
            ));
        }
        None => eprintln!("evcxr_jupyter is not installed; this kernel alone"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Vec::new();
    for (spec, before) in &kernels {
        eprintln!("{}", spec.display_name);
        all.push(runtime.block_on(waits(spec, &root, before.as_deref(), arguments.rounds, arguments.pause))?);
    }
    runtime.shutdown_background();
    if arguments.json {
        println!("{:#}", json(&all))
    } else {
        print!("{}", table(&all))
    }
    Ok(())
}

/// evcxr's own kernel, where it is installed.
fn evcxr() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join("evcxr_jupyter")).find(|path| path.is_file())
}

/// evcxr with everything in one dylib, as our kernel has it, in a folder that stays: the first start there compiles
/// everything once more (a quarter of an hour), the others find it compiled. It must lie outside the workspace,
/// which evcxr's own package is no member of.
fn stock(program: &Path, home: &Path, root: &Path) -> Result<Spec> {
    let manifest = format!(
        "[package]\nname = \"attention\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"dylib\"]\n\n\
         [dependencies]\nfacade = {{ package = \"attention\", path = {root:?} }}\n\n[workspace]\n"
    );
    let patch = format!("[patch.crates-io]\ncubecl-llvm = {{ path = {:?} }}\n", root.join("vendor/cubecl-llvm"));
    for (file, text) in [
        ("dylib/Cargo.toml", manifest.as_str()),
        ("dylib/src/lib.rs", "pub use facade::*;\n"),
        (".cargo/config.toml", &patch),
    ] {
        let path = home.join(file);
        // Left alone where it is as it should be: cargo goes by the time of a file.
        if !std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            std::fs::create_dir_all(path.parent().expect("a file"))?;
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    std::fs::create_dir_all(home.join("session"))?;
    let argv = vec![program.display().to_string(), "--control_file".into(), "{connection_file}".into()];
    let (display_name, language, interrupt_mode) = ("evcxr_jupyter".into(), "rust".into(), Some("message".into()));
    let env = [("EVCXR_TMPDIR".to_string(), home.join("session").display().to_string())].into();
    Ok(Spec { argv, display_name, language, interrupt_mode, env })
}

async fn waits(spec: &Spec, root: &Path, before: Option<&str>, rounds: usize, pause: Duration) -> Result<Waits> {
    let (mut ready, mut prepared, mut cells) = (Vec::new(), Vec::new(), vec![Vec::new(); CELLS.len()]);
    for _ in 0..rounds {
        let mut client = Client::start(spec, root, &[("ATTENTION_ROOT", root)]).await?;
        ready.push(client.ready.as_secs_f64());
        if let Some(code) = before {
            prepared.push(timed(&mut client, code).await?);
        }
        for (code, times) in CELLS.iter().zip(&mut cells) {
            tokio::time::sleep(pause).await;
            times.push(timed(&mut client, code).await?);
        }
        client.shutdown().await?;
    }
    let before = before.map(|_| Timing::new(prepared));
    let cells = cells.into_iter().map(Timing::new).collect();
    Ok(Waits { name: spec.display_name.clone(), ready: Timing::new(ready), before, cells })
}

/// Seconds from a request until the kernel is idle again, all outputs read.
async fn timed(client: &mut Client, code: &str) -> Result<f64> {
    let begun = Instant::now();
    let id = client.execute(code).await?;
    let mut error = None;
    loop {
        let message = client.published(&id).await?;
        let content = serde_json::to_value(&message)?;
        match message.message_type() {
            "error" => error = Some(content["evalue"].to_string()),
            "status" if content["execution_state"] == "idle" => break,
            _ => {}
        }
    }
    client.reply().await?;
    match error {
        Some(error) => bail!("a cell of the benchmark failed: {error}\n{code}"),
        None => Ok(begun.elapsed().as_secs_f64()),
    }
}

/// Name and time of what stands in the summary.
fn summary(waits: &Waits) -> [(&'static str, f64); 4] {
    let before = waits.before.as_ref().map_or(0.0, Timing::median);
    [
        ("ready", waits.ready.median() + before),
        ("first cell", waits.cells[0].median()),
        ("median of the others", waits.small().median()),
        ("a new mixer, and a step of its training", waits.cells[CELLS.len() - 1].median()),
    ]
}

fn json(all: &[Waits]) -> Value {
    let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
    let kernel = |waits: &Waits| {
        let cells = CELLS.iter().zip(&waits.cells);
        let cells: Vec<Value> = cells.map(|(code, t)| json!({ "code": code, "median_ms": ms(t.median()) })).collect();
        let [ready, first, others, mixer] = summary(waits).map(|(_, seconds)| ms(seconds));
        let rounds = waits.ready.repetitions();
        json!({
            "kernel": waits.name, "rounds": rounds, "ready_ms": ready, "first_ms": first, "others_ms": others, "mixer_ms": mixer, "cells": cells,
        })
    };
    let kernels: Vec<Value> = all.iter().map(kernel).collect();
    let ratios = all.get(1).map(|other| {
        let [ready, first, others, mixer] = ratios(&all[0], other);
        json!({ "ready": ready, "first": first, "others": others, "mixer": mixer })
    });
    json!({ "what": "notebook", "kernels": kernels, "ratios": ratios })
}

/// How many times as long the other kernel takes.
fn ratios(own: &Waits, other: &Waits) -> [f64; 4] {
    let (own, other) = (summary(own), summary(other));
    std::array::from_fn(|i| other[i].1 / own[i].1)
}

fn table(all: &[Waits]) -> String {
    let mut text = String::new();
    for waits in all {
        text += &format!("{} (medians of {} kernels)\n", waits.name, waits.ready.repetitions());
        for (code, timing) in CELLS.iter().zip(&waits.cells) {
            let line: String = code.lines().next().unwrap_or_default().chars().take(72).collect();
            text += &format!("  {:>8.0} ms  {line}\n", timing.median() * 1e3);
        }
        for (name, seconds) in summary(waits) {
            text += &format!("  {:>8.0} ms  — {name}\n", seconds * 1e3);
        }
    }
    if let [own, other] = all {
        let [ready, first, others, mixer] = ratios(own, other);
        text += &format!(
            "{} takes {ready:.1} times as long to be ready, {first:.1} for the first cell, {others:.1} for the others, \
             {mixer:.1} for a new mixer\n",
            other.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_leaves_the_first_cell_out_and_counts_what_a_kernel_needs_before_it() {
        let timing = |seconds: f64| Timing::new(vec![seconds]);
        let waits = |name: &str, before: Option<f64>, cell: f64| Waits {
            name: name.into(),
            ready: timing(0.5),
            before: before.map(timing),
            cells: [9.0].into_iter().chain([cell; CELLS.len() - 2]).chain([8.0]).map(timing).collect(),
        };
        let all = [waits("own", None, 0.25), waits("other", Some(19.5), 1.0)];
        assert_eq!(ratios(&all[0], &all[1]), [40.0, 1.0, 4.0, 1.0]);
        let json = json(&all);
        assert_eq!((&json["kernels"][0]["others_ms"], &json["ratios"]["ready"]), (&json!(250.0), &json!(40.0)));
        assert!(table(&all).contains("40.0 times as long to be ready, 1.0 for the first cell, 4.0"));
    }
}
