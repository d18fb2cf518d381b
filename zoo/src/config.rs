//! What a model is made of, as JSON.

use crate::error::{ZooError, positive, positive_number};
use crate::{Decoder, ExpertsConfig, Init, LoopConfig, MixerConfig, RmsNorm};
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
    /// Whether norms of the residual stream multiply by `1 + w`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero_centred: bool,
    /// Standard deviation of initial weights.
    #[serde(default = "std")]
    pub init_std: f64,
    /// Whether projections into the residual stream start smaller by `1/√(2·layers)`.
    #[serde(default = "yes")]
    pub scaled_residuals: bool,
    /// Experts in the feed-forward networks' place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertsConfig>,
    /// Blocks that run several times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looped: Option<LoopConfig>,
    /// The mixer of a block that predicts the token after the next ([`MultiTokenPrediction`]).
    ///
    /// [`MultiTokenPrediction`]: crate::MultiTokenPrediction
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtp: Option<MixerConfig>,
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
            zero_centred: false,
            init_std: std(),
            scaled_residuals: true,
            experts: None,
            looped: None,
            mtp: None,
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
        self.pattern.iter().chain(&self.mtp).try_for_each(|mixer| mixer.validate(self.d_model))?;
        // Each size may be large, but not all of them at once: the counts below must not overflow.
        let blocks = (0..self.layers).map(|layer| self.mixer(layer)).chain(&self.mtp).enumerate();
        let width = |layer| match self.experts_of(layer) {
            Some(experts) => experts.experts as u128 * (experts.d_ff + 1) as u128 + experts.shared.unwrap_or(0) as u128,
            None => self.d_ff as u128,
        };
        let count = |(layer, mixer): (usize, &MixerConfig)| {
            mixer.parameters(self.d_model) as u128 + 3 * self.d_model as u128 * (width(layer) + 1)
        };
        let parameters: u128 = blocks.map(count).sum();
        if parameters > MOST_PARAMETERS {
            let (value, expected) = (parameters.to_string(), format!("at most {MOST_PARAMETERS}"));
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
        positive_number("init_std", self.init_std)?;
        if let Some(experts) = &self.experts {
            experts.validate()?;
            if let Some(layer) = experts.dense.iter().find(|layer| **layer >= self.layers) {
                let expected = format!("blocks 0 to {}", self.layers - 1);
                return Err(ZooError::Invalid { name: "experts.dense", value: layer.to_string(), expected });
            }
        }
        self.looped.as_ref().map_or(Ok(()), |looped| looped.validate(self.layers))
    }

    /// A norm of the residual stream.
    pub(crate) fn norm(&self, init: &mut Init) -> RmsNorm {
        let new = if self.zero_centred { RmsNorm::zero_centred } else { RmsNorm::new };
        new(self.d_model, self.norm_eps, init)
    }

    /// The experts of block `layer`, where it has some.
    pub fn experts_of(&self, layer: usize) -> Option<&ExpertsConfig> {
        self.experts.as_ref().filter(|experts| !experts.dense.contains(&layer))
    }

    /// The mixer of block `layer`.
    pub fn mixer(&self, layer: usize) -> &MixerConfig {
        &self.pattern[layer % self.pattern.len()]
    }

    /// The model, its weights drawn from `seed`.
    pub fn init(&self, seed: u64, device: &Device) -> Result<Decoder, ZooError> {
        self.assemble(Some(seed), device)
    }

    /// The model before its weights are read from a file: none is drawn.
    pub(crate) fn blank(&self, device: &Device) -> Result<Decoder, ZooError> {
        self.assemble(None, device)
    }

    fn assemble(&self, seed: Option<u64>, device: &Device) -> Result<Decoder, ZooError> {
        self.validate()?;
        let mixer = |layer| if layer == self.layers { self.mtp.as_ref() } else { None }.unwrap_or(self.mixer(layer));
        Decoder::assemble(self, seed, device, &mut |layer, init| mixer(layer).init(self.d_model, layer, init))
    }

    /// How many parameters the model has.
    pub fn parameters(&self) -> usize {
        let mixers = (0..self.layers).map(|layer| self.mixer(layer)).chain(&self.mtp);
        mixers.map(|mixer| mixer.parameters(self.d_model)).sum::<usize>() + self.parameters_beside_mixers()
    }

    /// Parameters of everything but the mixers.
    pub fn parameters_beside_mixers(&self) -> usize {
        let embeddings = self.vocab_size * self.d_model * if self.tied { 1 } else { 2 };
        let network = |layer| match self.experts_of(layer) {
            Some(experts) => experts.parameters(self.d_model),
            None => 3 * self.d_model * self.d_ff,
        };
        let block = |layer| 2 * self.d_model + network(layer);
        let mtp = self.mtp.as_ref().map_or(0, |_| block(self.layers) + 2 * self.d_model.pow(2) + 3 * self.d_model);
        let looped = self.looped.as_ref().map_or(0, |looped| looped.parameters(self.d_model));
        embeddings + (0..self.layers).map(block).sum::<usize>() + self.d_model + mtp + looped
    }

    /// The same model with feed-forward networks of width `d_ff`: the dense ones, and the shared expert
    /// where all blocks have experts.
    fn with_width(&self, d_ff: usize) -> Self {
        let mut config = Self { d_ff, ..self.clone() };
        if (0..self.layers).all(|layer| self.experts_of(layer).is_some())
            && let Some(shared) = config.experts.as_mut().and_then(|experts| experts.shared.as_mut())
        {
            *shared = d_ff;
        }
        config
    }

    /// The same model with the feed-forward width that brings it closest to `parameters`.
    ///
    /// # Errors
    /// When the mixers alone are too large, the width's steps miss the target by over 1 %, or all blocks
    /// have experts and none of them is shared.
    pub fn with_parameters(&self, parameters: usize) -> Result<Self, ZooError> {
        let [fixed, step] = [0, 1].map(|d_ff| self.with_width(d_ff).parameters());
        let step = step - fixed;
        let d_ff = (parameters.saturating_sub(fixed) as f64 / step.max(1) as f64).round() as usize;
        let matched = self.with_width(d_ff);
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
