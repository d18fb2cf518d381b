//! One operator alone: forwards, and forwards and backwards, in its fast form and as its reference.

mod calls;

use super::Common;
use super::machine::{Machine, Memory};
use super::measure::measure;
use super::model::Work;
use super::report::Report;
use anyhow::{Result, bail};
use attention::kernels;
use attention::kernels::selftest::Case;
use burn::tensor::{DType, Device, Tensor};
use calls::{Call, OPERATORS};
use serde_json::json;
use std::hint::black_box;
use std::time::Instant;

/// What all operators take their shapes from.
#[derive(clap::Args)]
pub struct Arguments {
    /// The operator; an unknown one is answered with the valid ones
    name: String,
    #[arg(long, default_value_t = 256)]
    d_model: usize,
    /// Heads of d_model / heads channels
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Width of a feed-forward network
    #[arg(long, default_value_t = 688)]
    ffn: usize,
    #[arg(long, default_value_t = 256)]
    vocab: usize,
    #[arg(long, default_value_t = 256)]
    seq: usize,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// f32, f64 or bf16
    #[arg(long, default_value = "f32", value_parser = dtype)]
    dtype: DType,
    #[command(flatten)]
    common: Common,
}

fn dtype(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "f64" => Ok(DType::F64),
        "bf16" => Ok(DType::BF16),
        _ => Err("valid: f32, f64, bf16".into()),
    }
}

impl Arguments {
    fn call(&self) -> Result<Call> {
        let Some((_, call)) = OPERATORS.iter().find(|(name, _)| *name == self.name) else {
            let valid: Vec<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
            bail!("unknown operator `{}`; valid: {}", self.name, valid.join(", "));
        };
        let Self { heads, ffn, vocab, seq, batch, .. } = *self;
        for (name, size) in [("heads", heads), ("ffn", ffn), ("vocab", vocab), ("seq", seq), ("batch", batch)] {
            if size == 0 {
                bail!("--{name} must be at least 1, got 0");
            }
        }
        if !self.d_model.is_multiple_of(2 * self.heads) || self.d_model == 0 || !self.heads.is_multiple_of(2) {
            bail!(
                "--d-model {} and --heads {}: an even number of heads of an even width is needed",
                self.d_model,
                self.heads
            );
        }
        Ok(call(self))
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = arguments.common.device()?;
    eprintln!("device: {}", lab::describe(&device));
    // As a training step runs.
    if device == Device::flex() {
        kernels::in_pool(|| compare(arguments, &device))
    } else {
        compare(arguments, &device)
    }
}

fn compare(arguments: &Arguments, device: &Device) -> Result<()> {
    let Call { case, flops, moved, trains } = arguments.call()?;
    let machine = Machine::measured(device)?;
    let longest = arguments.common.longest;
    let Arguments { name, d_model, heads, ffn, vocab, seq, batch, dtype, .. } = arguments;
    let precision = format!("{dtype:?}").to_lowercase();
    let sizes = json!({
        "d_model": d_model, "heads": heads, "ffn": ffn, "vocab": vocab, "seq": seq, "batch": batch, "dtype": precision,
    });
    let parts = [("forward", false), ("forward and backward", true)];
    let mut compared = Vec::new();
    for (part, backward) in parts.into_iter().take(if trains { 2 } else { 1 }) {
        let report = |form, reference| {
            let memory = Memory::begin(device);
            let run = || once(&case, device, *dtype, backward);
            let run = || if reference { kernels::by_reference(run) } else { run() };
            let (first, ran) = kernels::trace(run);
            let times = if backward { 2.0 } else { 1.0 };
            let bytes = (moved.unwrap_or(first?.elements) * dtype.size()) as f64;
            let timing = measure(longest, || Ok(run()?.seconds))?;
            anyhow::Ok(Report {
                what: format!("{name}, {form}, {part}"),
                sizes: sizes.clone(),
                timing,
                tokens: batch * seq,
                // A backward has two products for each of the forward, and a gradient for what comes in and goes out.
                work: Work {
                    flops: flops.map(|flops| if backward { 3.0 * flops } else { flops }),
                    bytes: times * bytes,
                },
                machine,
                memory: memory.end(),
                ran,
            })
        };
        compared.push((part, report("as chosen here", false)?, report("reference", true)?));
    }
    show(&compared, arguments.common.json);
    Ok(())
}

struct Once {
    seconds: f64,
    /// Numbers of the inputs and of the output.
    elements: usize,
}

fn once(case: &Case, device: &Device, dtype: DType, backward: bool) -> Result<Once> {
    let device = if backward { device.clone().autodiff() } else { device.clone() };
    let inputs = case.inputs(&device, dtype);
    device.sync()?;
    let started = Instant::now();
    let output: Tensor<1> = black_box(case.run(&inputs));
    let elements = output.dims()[0] + inputs.elements();
    if backward {
        drop(black_box(output.sum().backward()));
    }
    device.sync()?;
    Ok(Once { seconds: started.elapsed().as_secs_f64(), elements })
}

/// In JSON the largest part in its fast form, and the others inside it.
fn show(compared: &[(&str, Report, Report)], json: bool) {
    if !json {
        for (_, fast, reference) in compared {
            println!("{fast}\n{reference}");
        }
        for (part, fast, reference) in compared {
            let ratio = reference.timing.median() / fast.timing.median();
            println!("{part}, the reference takes {ratio:.2} times as long");
        }
        return;
    }
    let mut all = compared.iter().map(|(_, fast, reference)| (fast.json(), reference.json()));
    let (mut value, mut reference) = all.next().expect("a forward");
    if let Some(both) = all.next() {
        let forward = (std::mem::replace(&mut value, both.0), std::mem::replace(&mut reference, both.1));
        (value["forward"], reference["forward"]) = forward;
    }
    value["reference"] = reference;
    println!("{value:#}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Arguments {
        Line::try_parse_from(["op"].into_iter().chain(line.split(' '))).unwrap().arguments
    }

    #[test]
    fn every_operator_runs_under_its_name() {
        for (name, _) in OPERATORS {
            let arguments = parsed(&format!("{name} --d-model 8 --heads 2 --seq 5 --batch 2"));
            let call = arguments.call().unwrap();
            let (once, ran) = kernels::trace(|| once(&call.case, &Device::flex(), DType::F32, call.trains).unwrap());
            assert!(once.elements > 0 && ran.iter().any(|ran| ran.operator == *name), "{name} ran {ran:?}");
        }
    }

    #[test]
    fn every_operator_of_the_selftest_can_be_measured() {
        let known: BTreeSet<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
        let all: BTreeSet<&str> = kernels::selftest::cases().iter().map(|case| case.operator).collect();
        assert_eq!(known, all);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        let refused = |line: &str| parsed(line).call().err().expect("refused").to_string();
        let message = refused("softmax");
        assert!(message.contains("`softmax`") && OPERATORS.iter().all(|(name, _)| message.contains(name)), "{message}");
        let line = "op short_conv --dtype f16".split(' ');
        assert!(Line::try_parse_from(line).err().expect("refused").to_string().contains("bf16"));
        assert!(refused("short_conv --seq 0").contains("--seq"));
        assert!(refused("short_conv --heads 3 --d-model 9").contains("--heads 3"));
    }
}
