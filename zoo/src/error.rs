//! What can be wrong with a configuration, a checkpoint or a token.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ZooError {
    #[error("{what} {size} is not divisible by {by} {count}")]
    Indivisible { what: &'static str, size: usize, by: &'static str, count: usize },
    #[error("{name} must be {expected}, got {value}")]
    Invalid { name: &'static str, value: String, expected: String },
    #[error("unknown {what} `{name}`; valid: {}", valid.join(", "))]
    Unknown { what: &'static str, name: String, valid: Vec<String> },
    #[error("token id {id} at position {position} is outside the vocabulary 0..{vocab_size}")]
    Token { id: i64, position: usize, vocab_size: usize },
    #[error("{count} token ids do not fill [batch {batch}, time {time}]")]
    TokenShape { count: usize, batch: usize, time: usize },
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{}: {problem}", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error("`{name}` is no folder that exists; {problem}")]
    Source { name: String, problem: String },
}

pub(crate) fn divisible(what: &'static str, size: usize, by: &'static str, count: usize) -> Result<usize, ZooError> {
    if count == 0 || !size.is_multiple_of(count) || size == 0 {
        return Err(ZooError::Indivisible { what, size, by, count });
    }
    Ok(size / count)
}

/// Larger than any size of a model, and small enough that no parameter count overflows.
const MOST: usize = 1 << 20;

pub(crate) fn positive(name: &'static str, value: usize) -> Result<usize, ZooError> {
    let expected = match value {
        0 => "at least 1".into(),
        1..=MOST => return Ok(value),
        _ => format!("at most {MOST}"),
    };
    Err(ZooError::Invalid { name, value: value.to_string(), expected })
}

pub(crate) fn positive_number(name: &'static str, value: f64) -> Result<(), ZooError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(ZooError::Invalid { name, value: value.to_string(), expected: "a positive number".into() })
}
