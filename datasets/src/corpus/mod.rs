//! Real text, one byte per token.
//!
//! Three sources: the Rust sources of this workspace's own dependencies (no network needed), a file
//! or folder of the user's, and a text dataset on the Hugging Face Hub.

mod cache;
mod dependencies;
mod files;
mod hub;
mod split;
mod tables;
mod windows;
mod workspace;

pub use self::hub::HubConfig;
pub use dependencies::DependenciesConfig;
pub use files::PathConfig;

use std::path::PathBuf;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::random::{Purpose, stable_hash, stream};
use crate::{Batch, Dataset, DatasetError};
use split::{Document, Split};
use windows::{spread, windows};

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum CorpusConfig {
    /// Rust sources of the workspace's dependencies.
    Dependencies(DependenciesConfig),
    /// A text file or folder.
    Path(PathConfig),
    /// A text dataset of the Hugging Face Hub.
    Hub(HubConfig),
}

impl Default for CorpusConfig {
    fn default() -> Self {
        Self::Dependencies(DependenciesConfig::default())
    }
}

/// A text as bytes, vocabulary 256, in a training and a validation part that share no document.
///
/// A training row is `time + 1` bytes from a uniformly random place; `targets` are `ids` shifted by
/// one and every position counts. Validation rows cut the validation text into
/// `n = (bytes − 1) / time` windows that do not overlap; window number w is slot
/// `w · stride mod n`, where the stride is near n times the golden ratio, so any number of windows
/// is spread evenly over the text and only the (n+1)-th repeats one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Corpus {
    name: String,
    description: String,
    text: Split,
}

impl Corpus {
    /// Opens the corpus a config describes.
    ///
    /// # Errors
    /// As the three functions below.
    pub fn open(config: &CorpusConfig) -> Result<Self, DatasetError> {
        match config {
            CorpusConfig::Dependencies(config) => dependencies::open(config),
            CorpusConfig::Path(config) => files::open(config),
            CorpusConfig::Hub(config) => hub::open(config),
        }
    }

    /// The Rust sources of the workspace's dependencies, 4 MB: see [`DependenciesConfig`].
    ///
    /// # Errors
    /// [`DatasetError::NoWorkspace`], [`DatasetError::Metadata`], [`DatasetError::Empty`].
    pub fn dependencies() -> Result<Self, DatasetError> {
        dependencies::open(&DependenciesConfig::default())
    }

    /// A text file, or every text file of a folder: see [`PathConfig`].
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::NotUtf8`], [`DatasetError::Field`],
    /// [`DatasetError::Empty`].
    pub fn path(path: impl Into<PathBuf>) -> Result<Self, DatasetError> {
        files::open(&PathConfig::new(path))
    }

    /// A text dataset of the Hugging Face Hub by name: see [`HubConfig`].
    ///
    /// # Errors
    /// [`DatasetError::Hub`], [`DatasetError::NoText`], [`DatasetError::TooLarge`], and those of
    /// [`Corpus::path`] for the files.
    pub fn hub(name: impl Into<String>) -> Result<Self, DatasetError> {
        hub::open(&HubConfig::new(name))
    }

    /// Splits `documents`. `about` says in words what they are and what was left out.
    fn from_documents(name: String, about: &str, documents: Vec<Document>) -> Result<Self, DatasetError> {
        let text = split::split(documents);
        if text.train.len() < 2 || text.validation.len() < 2 {
            let bytes = text.train.len() + text.validation.len();
            let reason = format!("{about}, {bytes} bytes in all; training and validation need 2 bytes each at least");
            return Err(DatasetError::Empty { corpus: name, reason });
        }
        let fingerprint = stable_hash(text.train.as_bytes()) ^ stable_hash(text.validation.as_bytes()).rotate_left(32);
        let description = format!(
            "{about}; training {}, validation {} ({}); fingerprint {fingerprint:016x}",
            megabytes(text.train.len()),
            megabytes(text.validation.len()),
            text.rule,
        );
        Ok(Self { name, description, text })
    }

    /// The training text.
    pub fn train_text(&self) -> &str {
        &self.text.train
    }

    /// The validation text.
    pub fn validation_text(&self) -> &str {
        &self.text.validation
    }

    /// The documents of the training text, sorted: crates or files.
    pub fn train_documents(&self) -> &[String] {
        &self.text.train_documents
    }

    /// The documents of the validation text, sorted. They are also in
    /// [`train_documents`](Self::train_documents) only where the tail of each was cut off.
    pub fn validation_documents(&self) -> &[String] {
        &self.text.validation_documents
    }

    /// Any text as ids, one per byte.
    pub fn encode(text: &str) -> Vec<i32> {
        text.bytes().map(i32::from).collect()
    }
}

impl Dataset for Corpus {
    fn name(&self) -> &str {
        &self.name
    }

    fn vocab_size(&self) -> usize {
        256
    }

    fn train(&self, seed: u64, step: usize, batch: usize, time: usize) -> Batch {
        if let Err(error) = self.check(time) {
            panic!("{error}");
        }
        let text = self.text.train.as_bytes();
        windows(text, batch, time, |row| stream(Purpose::Train, seed, step, row).random_range(0..text.len() - time))
    }

    fn validation(&self, index: usize, batch: usize, time: usize) -> Batch {
        if let Err(error) = self.check(time) {
            panic!("{error}");
        }
        let text = self.text.validation.as_bytes();
        let count = (text.len() - 1) / time;
        let stride = spread(count);
        windows(text, batch, time, |row| (index * batch + row) % count * stride % count * time)
    }

    fn decode(&self, ids: &[i32]) -> String {
        let mut text = String::new();
        let mut bytes = Vec::new();
        for &id in ids {
            match u8::try_from(id) {
                Ok(byte) => bytes.push(byte),
                Err(_) => {
                    text += &String::from_utf8_lossy(&bytes);
                    text += &format!("<{id}>");
                    bytes.clear();
                }
            }
        }
        text + &String::from_utf8_lossy(&bytes)
    }

    fn check(&self, time: usize) -> Result<(), DatasetError> {
        if time == 0 {
            let expected = "at least 1".to_owned();
            let value = "0".to_owned();
            return Err(DatasetError::Parameter { dataset: "corpus", parameter: "time", value, expected });
        }
        for (part, text) in [("training", &self.text.train), ("validation", &self.text.validation)] {
            if text.len() <= time {
                let (corpus, bytes) = (self.name.clone(), text.len());
                return Err(DatasetError::TooShort { corpus, part, bytes, time });
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

/// A size for a sentence.
fn megabytes(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(train: &str, validation: &str) -> Corpus {
        Corpus {
            name: "test".into(),
            description: String::new(),
            text: Split { train: train.into(), validation: validation.into(), ..Split::default() },
        }
    }

    /// A text where every position is told apart by its bytes.
    fn numbered(lines: usize) -> String {
        (0..lines).map(|i| format!("{i:07}\n")).collect()
    }

    #[test]
    fn targets_are_the_ids_shifted_by_one_and_all_count() {
        let corpus = corpus(&numbered(500), &numbered(500));
        for batch in [corpus.train(1, 2, 4, 32), corpus.validation(1, 4, 32)] {
            assert_eq!(batch.answers(), 4 * 32);
            for row in 0..4 {
                assert_eq!(batch.row(row)[1..], batch.targets[row * 32..row * 32 + 31]);
                let text = corpus.decode(batch.row(row));
                assert!(corpus.train_text().contains(&text));
            }
        }
    }

    #[test]
    fn the_batch_is_a_function_of_seed_and_step() {
        let corpus = corpus(&numbered(500), &numbered(500));
        let run: Vec<Batch> = (0..6).map(|step| corpus.train(1, step, 2, 16)).collect();
        // A run resumed at step 3 sees what the first run saw from there.
        let resumed: Vec<Batch> = (3..6).map(|step| corpus.train(1, step, 2, 16)).collect();
        assert_eq!(run[3..], resumed);
        assert_ne!(run[0], run[1]);
        assert_ne!(run[0], corpus.train(2, 0, 2, 16));
        assert_ne!(&run[0].ids[..16], &run[0].ids[16..]);
    }

    #[test]
    fn the_first_batch_of_a_seed_never_changes() {
        // Fails when an update of `rand` changes what a seed means: then say so in the log.
        let corpus = corpus(&numbered(500), &numbered(500));
        let batch = corpus.train(42, 0, 2, 8);
        assert_eq!(corpus.decode(&batch.ids), "00493\n00000119\n0");
    }

    #[test]
    fn validation_windows_do_not_overlap_and_cover_the_text() {
        let corpus = corpus(&numbered(500), &numbered(125)); // 1000 bytes, 31 windows of 32
        let mut starts: Vec<String> =
            (0..31).map(|index| corpus.decode(corpus.validation(index, 1, 32).row(0))).collect();
        assert_eq!(starts[0], numbered(125)[..32]);
        // The first few are far apart already.
        let place = |text: &String| corpus.validation_text().find(text.as_str()).unwrap();
        let mut early: Vec<usize> = starts[..4].iter().map(place).collect();
        early.sort_unstable();
        assert!(early.windows(2).all(|w| w[1] - w[0] >= 128), "{early:?}");
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 31);
        // A batch of rows is the same windows in the same order.
        let batch = corpus.validation(1, 5, 32);
        assert_eq!(batch.row(2), corpus.validation(7, 1, 32).row(0));
        assert_eq!(corpus.validation(31, 1, 32), corpus.validation(0, 1, 32));
    }

    #[test]
    fn the_shortest_text_that_fits_is_used_to_its_last_byte() {
        let corpus = corpus("abcdefgh!", "abcdefgh!");
        assert_eq!(corpus.train(0, 0, 1, 8).targets[7], i32::from(b'!'));
        assert_eq!(corpus.validation(3, 1, 8).targets[7], i32::from(b'!'));
    }

    #[test]
    fn a_text_shorter_than_the_window_is_refused_with_both_sizes() {
        let message = corpus(&numbered(9), "12 bytes....").check(64).unwrap_err().to_string();
        for part in ["validation", "12 bytes", "time 64", "65", "at most 11"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(corpus("ab", "ab").check(0).unwrap_err().to_string().contains("time = 0"));
    }

    #[test]
    fn decoding_shows_what_is_no_byte() {
        let corpus = corpus("ab", "ab");
        assert_eq!(corpus.decode(&Corpus::encode("naïve")), "naïve");
        assert_eq!(corpus.decode(&[104, 256, 105, -1]), "h<256>i<-1>");
    }
}
