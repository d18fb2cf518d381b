//! The fields of Hugging Face's `config.json`, in the dialects of transformers 4 and 5.

use super::layout::Shapes;
use crate::{Position, Rope, RopeLayout, RopeScaling};
use serde_json::{Map, Value, json};

/// Reads fields and collects what is wrong with them. One of the wrong type is a problem wherever it is
/// read: `"rope_theta": "500000"` must not be as good as no θ at all.
pub(super) struct Fields<'a> {
    pub fields: &'a Map<String, Value>,
    /// Some parts of a model are known by their tensors alone.
    pub tensors: &'a Shapes,
    pub problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn new(fields: &'a Map<String, Value>, tensors: &'a Shapes) -> Self {
        Self { fields, tensors, problems: Vec::new() }
    }

    /// Told once, however often the field is read.
    pub fn problem(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The value under `name`; none where it is absent, null, or of another type than expected.
    fn typed<T>(
        &mut self,
        name: &str,
        value: Option<&'a Value>,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = value.filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.problem(format!("{name} is {value}, expected {expected}"));
        }
        read
    }

    /// Options that are not supported must be off.
    pub fn off(&mut self, names: &[&str]) {
        for name in names {
            if self.flag(name, false) {
                self.problem(format!("{name} = true is not supported"));
            }
        }
    }

    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.typed(name, self.fields.get(name), "true or false", Value::as_bool).unwrap_or(default)
    }

    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        self.typed(name, self.fields.get(name), "a text", Value::as_str)
    }

    pub fn texts(&mut self, name: &str) -> Option<Vec<&'a str>> {
        let read = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.typed(name, self.fields.get(name), "a list of texts", read)
    }

    pub fn whole_numbers(&mut self, name: &str) -> Option<Vec<u64>> {
        let read = |value: &'a Value| value.as_array()?.iter().map(Value::as_u64).collect();
        self.typed(name, self.fields.get(name), "a list of whole numbers", read)
    }

    pub fn number(&mut self, name: &str) -> Option<f64> {
        self.typed(name, self.fields.get(name), "a number", Value::as_f64)
    }

    pub fn size_or(&mut self, name: &str, default: usize) -> usize {
        match self.fields.get(name) {
            None | Some(Value::Null) => default,
            Some(_) => self.size(name).unwrap_or(default),
        }
    }

    pub fn size(&mut self, name: &str) -> Option<usize> {
        // Larger than in any model, and small enough that parameter counts do not overflow.
        let most = match name {
            "vocab_size" => 1 << 20,
            _ if name.contains("num_") || name.contains("head") => 1 << 12,
            _ => 1 << 18,
        };
        match self.fields.get(name).map(|value| (value, value.as_u64())) {
            Some((_, Some(size))) if (1..=most).contains(&size) => Some(size as usize),
            Some((other, _)) => {
                self.problem(format!("{name} is {other}, expected a whole number from 1 to {most}"));
                None
            }
            None => {
                self.problem(format!("{name} is missing"));
                None
            }
        }
    }

    /// transformers 4 writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`.
    pub fn position(&mut self, fraction: f64) -> Option<Position> {
        let fields = self.fields;
        let tables = ["rope_parameters", "rope_scaling"]
            .map(|name| self.typed(name, fields.get(name), "a table", Value::as_object));
        let nested = tables[0].or(tables[1]);
        let get = |name: &str| nested.and_then(|n| n.get(name)).or_else(|| fields.get(name));
        let number = |this: &mut Self, name: &str| this.typed(name, get(name), "a number", Value::as_f64);
        let need = |this: &mut Self, name: &str| {
            number(this, name).unwrap_or_else(|| {
                this.problem(format!("the rope scaling lacks {name}"));
                f64::NAN
            })
        };
        let theta = number(self, "rope_theta").unwrap_or(10_000.0);
        let fraction = number(self, "partial_rotary_factor").unwrap_or(fraction);
        let kind = ["rope_type", "type"].map(|name| {
            let value = nested.and_then(|table| table.get(name));
            self.typed(name, value, "a text", Value::as_str)
        });
        let scaling = match kind[0].or(kind[1]) {
            None | Some("default") => None,
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: need(self, "factor"),
                low_freq_factor: need(self, "low_freq_factor"),
                high_freq_factor: need(self, "high_freq_factor"),
                original: need(self, "original_max_position_embeddings"),
            }),
            Some("yarn") if get("mscale").is_none() && get("attention_factor").is_none_or(Value::is_null) => {
                Some(RopeScaling::Yarn {
                    factor: need(self, "factor"),
                    original: need(self, "original_max_position_embeddings"),
                    beta_fast: number(self, "beta_fast").unwrap_or(32.0),
                    beta_slow: number(self, "beta_slow").unwrap_or(1.0),
                    truncate: self.typed("truncate", get("truncate"), "true or false", Value::as_bool).unwrap_or(true),
                })
            }
            Some(other) => {
                self.problem(format!(
                    "rope type `{other}` is not supported as it is set; supported: default, llama3, and yarn without \
                     mscale or attention_factor"
                ));
                return None;
            }
        };
        Some(Position::Rope(Rope { theta, fraction, layout: RopeLayout::HalfSplit, scaling }))
    }
}

/// `rope_parameters` of transformers 5; only a `partial` family rotates a part of the channels.
pub(super) fn rope_parameters(position: &Position, partial: bool) -> Result<Value, String> {
    let &Position::Rope(Rope { theta, fraction, layout: RopeLayout::HalfSplit, scaling }) = position else {
        return Err(format!("supported is the half-split rotation, not {position:?}"));
    };
    if fraction != 1.0 && !partial {
        return Err(format!("the supported classes rotate all channels, not {fraction} of them"));
    }
    let mut fields = match scaling {
        None => json!({ "rope_type": "default", "rope_theta": theta }),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original }) => json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original as u64,
        }),
        Some(RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate }) => json!({
            "rope_type": "yarn", "rope_theta": theta, "factor": factor, "beta_fast": beta_fast,
            "beta_slow": beta_slow, "truncate": truncate, "original_max_position_embeddings": original as u64,
        }),
    };
    if partial {
        fields["partial_rotary_factor"] = fraction.into();
    }
    Ok(fields)
}
