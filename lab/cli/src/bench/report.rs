//! One result, for people and as JSON.

use super::machine::Machine;
use super::measure::Timing;
use super::model::Work;
use attention::kernels::Ran;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub struct Report {
    /// What was measured: `step`, `decode`, `softmax_attention forward`.
    pub what: String,
    pub sizes: Value,
    pub timing: Timing,
    /// Tokens of one repetition.
    pub tokens: usize,
    pub work: Work,
    pub machine: Machine,
    /// Before anything was made for it, and at most.
    pub memory: (Option<u64>, Option<u64>),
    pub ran: Vec<Ran>,
}

/// Operator → the implementations that ran, in words.
pub fn implementations(ran: &[Ran]) -> BTreeMap<&'static str, String> {
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for ran in ran {
        found.entry(ran.operator).or_default().insert(ran.to_string());
    }
    found.into_iter().map(|(operator, all)| (operator, Vec::from_iter(all).join(", "))).collect()
}

impl Report {
    fn rate(&self, amount: f64) -> f64 {
        amount / self.timing.median()
    }

    pub fn json(&self) -> Value {
        let [low, high] = self.timing.quartiles();
        let flops = self.work.flops.map(|flops| self.rate(flops));
        let bytes = self.rate(self.work.bytes);
        json!({
            "what": self.what,
            "sizes": self.sizes,
            "median_ms": self.timing.median() * 1e3,
            "quartiles_ms": [low * 1e3, high * 1e3],
            "repetitions": self.timing.repetitions(),
            "tokens_per_s": self.rate(self.tokens as f64),
            "gflop_per_s": flops.map(|rate| rate / 1e9),
            "gflop_share": flops.map(|rate| rate / self.machine.flops),
            "gbyte_per_s": bytes / 1e9,
            "gbyte_share": bytes / self.machine.bytes,
            "machine": self.machine.json(),
            "base_bytes": self.memory.0,
            "peak_bytes": self.memory.1,
            "implementations": implementations(&self.ran),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
        let share = |rate: f64, most: f64| format!("{:.1} % of {:.1}", 100.0 * rate / most, most / 1e9);
        let [low, high] = self.timing.quartiles().map(ms);
        writeln!(f, "{}: {}", self.what, words(&self.sizes))?;
        let repetitions = self.timing.repetitions();
        writeln!(
            f,
            "  median     {} ms (quartiles {low} to {high}; {repetitions} repetitions)",
            ms(self.timing.median())
        )?;
        writeln!(f, "  tokens/s   {:.0}", self.rate(self.tokens as f64))?;
        match self.work.flops.map(|flops| self.rate(flops)) {
            Some(rate) => writeln!(f, "  GFLOP/s    {:.1} ({})", rate / 1e9, share(rate, self.machine.flops))?,
            None => writeln!(f, "  GFLOP/s    not counted for this model")?,
        }
        let rate = self.rate(self.work.bytes);
        writeln!(f, "  GB/s       {:.2} ({})", rate / 1e9, share(rate, self.machine.bytes))?;
        let mib = |bytes: Option<u64>| bytes.map_or("not known".into(), |b| format!("{:.1} MiB", b as f64 / 1048576.0));
        writeln!(f, "  peak       {} ({} before)", mib(self.memory.1), mib(self.memory.0))?;
        let ran = implementations(&self.ran);
        let ran: Vec<String> = ran.iter().map(|(operator, how)| format!("{operator}: {how}")).collect();
        write!(f, "  ran        {}", if ran.is_empty() { "no operator".into() } else { ran.join("; ") })
    }
}

/// `batch 8, seq 256`.
fn words(sizes: &Value) -> String {
    let word = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        value => format!("{name} {value}"),
    };
    sizes.as_object().map_or_else(String::new, |all| all.iter().map(word).collect::<Vec<_>>().join(", "))
}
