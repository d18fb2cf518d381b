//! `cargo lab doctor`: what this machine and this build can do, and where things are.

use crate::environment::{self, Environment};
use crate::root::root;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Show the device, the build and where things are.
#[derive(clap::Args)]
pub struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let report = report(&root()?);
    if arguments.json {
        println!("{report:#}");
        return Ok(());
    }
    for name in ["device", "memory", "cuda", "kernels", "backends", "threads", "simd", "rust", "notebook", "folders"] {
        match &report[name] {
            Value::Object(parts) if name == "kernels" => {
                println!("{name}");
                for (state, operators) in by_state(parts) {
                    println!("  {state}:\n    {}", operators.join(", "));
                }
            }
            Value::Object(parts) => {
                println!("{name}");
                parts.iter().for_each(|(part, value)| println!("  {part:<12} {}", words(value)));
            }
            value => println!("{name:<14} {}", words(value)),
        }
    }
    Ok(())
}

/// `device: cuda:0, NVIDIA H200`, the first line of every command that computes.
pub fn device_line() -> Result<String> {
    let device = lab::device()?;
    Ok(format!("device: {}", lab::describe(&device)))
}

fn report(root: &Path) -> Value {
    // Before the table of kernels is looked at, for which CubeCL configures itself.
    let compiled = compiled();
    let environment = Environment::new(root);
    let kernel = environment.prefix().join("share/jupyter/kernels").join(crate::notebook::KERNEL).join("kernel.json");
    let python = environment::python_found().unwrap_or_else(|error| error.to_string());
    json!({
        "device": device_line().map_or_else(|error| error.to_string(), |line| line.replace("device: ", "")),
        "memory": lab::device().map_or_else(|error| error.to_string(), |device| lab::heap::describe(&device)),
        "cuda": lab::device::cuda_devices().map_or_else(|reason| format!("not used: {reason}"), |names| names.join(", ")),
        "kernels": kernels(),
        "backends": ["flex (CPU)", "cuda (kernels compiled by NVRTC at run time)"],
        "threads": std::thread::available_parallelism().map_or(1, |n| n.get()),
        "simd": simd(),
        "rust": { "pinned": pinned(root), "found": rustc(root).unwrap_or_else(|error| format!("{error:#}")) },
        "notebook": {
            "python": python,
            "environment": state(environment.ready(), &environment.prefix(), "not made yet, or out of date"),
            "kernel": state(kernel.is_file(), &kernel, "not installed yet"),
        },
        "folders": {
            "project": root,
            "target": target(),
            "runs": root.join("runs"),
            "cache": root.join(".attention"),
            "hub": hub::Repository::new(hub::Kind::Model, "").cache,
            "compiled": compiled,
        },
    })
}

/// Whether CUDA kernels of our own run on this device, by operator.
fn kernels() -> Value {
    use attention::kernels::cuda;
    if let Err(error) = cuda::Setting::of_environment() {
        return json!(error);
    }
    let card = lab::device().ok().and_then(|device| cuda::card(&device));
    let state = |operator: &str| match &card {
        None => {
            let cards: Vec<String> =
                cuda::record().into_iter().filter(|row| row.operator == operator).map(|row| row.card).collect();
            match &cards[..] {
                [] => format!(
                    "on a GPU the reference runs until its CUDA kernels pass selftest there; {}=1 tries them",
                    cuda::VARIABLE
                ),
                cards => format!("passed selftest on {}", cards.join(", ")),
            }
        }
        Some(card) => match cuda::state(operator, card) {
            Ok(()) => "CUDA kernels run".into(),
            Err(because) => format!("the reference runs: {because}"),
        },
    };
    cuda::operators()
        .map(|operator| (operator.to_string(), json!(state(operator))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The file that CUDA kernels are kept in once they are compiled, with the tuner's choices.
fn compiled() -> String {
    match attention::kernels::cuda::keep_compiled() {
        Ok(file) if file.exists() => {
            let (entries, bytes) = attention::kernels::cuda::kept();
            format!("{} ({entries} kernels and choices, {:.1} MB)", file.display(), bytes as f64 / 1e6)
        }
        Ok(file) => format!("{} (nothing yet)", file.display()),
        Err(reason) => format!("CUDA kernels are compiled anew by every process: {reason}"),
    }
}

/// What is said of operators, with those of which it is said.
fn by_state(kernels: &serde_json::Map<String, Value>) -> BTreeMap<String, Vec<&str>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for (operator, state) in kernels {
        found.entry(words(state)).or_default().push(operator.as_str());
    }
    found
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}

fn state(there: bool, path: &Path, missing: &str) -> String {
    if there { path.display().to_string() } else { format!("{missing}; `cargo lab notebook` makes {}", path.display()) }
}

/// The instruction sets that this processor has and that numeric code uses.
fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

fn pinned(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("rust-toolchain.toml")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("channel"));
    line.map_or("not pinned".into(), |line| line.trim_matches([' ', '=', '"']).to_string())
}

fn rustc(root: &Path) -> Result<String> {
    let output = Command::new("rustc").arg("--version").current_dir(root).output().context("rustc does not run")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// `target/debug/lab` is this program.
fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(2).unwrap_or(Path::new("")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_device_compiler_and_folders() {
        let root = root().unwrap();
        let report = report(&root);
        assert_eq!(report["rust"]["pinned"], "1.95.0");
        assert!(report["rust"]["found"].as_str().unwrap().contains("1.95.0"), "{report:#}");
        assert!(!report["device"].as_str().unwrap().is_empty());
        for operator in attention::kernels::cuda::operators() {
            assert!(!report["kernels"][operator].as_str().unwrap().is_empty(), "{report:#}");
        }
        assert_eq!(report["folders"]["project"], root.to_str().unwrap());
    }
}
