//! Text datasets of the Hugging Face Hub.

mod select;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::PathBuf;

use ::hub::{Entry, Kind, Repository};
use serde::{Deserialize, Serialize};

use select::{fits, is_text};

use super::files::{few, read_all, text_field, walk};
use super::split::named;
use super::{Corpus, megabytes};
use crate::DatasetError;

/// A text dataset of the Hugging Face Hub by name.
///
/// Read are the `.txt`, `.md` (without `README.md`, the dataset's card), `.jsonl` and `.parquet`
/// files (their field `field`), in the order of their paths; a file that does not fit in what is
/// left of `bytes`, as large as it is on the Hub, is passed over. Files are kept in the cache every Hugging Face tool shares (`HF_HUB_CACHE`,
/// `HF_HOME`), and where the Hub does not answer, or `HF_HUB_OFFLINE=1`, a complete earlier download
/// is used. `HF_TOKEN` opens private and gated datasets. Split as [`PathConfig`](super::PathConfig)
/// says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// `owner/name`, as in the dataset's address.
    pub name: String,
    /// Branch, tag or commit. Default `main`, which may change under you: for an experiment to be
    /// repeated, give the commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// Only files whose path begins with this: the folder of one configuration, such as
    /// `wikitext-2-raw-v1/` of `Salesforce/wikitext`. Default: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subset: String,
    /// Which field of a `.jsonl` or `.parquet` file is the text. Default `text`.
    #[serde(default = "text_field")]
    pub field: String,
    /// The most bytes of text files to take. Default 64,000,000.
    #[serde(default = "default_bytes")]
    pub bytes: usize,
    /// Base URL; default the variable `HF_ENDPOINT`, else `https://huggingface.co`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Cache folder; default the shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

fn main_branch() -> String {
    "main".into()
}

fn default_bytes() -> usize {
    64_000_000
}

impl HubConfig {
    /// The dataset `name` with every default.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            revision: main_branch(),
            subset: String::new(),
            field: text_field(),
            bytes: default_bytes(),
            endpoint: None,
            cache: None,
        }
    }
}

pub(super) fn open(config: &HubConfig) -> Result<Corpus, DatasetError> {
    corpus(config, &repository(config)?)
}

fn repository(config: &HubConfig) -> Result<Repository, DatasetError> {
    if config.name.trim().is_empty() {
        return Err(DatasetError::Parameter {
            dataset: "corpus",
            parameter: "name",
            value: format!("{:?}", config.name),
            expected: "`owner/name` of a dataset on the Hub".into(),
        });
    }
    let usual = Repository::new(Kind::Dataset, &config.name);
    Ok(Repository {
        revision: config.revision.clone(),
        endpoint: config.endpoint.clone().unwrap_or(usual.endpoint),
        cache: config.cache.clone().unwrap_or(usual.cache),
        ..usual
    })
}

fn corpus(config: &HubConfig, repository: &Repository) -> Result<Corpus, DatasetError> {
    let left_out = RefCell::new(Vec::new());
    let choose = |entries: &[Entry]| -> Result<Vec<String>, DatasetError> {
        let (chosen, larger) = choose(config, repository, entries)?;
        *left_out.borrow_mut() = larger;
        Ok(chosen)
    };
    let folder = repository.fetch(choose, |_| true)?;
    let mut files = walk(&folder)?;
    let mut left = config.bytes as u64;
    files.retain(|file| {
        let path = file.strip_prefix(&folder).unwrap_or(file).to_string_lossy();
        let size = file.metadata().map_or(0, |m| m.len());
        wants(config, &path) && fits(&mut left, size)
    });
    let HubConfig { name, revision, bytes, .. } = config;
    let source = format!("`{name}` (revision {revision}, at most {})", megabytes(*bytes));
    let (documents, mut about) = read_all(&folder, &files, &config.field, &source)?;
    let left_out = left_out.into_inner();
    if !left_out.is_empty() {
        about += &format!("; {} left out, too large for the rest of `bytes`: {}", left_out.len(), few(&left_out));
    }
    Corpus::from_documents(name.clone(), &about, documents)
}

fn wants(config: &HubConfig, path: &str) -> bool {
    path.starts_with(&config.subset) && is_text(path)
}

/// The text files that fit, and those that do not, with their sizes.
///
/// # Errors
/// Where none does, or none of those that train while others do: held-out text alone would be trained on.
fn choose(
    config: &HubConfig,
    repository: &Repository,
    entries: &[Entry],
) -> Result<(Vec<String>, Vec<String>), DatasetError> {
    let (text, other): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| wants(config, &entry.path));
    let (name, endpoint) = (config.name.clone(), repository.endpoint.clone());
    if text.is_empty() {
        let names: Vec<String> = other.into_iter().map(|entry| entry.path.clone()).collect();
        let found = if names.is_empty() { "no files".into() } else { few(&names) };
        let subset = config.subset.clone();
        return Err(DatasetError::NoText { name, endpoint, subset, found });
    }
    let mut left = config.bytes as u64;
    let (chosen, larger): (Vec<&Entry>, Vec<&Entry>) = text.into_iter().partition(|entry| fits(&mut left, entry.size));
    let trains = |files: &[&Entry]| files.iter().any(|entry| named(&entry.path) == Some(true));
    let held_out = chosen.iter().any(|entry| named(&entry.path) == Some(false));
    let sizes = |entry: &&Entry| format!("{} ({})", entry.path, megabytes(entry.size as usize));
    let larger_ones: Vec<String> = larger.iter().map(sizes).collect();
    if chosen.is_empty() || held_out && trains(&larger) && !trains(&chosen) {
        return Err(DatasetError::TooLarge { name, bytes: config.bytes, found: few(&larger_ones) });
    }
    Ok((chosen.into_iter().map(|entry| entry.path.clone()).collect(), larger_ones))
}
