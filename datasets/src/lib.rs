//! What the models read: real text as bytes, and synthetic tasks with known answers.
//!
//! | dataset | vocabulary | loss counts |
//! |---|---|---|
//! | [`Corpus`] | 256 bytes | everywhere |
//! | [`Mqar`] | keys and values | at every query |
//! | [`Needle`] | a marker, keys, values, noise | at the one answer |
//!
//! [`Babi`] has another shape: stories, questions and answers rather than rows of next tokens.
//!
//! A [`Tokenizer`] turns text into ids and back.
//!
//! A dataset knows nothing of models. It answers one question, "what is batch number `step`?", and
//! the answer depends on the seed and the step alone, so two models compared under one seed see
//! the same data in the same order, and a resumed run continues where it stopped.
//!
//! ```
//! use datasets::{Dataset, Mqar, MqarConfig};
//!
//! let task = Mqar::new(MqarConfig { pairs: 4, ..MqarConfig::default() })?;
//! let batch = task.train(0, 0, 2, 64);
//! assert_eq!(batch.ids.len(), 2 * 64);
//! println!("{}", task.decode(&batch.ids[..64])); // k812 v97 k3001 v2210 …
//! # Ok::<(), datasets::DatasetError>(())
//! ```

mod batch;
mod config;
pub mod corpus;
mod error;
mod random;
pub mod tasks;
mod tokenizer;

pub use batch::{Batch, Dataset, accuracy};
pub use config::DatasetConfig;
pub use corpus::{Corpus, CorpusConfig, DependenciesConfig, HubConfig, PathConfig};
pub use error::DatasetError;
pub use tasks::{
    Babi, BabiBatch, BabiExample, BabiLine, BabiStory, BabiTask, BabiVocabulary, Mqar, MqarConfig, Needle,
    NeedleConfig, parse_babi, read_babi,
};
pub use tokenizer::{TextStream, Tokenizer};
