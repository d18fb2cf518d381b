//! What a model is made of, as JSON.

use crate::error::{ZooError, positive, positive_number};
use crate::{Decoder, MixerConfig};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// A decoder's sizes and its mixers.
///
/// Block `i` gets `pattern[i mod pattern.len()]`: one entry makes all blocks alike, three
/// `gated_delta` and one `gated` make the hybrid of Qwen3-Next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub layers: usize,
    pub pattern: Vec<MixerConfig>,
    /// Whether the output matrix is the embedding.
    #[serde(default = "yes")]
    pub tied: bool,
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// Standard deviation of initial weights.
    #[serde(default = "std")]
    pub init_std: f64,
    /// Whether projections into the residual stream start smaller by `1/√(2·layers)`.
    #[serde(default = "yes")]
    pub scaled_residuals: bool,
}

/// A thousand times those of the largest models.
const MOST_PARAMETERS: u128 = 1 << 50;

fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-6
}
fn std() -> f64 {
    0.02
}

impl ModelConfig {
    /// A decoder of bytes (vocabulary 256) with the usual defaults.
    pub fn new(d_model: usize, d_ff: usize, layers: usize, pattern: Vec<MixerConfig>) -> Self {
        Self {
            vocab_size: 256,
            d_model,
            d_ff,
            layers,
            pattern,
            tied: true,
            norm_eps: eps(),
            init_std: std(),
            scaled_residuals: true,
        }
    }

    /// # Errors
    /// Names the value that does not fit and what would.
    pub fn from_json(json: &str) -> Result<Self, ZooError> {
        let config: Self = serde_json::from_str(json)?;
        config.validate()?;
        Ok(config)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }

    pub fn validate(&self) -> Result<(), ZooError> {
        self.validate_stack()?;
        if self.pattern.is_empty() {
            let expected = "a list of at least one mixer".into();
            return Err(ZooError::Invalid { name: "pattern", value: "[]".into(), expected });
        }
        self.pattern.iter().try_for_each(|mixer| mixer.validate(self.d_model))?;
        // Each size may be large, but not all of them at once: the counts below must not overflow.
        let mixers: u128 = (0..self.layers).map(|l| self.mixer(l).parameters(self.d_model) as u128).sum();
        let beside = self.layers as u128 * (self.d_model * (self.d_ff + 1)) as u128;
        if mixers + 3 * beside > MOST_PARAMETERS {
            let (value, expected) = ((mixers + 3 * beside).to_string(), format!("at most {MOST_PARAMETERS}"));
            return Err(ZooError::Invalid { name: "parameters", value, expected });
        }
        Ok(())
    }

    /// All but the mixers.
    pub(crate) fn validate_stack(&self) -> Result<(), ZooError> {
        positive("vocab_size", self.vocab_size)?;
        positive("d_model", self.d_model)?;
        positive("d_ff", self.d_ff)?;
        positive("layers", self.layers)?;
        positive_number("norm_eps", self.norm_eps)?;
        positive_number("init_std", self.init_std)
    }

    /// The mixer of block `layer`.
    pub fn mixer(&self, layer: usize) -> &MixerConfig {
        &self.pattern[layer % self.pattern.len()]
    }

    /// The model, its weights drawn from `seed`.
    pub fn init(&self, seed: u64, device: &Device) -> Result<Decoder, ZooError> {
        self.validate()?;
        Decoder::with_mixers(self, seed, device, |layer, init| self.mixer(layer).init(self.d_model, layer, init))
    }

    /// How many parameters the model has.
    pub fn parameters(&self) -> usize {
        let mixers: usize = (0..self.layers).map(|l| self.mixer(l).parameters(self.d_model)).sum();
        mixers + self.parameters_beside_mixers()
    }

    /// Parameters of everything but the mixers.
    pub fn parameters_beside_mixers(&self) -> usize {
        let embeddings = self.vocab_size * self.d_model * if self.tied { 1 } else { 2 };
        let block = 2 * self.d_model + 3 * self.d_model * self.d_ff;
        embeddings + self.layers * block + self.d_model
    }

    /// The same model with the feed-forward width that brings it closest to `parameters`.
    ///
    /// # Errors
    /// When the mixers alone are too large, or the width's steps miss the target by over 1 %.
    pub fn with_parameters(&self, parameters: usize) -> Result<Self, ZooError> {
        let step = 3 * self.d_model * self.layers;
        let fixed = self.parameters() - step * self.d_ff;
        let d_ff = (parameters.saturating_sub(fixed) as f64 / step as f64).round() as usize;
        let matched = Self { d_ff, ..self.clone() };
        let got = if d_ff == 0 { fixed } else { matched.parameters() };
        if d_ff == 0 || got.abs_diff(parameters) * 100 > parameters {
            return Err(ZooError::Invalid {
                name: "parameters",
                value: parameters.to_string(),
                expected: format!("within 1 % of what a feed-forward width can reach; the nearest is {got}"),
            });
        }
        Ok(matched)
    }
}
