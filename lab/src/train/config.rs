//! What a run is: everything its result depends on, in one JSON file.

use super::Precision;
use crate::LabError;
use crate::error::invalid;
use datasets::DatasetConfig;
use serde::{Deserialize, Serialize};
use zoo::ModelConfig;

/// A training run. The defaults suit a model of about a million parameters on a CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The folder under `runs/`: letters, digits, `.`, `_` and `-`.
    pub name: String,
    pub model: ModelConfig,
    #[serde(default)]
    pub data: DatasetConfig,
    /// Updates of the weights.
    #[serde(default = "default::steps")]
    pub steps: usize,
    /// Sequences per step.
    #[serde(default = "default::batch")]
    pub batch: usize,
    /// Tokens per sequence.
    #[serde(default = "default::time")]
    pub time: usize,
    /// The highest rate, reached after the warm-up.
    #[serde(default = "default::learning_rate")]
    pub learning_rate: f64,
    /// The rate of the last step.
    #[serde(default = "default::min_learning_rate")]
    pub min_learning_rate: f64,
    /// Steps in which the rate rises linearly from 0; a run of fewer never reaches the highest.
    #[serde(default = "default::warmup")]
    pub warmup: usize,
    /// Decoupled decay of matrices; vectors (norms, biases, decay rates, λ) do not decay.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: f64,
    /// Adam's β₁ and β₂.
    #[serde(default = "default::betas")]
    pub betas: [f64; 2],
    /// The largest gradient norm over all parameters together; larger gradients are scaled to it.
    #[serde(default = "default::clip")]
    pub clip: f64,
    /// Weight of the loss of the token after the next, for models that predict it.
    #[serde(default = "default::mtp_weight")]
    pub mtp_weight: f64,
    /// Weight of the balance of the routers, for models with experts.
    #[serde(default = "default::balance_weight")]
    pub balance_weight: f64,
    /// Weight of the mean number of loops, for looped models that halt.
    #[serde(default = "default::ponder_weight")]
    pub ponder_weight: f64,
    /// Steps between evaluations; the last step is always evaluated. 0: only the last.
    #[serde(default = "default::eval_every")]
    pub eval_every: usize,
    /// Validation batches per evaluation, always the same ones.
    #[serde(default = "default::eval_batches")]
    pub eval_batches: usize,
    /// Steps between checkpoints where there is a runs folder; the last step always makes one.
    /// 0: only the last.
    #[serde(default)]
    pub checkpoint_every: usize,
    /// The numbers in which forward and backward are computed: `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Chooses the initial weights and the order of the data.
    #[serde(default)]
    pub seed: u64,
}

mod default {
    pub fn steps() -> usize {
        600
    }
    pub fn batch() -> usize {
        8
    }
    pub fn time() -> usize {
        128
    }
    pub fn learning_rate() -> f64 {
        3e-3
    }
    pub fn min_learning_rate() -> f64 {
        3e-4
    }
    pub fn warmup() -> usize {
        50
    }
    pub fn weight_decay() -> f64 {
        0.1
    }
    pub fn betas() -> [f64; 2] {
        [0.9, 0.95]
    }
    pub fn clip() -> f64 {
        1.0
    }
    /// DeepSeek-V3's, at first.
    pub fn mtp_weight() -> f64 {
        0.3
    }
    /// Qwen3-Next's.
    pub fn balance_weight() -> f64 {
        0.001
    }
    /// That of the universal transformer's published code.
    pub fn ponder_weight() -> f64 {
        0.01
    }
    pub fn eval_every() -> usize {
        50
    }
    pub fn eval_batches() -> usize {
        8
    }
}

impl TrainConfig {
    /// A run with the defaults.
    pub fn new(name: impl Into<String>, model: ModelConfig) -> Self {
        Self {
            name: name.into(),
            model,
            data: DatasetConfig::default(),
            steps: default::steps(),
            batch: default::batch(),
            time: default::time(),
            learning_rate: default::learning_rate(),
            min_learning_rate: default::min_learning_rate(),
            warmup: default::warmup(),
            weight_decay: default::weight_decay(),
            betas: default::betas(),
            clip: default::clip(),
            mtp_weight: default::mtp_weight(),
            balance_weight: default::balance_weight(),
            ponder_weight: default::ponder_weight(),
            eval_every: default::eval_every(),
            eval_batches: default::eval_batches(),
            checkpoint_every: 0,
            precision: Precision::default(),
            seed: 0,
        }
    }

    /// # Errors
    /// An unknown key is answered with the valid ones, a bad value with what it must be.
    pub fn from_json(json: &str) -> Result<Self, LabError> {
        let config: Self = serde_json::from_str(json)?;
        config.validate()?;
        config.model.validate()?;
        Ok(config)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }

    /// Everything but the model, whose mixers may be somebody else's.
    ///
    /// # Errors
    /// [`LabError::Invalid`] with the name, the value and what is valid.
    pub fn validate(&self) -> Result<(), LabError> {
        let name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(name) {
            return invalid(
                "name",
                format!("`{}`", self.name),
                "letters, digits, `.`, `_` and `-`, not starting with `.`",
            );
        }
        let counts =
            [("steps", self.steps), ("batch", self.batch), ("time", self.time), ("eval_batches", self.eval_batches)];
        for (name, value) in counts {
            if value == 0 {
                return invalid(name, value, "at least 1");
            }
        }
        for (name, value) in [("learning_rate", self.learning_rate), ("clip", self.clip)] {
            if !(value > 0.0 && value.is_finite()) {
                return invalid(name, value, "a positive number");
            }
        }
        if !(0.0..=self.learning_rate).contains(&self.min_learning_rate) {
            return invalid(
                "min_learning_rate",
                self.min_learning_rate,
                &format!("0 to learning_rate = {}", self.learning_rate),
            );
        }
        let weights = [
            ("weight_decay", self.weight_decay),
            ("mtp_weight", self.mtp_weight),
            ("balance_weight", self.balance_weight),
            ("ponder_weight", self.ponder_weight),
        ];
        for (name, value) in weights {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(name, value, "0 or a positive number");
            }
        }
        for beta in self.betas {
            if !(0.0..1.0).contains(&beta) {
                return invalid("betas", format!("{:?}", self.betas), "two numbers in 0 to 1, 1 excluded");
            }
        }
        Ok(())
    }

    /// The rate of update `step`, counted from 0:
    /// ```text
    /// lr(s) = max · (s + 1)/warmup                                              s < warmup
    /// lr(s) = min + (max − min) · ½(1 + cos π (s − warmup)/(steps − 1 − warmup))   after
    /// ```
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let span = (self.steps.saturating_sub(self.warmup + 1)).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * cosine
    }

    /// The names of the fields in which two configurations differ (`model.d_ff`, `steps`).
    pub fn differences(&self, other: &Self) -> Vec<String> {
        fn walk(path: &str, a: &serde_json::Value, b: &serde_json::Value, out: &mut Vec<String>) {
            match (a, b) {
                (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
                    for key in keys {
                        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                        let null = &serde_json::Value::Null;
                        walk(&path, a.get(key).unwrap_or(null), b.get(key).unwrap_or(null), out);
                    }
                }
                _ if a != b => out.push(path.to_string()),
                _ => {}
            }
        }
        let value = |config: &Self| serde_json::to_value(config).expect("plain data");
        let mut out = Vec::new();
        walk("", &value(self), &value(other), &mut out);
        out
    }
}
