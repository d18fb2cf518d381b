//! Synthetic tasks whose right answers are known, generated from a seed without end.
//!
//! Training, validation and depth-controlled examples come from streams of random numbers that no
//! seed can make coincide.

mod babi;
mod mqar;
mod needle;

pub use babi::{Babi, BabiBatch, BabiExample, BabiLine, BabiStory, BabiTask, BabiVocabulary, parse_babi, read_babi};
pub use mqar::{Mqar, MqarConfig};
pub use needle::{Needle, NeedleConfig};

use crate::DatasetError;

/// Ids as symbols, separated by spaces.
fn symbols(ids: &[i32], symbol: impl Fn(usize) -> String) -> String {
    let words: Vec<String> =
        ids.iter().map(|&id| usize::try_from(id).map_or_else(|_| format!("<{id}>"), &symbol)).collect();
    words.join(" ")
}

/// The one error of the tasks.
fn parameter(dataset: &'static str, parameter: &'static str, value: impl ToString, expected: String) -> DatasetError {
    DatasetError::Parameter { dataset, parameter, value: value.to_string(), expected }
}
