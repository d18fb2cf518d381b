//! Hugging Face's `config.json`, in the dialects of transformers 4 and 5.

use crate::{
    DifferentialConfig, DifferentialVersion, Gate, GatedConfig, MixerConfig, ModelConfig, Position, Rope, RopeLayout,
    RopeScaling, SoftmaxConfig,
};
use serde_json::{Map, Value};

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Softmax,
    Gated(Gate),
    DiffLlama,
}

/// A configuration whose options are all known.
#[derive(Clone, Debug)]
pub(super) struct HfConfig {
    pub family: Family,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub tied: bool,
    vocab_size: usize,
    d_model: usize,
    d_ff: usize,
    norm_eps: f64,
    qk_norm: bool,
    position: Position,
}

impl HfConfig {
    /// # Errors
    /// Every key that is missing, malformed or asks for what is not supported.
    pub fn parse(json: &str) -> Result<Self, String> {
        let fields: Map<String, Value> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let mut reader = Reader { fields: &fields, problems: Vec::new() };
        let config = reader.config();
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config),
            _ => Err(reader.problems.join("; ")),
        }
    }

    pub fn model_config(&self) -> ModelConfig {
        let softmax = SoftmaxConfig {
            kv_heads: Some(self.kv_heads),
            head_dim: Some(self.head_dim),
            qk_norm: self.qk_norm,
            norm_eps: self.norm_eps,
            position: self.position,
            ..SoftmaxConfig::new(self.heads)
        };
        let mixer = match self.family {
            Family::Softmax => MixerConfig::Softmax(softmax),
            Family::Gated(gate) => MixerConfig::Gated(GatedConfig { gate, attention: softmax }),
            // Two of its softmax maps are a head of ours.
            Family::DiffLlama => MixerConfig::Differential(DifferentialConfig {
                kv_heads: Some(self.kv_heads / 2),
                head_dim: Some(self.head_dim),
                norm_eps: self.norm_eps,
                position: self.position,
                ..DifferentialConfig::new(DifferentialVersion::V1, self.heads / 2)
            }),
        };
        ModelConfig {
            vocab_size: self.vocab_size,
            tied: self.tied,
            norm_eps: self.norm_eps,
            ..ModelConfig::new(self.d_model, self.d_ff, self.layers, vec![mixer])
        }
    }
}

/// Reads fields and collects what is wrong with them.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self) -> Option<HfConfig> {
        let model_type = self.fields.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (family, qk_norm) = match model_type.as_str() {
            "llama" => (Family::Softmax, false),
            "qwen3" => {
                let gate = |flag| self.flag(flag);
                match (gate("elementwise_attn_output_gate"), gate("headwise_attn_output_gate")) {
                    (false, false) => (Family::Softmax, self.flag_or("use_qk_norm", true)),
                    (true, false) => (Family::Gated(Gate::Elementwise), self.flag_or("use_qk_norm", true)),
                    (false, true) => (Family::Gated(Gate::Headwise), self.flag_or("use_qk_norm", true)),
                    (true, true) => {
                        self.problems.push("both output gates are on; one at most is known".into());
                        return None;
                    }
                }
            }
            "diffllama" => (Family::DiffLlama, false),
            other => {
                self.problems.push(format!("model_type is `{other}`; supported: llama, qwen3, diffllama"));
                return None;
            }
        };
        for bias in ["attention_bias", "qkv_bias", "mlp_bias", "use_sliding_window"] {
            if self.flag(bias) {
                self.problems.push(format!("{bias} = true is not supported"));
            }
        }
        if let Some(kinds) = self.fields.get("layer_types").and_then(Value::as_array)
            && let Some(other) = kinds.iter().find(|kind| *kind != "full_attention")
        {
            self.problems.push(format!("layer_types holds {other}; supported: full_attention"));
        }
        match self.fields.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => {}
            Some(other) => self.problems.push(format!("hidden_act is `{other}`; supported: silu")),
        }
        let [vocab_size, d_model, d_ff, layers, heads] =
            ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
                .map(|name| self.size(name));
        let heads = heads?;
        let kv_heads = self.size_or("num_key_value_heads", heads);
        let even = match family {
            Family::DiffLlama => 2,
            _ => 1,
        };
        if kv_heads == 0
            || !heads.is_multiple_of(kv_heads.max(1))
            || !heads.is_multiple_of(even)
            || !kv_heads.is_multiple_of(even)
        {
            self.problems.push(format!("num_attention_heads {heads} and num_key_value_heads {kv_heads} do not fit"));
        }
        let default_dim = match model_type.as_str() {
            "qwen3" => 128,
            _ => d_model? / heads.max(1),
        };
        let head_dim = self.size_or("head_dim", default_dim);
        let default_eps = if family == Family::DiffLlama { 1e-5 } else { 1e-6 };
        let norm_eps = self.number(self.fields, "rms_norm_eps").unwrap_or(default_eps);
        let position = self.position()?;
        Some(HfConfig {
            family,
            layers: layers?,
            heads,
            kv_heads,
            head_dim,
            tied: self.flag("tie_word_embeddings"),
            vocab_size: vocab_size?,
            d_model: d_model?,
            d_ff: d_ff?,
            norm_eps,
            qk_norm,
            position,
        })
    }

    /// transformers 4 writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`.
    fn position(&mut self) -> Option<Position> {
        let table = |name| self.fields.get(name).and_then(Value::as_object);
        let nested = table("rope_parameters").or_else(|| table("rope_scaling"));
        let get = |name: &str| nested.and_then(|n| n.get(name)).or_else(|| self.fields.get(name));
        let number = |name: &str| get(name).and_then(Value::as_f64);
        let theta = number("rope_theta").unwrap_or(10_000.0);
        let fraction = number("partial_rotary_factor").unwrap_or(1.0);
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
                self.problems.push(format!(
                    "rope type `{other}` is not supported as it is set; supported: default, llama3, and yarn without \
                     mscale or attention_factor"
                ));
                return None;
            }
        };
        if !missing.is_empty() {
            self.problems.push(format!("the rope scaling lacks {}", missing.join(", ")));
        }
        Some(Position::Rope(Rope { theta, fraction, layout: RopeLayout::HalfSplit, scaling }))
    }

    fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    fn flag_or(&self, name: &str, default: bool) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    fn number(&mut self, fields: &Map<String, Value>, name: &str) -> Option<f64> {
        match fields.get(name) {
            None | Some(Value::Null) => None,
            Some(value) if value.is_number() => value.as_f64(),
            Some(other) => {
                self.problems.push(format!("{name} is {other}, expected a number"));
                None
            }
        }
    }

    fn size_or(&mut self, name: &str, default: usize) -> usize {
        match self.fields.get(name) {
            None | Some(Value::Null) => default,
            Some(_) => self.size(name).unwrap_or(default),
        }
    }

    fn size(&mut self, name: &str) -> Option<usize> {
        // Larger than in any model, and small enough that parameter counts do not overflow.
        let most = if name.starts_with("num_") || name == "head_dim" { 1 << 12 } else { 1 << 20 };
        match self.fields.get(name).map(|value| (value, value.as_u64())) {
            Some((_, Some(size))) if (1..=most).contains(&size) => Some(size as usize),
            Some((other, _)) => {
                self.problems.push(format!("{name} is {other}, expected a whole number from 1 to {most}"));
                None
            }
            None => {
                self.problems.push(format!("{name} is missing"));
                None
            }
        }
    }
}
