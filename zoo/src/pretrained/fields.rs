//! The fields of Hugging Face's `config.json`, in the dialects of transformers 4 and 5.

use super::layout::Shapes;
use crate::{Position, Rope, RopeLayout, RopeScaling};
use serde_json::{Map, Value, json};

/// Fields of the wrong type: `"rope_theta": "500000"` must not be as good as no θ at all. (Sizes are
/// checked where they are read.)
fn wrong_types(fields: &Map<String, Value>) -> Vec<String> {
    type Is = fn(&Value) -> bool;
    let kinds: [(&str, Is, &[&str]); 5] = [
        (
            "true or false",
            Value::is_boolean,
            &[
                "elementwise_attn_output_gate",
                "headwise_attn_output_gate",
                "use_qk_norm",
                "attention_bias",
                "qkv_bias",
                "mlp_bias",
                "use_sliding_window",
                "tie_word_embeddings",
                "norm_topk_prob",
                "truncate",
            ],
        ),
        (
            "a number",
            Value::is_number,
            &[
                "rope_theta",
                "partial_rotary_factor",
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
                "beta_fast",
                "beta_slow",
            ],
        ),
        ("a text", Value::is_string, &["hidden_act", "rope_type", "type"]),
        ("a table", Value::is_object, &["rope_parameters", "rope_scaling"]),
        ("a list", Value::is_array, &["layer_types", "mlp_only_layers"]),
    ];
    let nested = ["rope_parameters", "rope_scaling"].into_iter().filter_map(|name| fields.get(name)?.as_object());
    let all = std::iter::once(fields).chain(nested).flatten();
    let wrong = all.filter_map(|(name, value)| {
        let (kind, is, _) = kinds.iter().find(|(_, _, names)| names.contains(&name.as_str()))?;
        (!value.is_null() && !is(value)).then(|| format!("{name} is {value}, expected {kind}"))
    });
    wrong.collect()
}

/// Reads fields and collects what is wrong with them.
pub(super) struct Fields<'a> {
    pub fields: &'a Map<String, Value>,
    /// Some parts of a model are known by their tensors alone.
    pub tensors: &'a Shapes,
    pub problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn new(fields: &'a Map<String, Value>, tensors: &'a Shapes) -> Self {
        Self { fields, tensors, problems: wrong_types(fields) }
    }
    pub fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Options that are not supported must be off.
    pub fn off(&mut self, names: &[&str]) {
        for name in names {
            if self.flag(name, false) {
                self.problem(format!("{name} = true is not supported"));
            }
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// A list of strings.
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        self.fields.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }

    pub fn number(&mut self, name: &str) -> Option<f64> {
        match self.fields.get(name) {
            None | Some(Value::Null) => None,
            Some(value) if value.is_number() => value.as_f64(),
            Some(other) => {
                self.problem(format!("{name} is {other}, expected a number"));
                None
            }
        }
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
        let table = |name| self.fields.get(name).and_then(Value::as_object);
        let nested = table("rope_parameters").or_else(|| table("rope_scaling"));
        let get = |name: &str| nested.and_then(|n| n.get(name)).or_else(|| self.fields.get(name));
        let number = |name: &str| get(name).and_then(Value::as_f64);
        let theta = number("rope_theta").unwrap_or(10_000.0);
        let fraction = number("partial_rotary_factor").unwrap_or(fraction);
        let kind = nested.and_then(|n| n.get("rope_type").or_else(|| n.get("type"))).and_then(Value::as_str);
        let mut missing = Vec::new();
        let mut need = |name: &'static str| {
            number(name).unwrap_or_else(|| {
                missing.push(name);
                f64::NAN
            })
        };
        let scaling = match kind {
            None | Some("default") => None,
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: need("factor"),
                low_freq_factor: need("low_freq_factor"),
                high_freq_factor: need("high_freq_factor"),
                original: need("original_max_position_embeddings"),
            }),
            Some("yarn") if get("mscale").is_none() && get("attention_factor").is_none_or(Value::is_null) => {
                Some(RopeScaling::Yarn {
                    factor: need("factor"),
                    original: need("original_max_position_embeddings"),
                    beta_fast: number("beta_fast").unwrap_or(32.0),
                    beta_slow: number("beta_slow").unwrap_or(1.0),
                    truncate: get("truncate").and_then(Value::as_bool).unwrap_or(true),
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
        if !missing.is_empty() {
            self.problem(format!("the rope scaling lacks {}", missing.join(", ")));
        }
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
