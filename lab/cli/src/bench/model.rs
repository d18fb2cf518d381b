//! The model that is measured, and the work that it cannot avoid.

use crate::train::precision;
use anyhow::Result;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use lab::train::Precision;
use zoo::{Decoder, DifferentialVersion, MixerConfig, ModelConfig, SoftmaxConfig, presets};

/// Sizes of a model of bytes with QK-norm and SwiGLU.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArguments {
    /// A variant of the zoo
    #[arg(long, default_value = "baseline", value_name = "VARIANT")]
    pub mixer: String,
    /// Width of the residual stream
    #[arg(long, default_value_t = 256)]
    pub d_model: usize,
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// Heads of the baseline of this size; DIFF V1 has half as many, each of two patterns
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Width of the feed-forward networks
    #[arg(long, default_value_t = 688)]
    pub ffn: usize,
    #[arg(long, default_value_t = 256)]
    pub vocab: usize,
    /// The numbers that are computed in: f32 or bf16
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: Precision,
}

impl ModelArguments {
    /// Bytes of a weight as it is computed with.
    pub fn weight_bytes(&self) -> usize {
        match self.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }

    pub fn config(&self) -> Result<ModelConfig> {
        let base = ModelConfig::new(self.d_model, self.ffn, self.layers, Vec::new());
        let base = ModelConfig { vocab_size: self.vocab, ..base };
        let config = presets::variant(&self.mixer, self.heads, base)?;
        config.validate()?;
        Ok(config)
    }
}

/// What has to be computed and moved, however it is done. Implementations do more; what they are
/// compared by is this.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// None where it is not counted: models with experts or loops, and mixers other than those of [`mixing`].
    pub flops: Option<f64>,
    pub bytes: f64,
}

/// A forward pass over `batch` texts of `time` tokens after `past` others: two FLOP for every weight
/// of a matrix and every token, and those of the mixers.
pub fn forward_flops(model: &Decoder, config: &ModelConfig, [batch, past, time]: [usize; 3]) -> Option<f64> {
    if config.experts.is_some() || config.looped.is_some() {
        return None;
    }
    let rows = if config.tied { 0 } else { config.vocab_size * config.d_model }; // looked up, not multiplied
    let weights = 2.0 * (matrix_weights(model) - rows) as f64 * time as f64;
    let mixers = (0..config.layers).map(|layer| mixing(config.mixer(layer), config.d_model, past, time));
    Some(batch as f64 * (weights + mixers.sum::<Option<f64>>()?))
}

/// FLOP of what mixes tokens, for one text: `q kᵀ` and the weighted sum of values for every pair of a
/// query and a key that it sees; or, with a state, three products of it and a vector for every token: what is
/// erased, what is written, what the query reads.
fn mixing(mixer: &MixerConfig, d_model: usize, past: usize, time: usize) -> Option<f64> {
    let pairs = (time * past + time * (time + 1) / 2) as f64;
    let attention = |c: &SoftmaxConfig| c.window.is_none().then(|| pairs * (4 * c.heads * c.head_dim(d_model)) as f64);
    match mixer {
        MixerConfig::Softmax(c) => attention(c),
        MixerConfig::Gated(c) => attention(&c.attention),
        // Two products of width d for the patterns, one of width 2 d for the values.
        MixerConfig::Differential(c) if c.version == DifferentialVersion::V1 => {
            Some(pairs * (8 * c.heads * c.head_dim(d_model)) as f64)
        }
        MixerConfig::GatedDelta(c) => {
            let state = c.heads * c.key_dim(d_model) * c.value_dim(d_model);
            Some(time as f64 * 6.0 * state as f64)
        }
        _ => None,
    }
}

/// Parameters that are part of a matrix.
fn matrix_weights(model: &Decoder) -> usize {
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D >= 2 {
                self.0 += param.lazy_shape().num_elements();
            }
        }
    }
    let mut count = Count(0);
    model.visit(&mut count);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn flops(mixer: &str, shape: [usize; 3]) -> Option<f64> {
        let sizes = ModelArguments {
            mixer: mixer.into(),
            d_model: 32,
            layers: 4,
            heads: 2,
            ffn: 24,
            vocab: 48,
            precision: Precision::F32,
        };
        let config = sizes.config().unwrap();
        forward_flops(&config.init(0, &Device::flex()).unwrap(), &config, shape)
    }

    #[test]
    fn a_forward_pass_is_two_flop_a_weight_and_token_and_four_a_channel_and_pair() {
        let weights = 48 * 32 + 4 * (4 * 32 * 32 + 3 * 32 * 24);
        let expected = |tokens: usize, pairs: usize| (2 * weights * tokens + 4 * 4 * 32 * pairs) as f64;
        assert_eq!(flops("baseline", [8, 0, 256]), Some(expected(8 * 256, 8 * 256 * 257 / 2)));
        // One token sees the past and itself.
        assert_eq!(flops("baseline", [1, 511, 1]), Some(expected(1, 512)));
    }

    #[test]
    fn work_that_is_not_known_is_not_made_up() {
        for mixer in ["qwen3-next", "looped", "nexus"] {
            assert_eq!(flops(mixer, [1, 0, 8]), None, "{mixer}");
        }
        for mixer in ["baseline", "gated", "differential", "hybrid"] {
            assert!(flops(mixer, [1, 0, 8]).is_some(), "{mixer}");
        }
    }
}
