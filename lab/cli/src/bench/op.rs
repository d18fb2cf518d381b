//! One operator alone: forwards, and forwards and backwards, in its fast form and as its reference.

use super::Common;
use super::machine::{Machine, Memory};
use super::measure::measure;
use super::model::Work;
use super::report::Report;
use anyhow::{Result, bail};
use attention::kernels::selftest::{Case, Inputs};
use attention::kernels::{self, Gates, LinearForm, LogDecay};
use burn::tensor::{DType, Device, Tensor, activation};
use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};

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

/// A call at the sizes asked for.
struct Call {
    case: Case,
    /// Of the products of a forward pass, where there are any.
    flops: Option<f64>,
}

type Make = fn(&Arguments) -> Call;

/// Every operator by name; one more is one line here and its call below.
const OPERATORS: &[(&str, Make)] = &[
    ("linear", linear),
    ("softmax_attention", softmax_attention),
    ("differential_attention", differential_attention),
    ("linear_attention", linear_attention),
    ("short_conv", short_conv),
];

/// Into a feed-forward network.
fn linear(a: &Arguments) -> Call {
    let run = |x: &Inputs| kernels::linear(x.get::<3>("x"), x.get("weight"), None).reshape([-1]);
    let inputs = [("x", &[a.batch, a.seq, a.d_model][..]), ("weight", &[a.ffn, a.d_model])];
    let flops = 2.0 * (a.batch * a.seq * a.d_model * a.ffn) as f64;
    Call { case: Case::new("linear", "", &inputs, run), flops: Some(flops) }
}

fn softmax_attention(a: &Arguments) -> Call {
    let d = a.d_model / a.heads;
    let all = [a.batch, a.heads, a.seq, d];
    let scale = (d as f64).powf(-0.5);
    let run = move |x: &Inputs| kernels::softmax_attention(x.get("q"), x.get("k"), x.get("v"), scale).reshape([-1]);
    Call {
        case: Case::new("softmax_attention", "", &[("q", &all), ("k", &all), ("v", &all)], run),
        flops: Some(a.pairs() * (4 * a.heads * d) as f64),
    }
}

/// V1: half as many heads, each of two patterns over values of twice the width.
fn differential_attention(a: &Arguments) -> Call {
    let d = a.d_model / a.heads;
    let (maps, values) = ([a.batch, a.heads, a.seq, d], [a.batch, a.heads / 2, a.seq, 2 * d]);
    let scale = (d as f64).powf(-0.5);
    let run = move |x: &Inputs| {
        let lambda = activation::sigmoid(x.get::<4>("lambda"));
        kernels::differential_attention(x.get("q"), x.get("k"), x.get("v"), lambda, scale).reshape([-1])
    };
    let inputs = [("q", &maps[..]), ("k", &maps), ("v", &values), ("lambda", &[1, 1, 1, 1])];
    Call {
        case: Case::new("differential_attention", "", &inputs, run),
        flops: Some(a.pairs() * (8 * (a.heads / 2) * d) as f64),
    }
}

/// The gated delta rule, in chunks of 64.
fn linear_attention(a: &Arguments) -> Call {
    let d = a.d_model / a.heads;
    let (all, gate) = ([a.batch, a.heads, a.seq, d], [a.batch, a.heads, a.seq]);
    let run = |x: &Inputs| {
        let unit = |name: &str| kernels::l2_norm(x.get::<4>(name), 1e-6, 1.0);
        let decay = LogDecay::Head(activation::sigmoid(x.get::<3>("decay")).neg());
        let gates = Gates::Beta(activation::sigmoid(x.get("beta")));
        let form = LinearForm::Chunked(64);
        let (out, _) = kernels::linear_attention(unit("q"), unit("k"), x.get("v"), &decay, &gates, None, form);
        out.reshape([-1])
    };
    let inputs = [("q", &all[..]), ("k", &all), ("v", &all), ("decay", &gate), ("beta", &gate)];
    Call {
        case: Case::new("linear_attention", "", &inputs, run),
        flops: Some((a.batch * a.heads * a.seq * 6 * d * d) as f64),
    }
}

/// Over queries, keys and values at once, with four taps.
fn short_conv(a: &Arguments) -> Call {
    let run = |x: &Inputs| kernels::short_conv(x.get("x"), x.get("weight"), None, None).0.reshape([-1]);
    let inputs = [("x", &[a.batch, a.seq, 3 * a.d_model][..]), ("weight", &[3 * a.d_model, 4])];
    Call { case: Case::new("short_conv", "", &inputs, run), flops: None }
}

impl Arguments {
    /// Of a query and a key that it sees, in all texts.
    fn pairs(&self) -> f64 {
        self.batch as f64 * self.seq as f64 * (self.seq + 1) as f64 / 2.0
    }

    fn call(&self) -> Result<Call> {
        let Some((_, call)) = OPERATORS.iter().find(|(name, _)| *name == self.name) else {
            let valid: Vec<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
            bail!("unknown operator `{}`; valid: {}", self.name, valid.join(", "));
        };
        for (name, size) in [("batch", self.batch), ("seq", self.seq), ("heads", self.heads), ("ffn", self.ffn)] {
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
    let Call { case, flops } = arguments.call()?;
    let device = arguments.common.device()?;
    eprintln!("device: {}", lab::describe(&device));
    let machine = Machine::measured(&device)?;
    let longest = Duration::from_secs_f64(arguments.common.longest);
    let Arguments { name, d_model, heads, ffn, seq, batch, dtype, .. } = arguments;
    let precision = format!("{dtype:?}").to_lowercase();
    let sizes =
        json!({ "d_model": d_model, "heads": heads, "ffn": ffn, "seq": seq, "batch": batch, "dtype": precision });
    let mut reports = Vec::new();
    for (form, reference) in [("as chosen here", false), ("reference", true)] {
        for (part, backward) in [("forward", false), ("forward and backward", true)] {
            let memory = Memory::begin(&device);
            let run = || once(&case, &device, *dtype, backward);
            let run = || if reference { kernels::by_reference(run) } else { run() };
            let (first, ran) = kernels::trace(run);
            // What comes in and goes out, and as much again for its gradients.
            let bytes = first?.elements * dtype.size() * if backward { 2 } else { 1 };
            let timing = measure(longest, || Ok(run()?.seconds))?;
            reports.push(Report {
                what: format!("{name}, {form}, {part}"),
                sizes: sizes.clone(),
                timing,
                tokens: batch * seq,
                work: Work {
                    flops: flops.map(|flops| if backward { 3.0 * flops } else { flops }),
                    bytes: bytes as f64,
                },
                machine,
                memory: memory.end(),
                ran,
            });
        }
    }
    show(&reports, arguments.common.json);
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

/// In JSON the fast form forwards and backwards, and the others inside it.
fn show(reports: &[Report], json: bool) {
    let [forward, both, reference_forward, reference] = reports else { unreachable!("two forms of two parts") };
    let times = |fast: &Report, slow: &Report| slow.timing.median() / fast.timing.median();
    let (once, twice) = (times(forward, reference_forward), times(both, reference));
    if !json {
        reports.iter().for_each(|report| println!("{report}"));
        println!("the reference takes {once:.2} times as long forwards, {twice:.2} times forwards and backwards");
        return;
    }
    let mut value = both.json();
    value["forward"] = forward.json();
    value["reference"] = reference.json();
    value["reference"]["forward"] = reference_forward.json();
    println!("{value:#}");
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

    fn parsed(line: &str) -> Arguments {
        Line::try_parse_from(["op"].into_iter().chain(line.split(' '))).unwrap().arguments
    }

    #[test]
    fn every_operator_runs_under_its_name() {
        for (name, _) in OPERATORS {
            let arguments = parsed(&format!("{name} --d-model 8 --heads 2 --seq 5 --batch 2"));
            let call = arguments.call().unwrap();
            let (once, ran) = kernels::trace(|| once(&call.case, &Device::flex(), DType::F32, true).unwrap());
            assert!(once.elements > 0 && ran.iter().any(|ran| ran.operator == *name), "{name} ran {ran:?}");
        }
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
