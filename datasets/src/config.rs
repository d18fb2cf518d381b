//! A dataset as a line in a config file.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Corpus, CorpusConfig, Dataset, DatasetError, Mqar, MqarConfig, Needle, NeedleConfig};

/// Which dataset, and its parameters. What is not written takes its documented default; an unknown
/// type or key is an error that lists the valid ones.
///
/// ```
/// use datasets::DatasetConfig;
///
/// for text in [
///     r#"{"type": "corpus", "source": "dependencies", "bytes": 2000000}"#,
///     r#"{"type": "corpus", "source": "path", "path": "books/"}"#,
///     r#"{"type": "corpus", "source": "hub", "name": "roneneldan/TinyStories"}"#,
///     r#"{"type": "mqar", "time": 128, "pairs": 8}"#,
///     r#"{"type": "needle", "distractors": 3}"#,
/// ] {
///     serde_json::from_str::<DatasetConfig>(text)?;
/// }
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DatasetConfig {
    /// Text as bytes.
    Corpus(CorpusConfig),
    /// Multi-query associative recall.
    Mqar(MqarConfig),
    /// One needle in noise.
    Needle(NeedleConfig),
}

impl Default for DatasetConfig {
    /// The corpus that needs no network.
    fn default() -> Self {
        Self::Corpus(CorpusConfig::default())
    }
}

impl DatasetConfig {
    /// Opens the dataset: reads and splits the text, or checks the task's parameters.
    ///
    /// # Errors
    /// [`DatasetError`], for whatever makes the data unusable.
    pub fn open(&self) -> Result<Arc<dyn Dataset>, DatasetError> {
        Ok(match self {
            Self::Corpus(config) => Arc::new(Corpus::open(config)?),
            Self::Mqar(config) => Arc::new(Mqar::new(config.clone())?),
            Self::Needle(config) => Arc::new(Needle::new(config.clone())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        serde_json::from_str::<DatasetConfig>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_config_survives_the_round_trip() {
        for config in [
            DatasetConfig::default(),
            DatasetConfig::Mqar(MqarConfig { pairs: 3, ..Default::default() }),
            DatasetConfig::Needle(NeedleConfig { distractors: 5, ..Default::default() }),
        ] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<DatasetConfig>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn an_unknown_type_source_or_key_lists_the_valid_ones() {
        let message = error(r#"{"type": "wiki"}"#);
        for valid in ["wiki", "corpus", "mqar", "needle"] {
            assert!(message.contains(valid), "{message}");
        }
        let message = error(r#"{"type": "corpus", "source": "web"}"#);
        for valid in ["web", "dependencies", "path", "hub"] {
            assert!(message.contains(valid), "{message}");
        }
        let message = error(r#"{"type": "mqar", "pears": 4}"#);
        for valid in ["pears", "pairs", "vocab_size", "power_a", "random_non_queries", "time"] {
            assert!(message.contains(valid), "{message}");
        }
        let message = error(r#"{"type": "corpus", "source": "dependencies", "byte": 4}"#);
        assert!(message.contains("byte") && message.contains("`bytes`"), "{message}");
    }

    #[test]
    fn opening_refuses_what_cannot_work() {
        let config: DatasetConfig = serde_json::from_str(r#"{"type": "mqar", "time": 60, "pairs": 16}"#).unwrap();
        let message = config.open().err().expect("60 < 4 · 16").to_string();
        assert!(message.contains("60") && message.contains("64"), "{message}");
    }
}
