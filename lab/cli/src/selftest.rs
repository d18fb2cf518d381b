//! `cargo lab selftest`: every fast operator against its reference, on this device.

use anyhow::{Result, bail};
use attention::kernels::Implementation;
use attention::kernels::cuda::{self, Card, Passed};
use attention::kernels::selftest::{Case, Difference, cases, tolerance};
use burn::tensor::{DType, Device};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Run every fast operator against its reference on this device.
///
/// Outputs and the gradients of all inputs, on odd shapes, against the definition in f64 on the CPU. An
/// error is the largest difference as a share of the largest number. Fails where one is too large.
///
/// CUDA kernels of our own run where they are on record as right on such a GPU, or with ATTENTION_CUDA_KERNELS=1; those that pass
/// are printed as rows for that record, kernels/compute/cuda-selftest.md.
#[derive(clap::Args)]
pub struct Arguments {
    /// cpu or cuda:N [default: as ATTENTION_DEVICE says, else CUDA where driver, NVRTC and headers are found]
    #[arg(long)]
    device: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// All cases of one operator in one precision.
#[derive(Default)]
struct Verdict {
    cases: usize,
    /// What ran in the reference's place, which may be the reference itself.
    ran: BTreeSet<String>,
    worst: Option<(String, Difference)>,
    /// Cases that panicked, with what they said.
    broken: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = lab::device::named(arguments.device.as_deref())?;
    eprintln!("device: {}", lab::describe(&device));
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let mut passed = BTreeMap::new();
    for dtype in precisions(&device) {
        let tolerance = tolerance(dtype, &device);
        let mut cases = cases();
        if dtype == DType::BF16 {
            cases.retain(|case| cuda::operators().any(|operator| operator == case.operator));
        }
        for (operator, verdict) in verdicts(&cases, &device, dtype) {
            let right: &mut bool = passed.entry(operator).or_default();
            *right |= verdict.ran.contains("cuda");
            if !verdict.passed(tolerance) {
                failed.push(format!("{operator} ({dtype:?})"));
            }
            if !arguments.json {
                println!("{}", verdict.line(operator, dtype, tolerance));
            }
            lines.push(verdict.json(operator, dtype, tolerance));
        }
    }
    if arguments.json {
        println!("{:#}", Value::Array(lines));
    }
    passed.retain(|operator, ran| *ran && !failed.iter().any(|line| line.starts_with(&format!("{operator} ("))));
    record(&device, passed.into_keys());
    match &failed[..] {
        [] => Ok(()),
        failed => bail!("wrong on this device: {}", failed.join(", ")),
    }
}

/// What a device is tested in. The CPU's fast forms are for f32 and f64, tensor cores for bf16.
fn precisions(device: &Device) -> impl Iterator<Item = DType> {
    let all = if *device == Device::flex() { vec![DType::F32, DType::F64] } else { vec![DType::F32, DType::BF16] };
    all.into_iter().filter(|dtype| device.supports_dtype(*dtype))
}

/// Says which operators' CUDA kernels may be put on record.
fn record<'a>(device: &Device, passed: impl Iterator<Item = &'a str>) {
    let Some(card) = cuda::card(device) else { return };
    let new = unrecorded(&cuda::record(), &card, passed);
    if !new.is_empty() {
        eprintln!(
            "CUDA kernels that passed; rows for kernels/compute/cuda-selftest.md, with which they run here by themselves:"
        );
        new.iter().for_each(|row| eprintln!("{}", row.row()));
    }
}

/// The rows that the record lacks: also of what passed there with kernels that have changed since.
fn unrecorded<'a>(record: &[Passed], card: &Card, passed: impl Iterator<Item = &'a str>) -> Vec<Passed> {
    let row = |operator: &str| Passed {
        operator: operator.into(),
        target: card.target.clone(),
        card: card.name.clone(),
        kernels: cuda::fingerprint(operator),
    };
    let same = |a: &Passed, b: &Passed| (&a.operator, &a.target, &a.kernels) == (&b.operator, &b.target, &b.kernels);
    passed.map(row).filter(|new| !record.iter().any(|old| same(old, new))).collect()
}

fn verdicts(cases: &[Case], device: &Device, dtype: DType) -> BTreeMap<&'static str, Verdict> {
    let mut verdicts: BTreeMap<&str, Verdict> = BTreeMap::new();
    for case in cases {
        let verdict = verdicts.entry(case.operator).or_default();
        verdict.cases += 1;
        // One operator that panics must not hide what is to be said of the others.
        let Ok(found) = catch_unwind(AssertUnwindSafe(|| case.check(device, dtype))) else {
            verdict.broken.push(case.name.clone());
            continue;
        };
        verdict.ran.extend(found.ran.iter().map(|ran| ran.to_string()));
        // What plain tensor operations lose in 16 bits is no mistake of a kernel.
        if dtype == DType::BF16 && !found.ran.iter().any(|ran| ran.implementation == Implementation::Cuda) {
            continue;
        }
        let worst = found.worst();
        let size = |d: &Difference| if d.relative.is_nan() { f64::INFINITY } else { d.relative };
        if verdict.worst.as_ref().is_none_or(|(_, before)| size(worst) > size(before)) {
            verdict.worst = Some((case.name.clone(), worst.clone()));
        }
    }
    verdicts
}

impl Verdict {
    fn passed(&self, tolerance: f64) -> bool {
        self.broken.is_empty() && self.worst.as_ref().is_none_or(|(_, worst)| worst.relative <= tolerance)
    }

    fn word(&self, tolerance: f64) -> &'static str {
        match self.passed(tolerance) {
            false => "FAIL",
            true if self.ran.iter().all(|ran| ran.starts_with("reference")) => "no fast form here",
            true => "pass",
        }
    }

    fn line(&self, operator: &str, dtype: DType, tolerance: f64) -> String {
        let ran = Vec::from_iter(self.ran.iter().map(String::as_str)).join(", ");
        let dtype = format!("{dtype:?}").to_lowercase();
        let mut line = format!("{:<6} {operator} {dtype} ({ran}; {} cases)", self.word(tolerance), self.cases);
        if let Some((case, Difference { of, relative, at })) = &self.worst {
            line += &format!(": largest error {relative:.1e} of {tolerance:.0e} allowed, {of} number {at} of `{case}`");
        }
        for case in &self.broken {
            line += &format!("\n       panicked: `{case}`");
        }
        line
    }

    fn json(&self, operator: &str, dtype: DType, tolerance: f64) -> Value {
        let worst = self.worst.as_ref().map(
            |(case, Difference { of, relative, at })| json!({ "error": relative, "of": of, "at": at, "case": case }),
        );
        json!({
            "operator": operator,
            "dtype": format!("{dtype:?}").to_lowercase(),
            "passed": self.passed(tolerance),
            "implementations": self.ran,
            "cases": self.cases,
            "tolerance": tolerance,
            "worst": worst,
            "panicked": self.broken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attention::kernels;
    use burn::tensor::Tensor;

    /// An operator that is right only where it is the reference.
    fn wrong(by: f64) -> Case {
        Case::new("wrong", format!("by {by}"), &[("x", &[3])], move |x| {
            let x: Tensor<1> = x.get("x");
            if is_reference() { x } else { x * (1.0 + by) }
        })
    }

    fn is_reference() -> bool {
        let one = || Tensor::<4>::ones([1, 1, 1, 1], &Device::flex());
        let (_, ran) = kernels::trace(|| kernels::softmax_attention(one(), one(), one(), 1.0));
        ran[0].implementation == Implementation::Reference
    }

    fn verdict(cases: &[Case]) -> Verdict {
        verdicts(cases, &Device::flex(), DType::F32).remove("wrong").unwrap()
    }

    #[test]
    fn an_operator_that_is_wrong_somewhere_fails_there() {
        assert!(verdict(&[wrong(0.0)]).passed(1e-4));
        let found = verdict(&[wrong(0.0), wrong(0.01), wrong(0.001)]);
        assert!(!found.passed(1e-4) && found.passed(0.1));
        let line = found.line("wrong", DType::F32, 1e-4);
        assert!(line.starts_with("FAIL") && line.contains("by 0.01") && line.contains("3 cases"), "{line}");
        assert!(!verdict(&[wrong(f64::NAN)]).passed(1e300), "NaN is no small error");
    }

    #[test]
    fn kernels_that_have_changed_since_they_passed_give_a_new_row() {
        let card = Card::emulated();
        let new = |record: &[Passed]| unrecorded(record, &card, ["l2_norm"].into_iter());
        let rows = new(&[]);
        assert_eq!((rows[0].operator.as_str(), &rows[0].target), ("l2_norm", &card.target));
        assert!(new(&rows).is_empty());
        let before = Passed { kernels: "0123".into(), ..rows[0].clone() };
        assert_eq!(new(&[before]), rows);
        let elsewhere = Passed { target: "ptx_sm70".into(), ..rows[0].clone() };
        assert_eq!(new(&[elsewhere]), rows);
    }

    #[test]
    fn an_operator_that_panics_fails() {
        let broken = Case::new("wrong", "no output", &[("x", &[3])], |x| match is_reference() {
            true => x.get("x"),
            false => panic!("on purpose, in a test"),
        });
        let found = verdict(&[broken, wrong(0.0)]);
        assert!(!found.passed(1e300) && found.line("wrong", DType::F32, 1e-4).contains("panicked: `no output`"));
    }
}
