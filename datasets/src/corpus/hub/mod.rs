//! Text datasets of the Hugging Face Hub, through `hf-hub`'s blocking client and its cache.

mod progress;
mod select;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepositorySync, RepoTypeDataset, split_id};
use serde::{Deserialize, Serialize};

use progress::{Bar, Watch};
use select::{fits, is_text, literal};

use super::files::{few, read_all, text_field, walk};
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
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
    Fetch::new(config, offline, Duration::from_secs(15), Duration::from_secs(90))?.corpus()
}

/// One fetch: the dataset, where it is asked for, and how long silence is borne.
struct Fetch {
    config: HubConfig,
    endpoint: String,
    cache: PathBuf,
    repository: HFRepositorySync<RepoTypeDataset>,
    offline: bool,
    /// For the first answer: a network that swallows packets should be found out soon.
    answer_within: Duration,
    /// Between two signs of life of a download.
    silence: Duration,
}

impl Fetch {
    fn new(
        config: &HubConfig,
        offline: bool,
        answer_within: Duration,
        silence: Duration,
    ) -> Result<Self, DatasetError> {
        if config.name.trim().is_empty() {
            return Err(DatasetError::Parameter {
                dataset: "corpus",
                parameter: "name",
                value: format!("{:?}", config.name),
                expected: "`owner/name` of a dataset on the Hub".into(),
            });
        }
        let endpoint = config
            .endpoint
            .clone()
            .or_else(|| std::env::var("HF_ENDPOINT").ok())
            .unwrap_or_else(|| "https://huggingface.co".into());
        let cache = config.cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir);
        // Few and short retries: someone is waiting, and there may be a copy in the cache.
        let client =
            HFClient::builder().endpoint(&endpoint).cache_dir(&cache).retry_max_attempts(2).build_sync().map_err(
                |error| DatasetError::Hub {
                    name: config.name.clone(),
                    endpoint: endpoint.clone(),
                    revision: config.revision.clone(),
                    message: error.to_string(),
                },
            )?;
        let (owner, name) = split_id(&config.name);
        let repository = client.dataset(owner, name);
        let config = config.clone();
        Ok(Self { config, endpoint, cache, repository, offline, answer_within, silence })
    }

    fn corpus(&self) -> Result<Corpus, DatasetError> {
        let folder = if self.offline {
            self.cached().ok_or_else(|| self.unreachable("HF_HUB_OFFLINE is set"))?
        } else {
            match self.download() {
                Err(error @ DatasetError::Offline { .. }) => {
                    let folder = self.cached().ok_or(error)?;
                    eprintln!("{} does not answer; using the cached copy", self.endpoint);
                    folder
                }
                other => other?,
            }
        };
        let mut files = walk(&folder)?;
        let mut left = self.config.bytes as u64;
        files.retain(|file| {
            let path = file.strip_prefix(&folder).unwrap_or(file).to_string_lossy();
            let size = file.metadata().map_or(0, |m| m.len());
            self.wants(&path) && fits(&mut left, size)
        });
        let HubConfig { name, revision, bytes, .. } = &self.config;
        let source = format!("`{name}` (revision {revision}, at most {})", megabytes(*bytes));
        let (documents, about) = read_all(&folder, &files, &self.config.field, &source)?;
        Corpus::from_documents(self.config.name.clone(), &about, documents)
    }

    /// The folder of a complete earlier download.
    fn cached(&self) -> Option<PathBuf> {
        // The reference a local look-up goes by is written only after the last file.
        let request = self.repository.snapshot_download();
        request.revision(&self.config.revision).local_files_only(true).send().ok()
    }

    fn download(&self) -> Result<PathBuf, DatasetError> {
        let repository = self.repository.clone();
        let revision = self.config.revision.clone();
        let watch = Arc::new(Watch::default());
        self.patiently(self.answer_within, &watch, {
            let (repository, revision) = (repository.clone(), revision.clone());
            move || repository.info().revision(revision).send().map(drop)
        })?;
        let entries = self.patiently(self.silence, &watch, {
            let (repository, revision) = (repository.clone(), revision.clone());
            move || repository.list_tree().revision(revision).recursive(true).send()
        })?;
        let names = self.choose(entries)?;

        let patterns: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let label = self.config.name.clone();
        self.patiently(self.silence, &watch.clone(), move || {
            let bar = Bar::new(label, watch);
            repository.snapshot_download().revision(revision).allow_patterns(patterns).progress(bar).send()
        })
    }

    fn wants(&self, path: &str) -> bool {
        path.starts_with(&self.config.subset) && is_text(path)
    }

    /// The text files that fit.
    fn choose(&self, entries: Vec<RepoTreeEntry>) -> Result<Vec<String>, DatasetError> {
        let mut files: Vec<(String, u64)> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                RepoTreeEntry::File { path, size, .. } => Some((path, size)),
                RepoTreeEntry::Directory { .. } => None,
            })
            .collect();
        // By path components, as the files will be read.
        files.sort_by(|a, b| Path::new(&a.0).cmp(Path::new(&b.0)));
        let (text, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, _)| self.wants(path));
        let (name, endpoint) = (self.config.name.clone(), self.endpoint.clone());
        if text.is_empty() {
            let names: Vec<String> = other.into_iter().map(|(path, _)| path).collect();
            let found = if names.is_empty() { "no files".into() } else { few(&names) };
            let subset = self.config.subset.clone();
            return Err(DatasetError::NoText { name, endpoint, subset, found });
        }
        let mut left = self.config.bytes as u64;
        let chosen: Vec<String> =
            text.iter().filter(|(_, size)| fits(&mut left, *size)).map(|(path, _)| path.clone()).collect();
        if chosen.is_empty() {
            let sizes: Vec<String> =
                text.iter().map(|(path, size)| format!("{path} ({})", megabytes(*size as usize))).collect();
            let (bytes, found) = (self.config.bytes, few(&sizes));
            return Err(DatasetError::TooLarge { name, bytes, found });
        }
        Ok(chosen)
    }

    /// Runs a request on a thread of its own and gives it up after `silence` without a sign of
    /// life. `hf-hub` sets no time limits, and a firewall that drops packets would hold the caller
    /// for minutes. The abandoned thread ends when the system gives its connection up.
    fn patiently<T: Send + 'static>(
        &self,
        silence: Duration,
        watch: &Arc<Watch>,
        request: impl FnOnce() -> Result<T, HFError> + Send + 'static,
    ) -> Result<T, DatasetError> {
        let (send, receive) = mpsc::channel();
        watch.touch();
        std::thread::spawn(move || send.send(request()));
        loop {
            let left = silence.saturating_sub(watch.quiet_for());
            match receive.recv_timeout(left) {
                Ok(result) => return result.map_err(|error| self.explain(error)),
                Err(mpsc::RecvTimeoutError::Timeout) if watch.quiet_for() < silence => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let reason = format!("no answer within {} s", silence.as_secs_f32());
                    return Err(self.unreachable(&reason));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.unreachable("the request was abandoned"));
                }
            }
        }
    }

    /// What a failure means to the person who named the dataset.
    fn explain(&self, error: HFError) -> DatasetError {
        let message = match &error {
            HFError::Request { .. } => return self.unreachable(&chain(&error)),
            HFError::RepoNotFound { .. } => "there is no such dataset; check the spelling, `owner/name`".into(),
            HFError::RevisionNotFound { .. } => "the dataset or its revision does not exist; check both".into(),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                format!(
                    "{error}; a private or gated dataset needs HF_TOKEN (a name that does not \
                         exist is answered in the same way)"
                )
            }
            _ => chain(&error),
        };
        DatasetError::Hub {
            name: self.config.name.clone(),
            endpoint: self.endpoint.clone(),
            revision: self.config.revision.clone(),
            message,
        }
    }

    fn unreachable(&self, reason: &str) -> DatasetError {
        DatasetError::Offline {
            name: self.config.name.clone(),
            endpoint: self.endpoint.clone(),
            reason: reason.to_owned(),
            cache: self.cache.clone(),
        }
    }
}

/// An error with its causes; the outermost alone says "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
