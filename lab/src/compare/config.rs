//! What is compared.

use crate::{LabError, TrainConfig};
use serde::{Deserialize, Serialize};
use zoo::{ModelConfig, ZooError};

/// A model under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub name: String,
    pub model: ModelConfig,
}

/// Variants × seeds. The first variant is the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareConfig {
    /// Everything the runs share; its `name`, `model` and `seed` are replaced in each.
    pub base: TrainConfig,
    pub variants: Vec<Variant>,
    /// A seed chooses initial weights and the order of the data.
    pub seeds: Vec<u64>,
}

impl CompareConfig {
    /// Variants of the catalogue by name, at the vocabulary of `base.model`.
    ///
    /// # Errors
    /// An unknown variant or size is answered with the valid ones.
    pub fn presets(base: TrainConfig, variants: &[&str], size: &str, seeds: &[u64]) -> Result<Self, LabError> {
        let vocab_size = base.model.vocab_size;
        let preset = |name: &&str| {
            let model = ModelConfig { vocab_size, ..zoo::preset(name, size)? };
            Ok(Variant { name: name.to_string(), model })
        };
        let variants = variants.iter().map(preset).collect::<Result<_, LabError>>()?;
        let config = Self { base, variants, seeds: seeds.to_vec() };
        config.matched()?;
        Ok(config)
    }

    /// # Errors
    /// An unknown key is answered with the valid ones, a bad value with what it must be.
    pub fn from_json(json: &str) -> Result<Self, LabError> {
        let config: Self = serde_json::from_str(json)?;
        config.base.validate()?;
        config.matched()?;
        Ok(config)
    }

    /// The variants with feed-forward widths that bring all to the baseline's parameters.
    ///
    /// # Errors
    /// No variant or no seed, a name or seed that comes twice; the variant whose model cannot be, or whose
    /// parameters cannot be matched within 1 %.
    pub fn matched(&self) -> Result<Vec<Variant>, LabError> {
        let (Some(baseline), false) = (self.variants.first(), self.seeds.is_empty()) else {
            return Err(LabError::Compare("at least one variant and one seed are needed".into()));
        };
        for (i, variant) in self.variants.iter().enumerate() {
            if self.variants[..i].iter().any(|other| other.name == variant.name) {
                return Err(LabError::Compare(format!("variant `{}` is there twice", variant.name)));
            }
        }
        for (i, seed) in self.seeds.iter().enumerate() {
            if self.seeds[..i].contains(seed) {
                return Err(LabError::Compare(format!("seed {seed} is there twice")));
            }
        }
        for Variant { name, model } in &self.variants {
            model.validate().map_err(|error| of_variant(name, error))?;
        }
        let parameters = baseline.model.parameters();
        let matched = |Variant { name, model }: &Variant| {
            let model = match *name == baseline.name {
                true => model.clone(),
                false => model.with_parameters(parameters).map_err(|error| of_variant(name, error))?,
            };
            Ok(Variant { name: name.clone(), model })
        };
        self.variants.iter().map(matched).collect()
    }

    /// One of the runs.
    pub fn run(&self, variant: &Variant, seed: u64) -> TrainConfig {
        let name = format!("{}-seed{seed}", variant.name);
        TrainConfig { name, model: variant.model.clone(), seed, ..self.base.clone() }
    }
}

fn of_variant(name: &str, error: ZooError) -> LabError {
    LabError::Compare(format!("variant `{name}`: {error}"))
}
