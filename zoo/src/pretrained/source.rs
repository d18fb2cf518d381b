//! Where a checkpoint comes from: a folder, or a model on the Hugging Face Hub.

use super::shards::weight_map;
use super::{is_pretrained, load};
use crate::checkpoint::{CONFIG, INDEX, WEIGHTS, read_text};
use crate::{Decoder, ModelConfig, ZooError, checkpoint};
use burn::tensor::Device;
use hub::{Entry, HubError, Kind, Repository};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Taken where they are.
pub(super) const BESIDE: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

impl Decoder {
    /// A checkpoint by name: a folder of ours or of Hugging Face's, or a model on the Hub,
    /// `owner/name`, `owner/name/folder`, either with `@revision`. Its configuration comes with it.
    ///
    /// ```no_run
    /// let (config, model) = zoo::Decoder::from_pretrained("Qwen/Qwen3-0.6B", &Default::default())?;
    /// # Ok::<(), zoo::ZooError>(())
    /// ```
    ///
    /// # Errors
    /// As [`locate`], [`load`] and [`checkpoint::load`].
    pub fn from_pretrained(name: impl AsRef<Path>, device: &Device) -> Result<(ModelConfig, Self), ZooError> {
        let dir = locate(name)?;
        if is_pretrained(&dir) { load(&dir, device) } else { checkpoint::load(&dir, device) }
    }
}

/// The folder of a checkpoint by name, as [`Decoder::from_pretrained`] takes it; a model on the Hub is
/// downloaded into the cache that every Hugging Face tool shares: `config.json`, the weights, and
/// `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` where there are.
///
/// # Errors
/// What the name could have meant and why it is not that: no such folder, nor a model on the Hub.
pub fn locate(name: impl AsRef<Path>) -> Result<PathBuf, ZooError> {
    let path = name.as_ref();
    if path.is_dir() {
        return Ok(path.into());
    }
    let name = path.to_string_lossy();
    let explain = |problem: String| ZooError::Source { name: name.to_string(), problem };
    if path.exists() {
        return Err(explain(format!("it is a file, and a checkpoint is the folder with {CONFIG} and safetensors")));
    }
    let model = HubModel::parse(&name).ok_or_else(|| {
        explain(
            "nor a name on the Hub, which would be owner/name or owner/name/folder, with or without @revision".into(),
        )
    })?;
    model.folder().map_err(|problem| explain(format!("as a model on the Hub: {problem}")))
}

/// The ids that end a text, as `generation_config.json` or else `config.json` say; none for a model
/// that never ends.
///
/// # Errors
/// A file that is no JSON, or an `eos_token_id` that is no id, with the file's name.
pub fn stop_ids(dir: &Path) -> Result<Vec<i32>, ZooError> {
    for path in [dir.join("generation_config.json"), dir.join(CONFIG)] {
        if !path.exists() {
            continue;
        }
        let problem = |problem: String| ZooError::Checkpoint { path: path.clone(), problem };
        let fields: Value = serde_json::from_str(&read_text(&path)?).map_err(|e| problem(e.to_string()))?;
        let ids = match &fields["eos_token_id"] {
            Value::Null => continue,
            Value::Array(ids) => ids.as_slice(),
            one => std::slice::from_ref(one),
        };
        let id = |id: &Value| {
            let number = id.as_u64().and_then(|id| i32::try_from(id).ok());
            number.ok_or_else(|| problem(format!("eos_token_id is {id}, expected a token id or a list of them")))
        };
        return ids.iter().map(id).collect();
    }
    Ok(Vec::new())
}

/// A checkpoint in a repository of the Hub.
struct HubModel {
    repository: Repository,
    /// With a slash at its end; empty for the repository's own.
    folder: String,
}

impl HubModel {
    /// `owner/name[/folder][@revision]`; a revision may hold slashes, so it is last.
    fn parse(text: &str) -> Option<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let word = |part: &&str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if parts.len() < 2 || !parts.iter().all(word) || revision.is_some_and(|r| r.trim().is_empty()) {
            return None;
        }
        let mut repository = Repository::new(Kind::Model, parts[..2].join("/"));
        repository.revision = revision.unwrap_or("main").into();
        Some(Self { repository, folder: parts[2..].iter().map(|part| format!("{part}/")).collect() })
    }

    /// The folder with everything that [`load`] reads, downloaded where it is not in the cache.
    fn folder(&self) -> Result<PathBuf, Problem> {
        let begun = |root: &Path| {
            let has = |file| root.join(&self.folder).join(file).exists();
            has(CONFIG) && (has(WEIGHTS) || has(INDEX))
        };
        let root = self.repository.fetch(|entries| self.choose(entries), begun)?;
        let dir = root.join(&self.folder);
        if dir.join(INDEX).exists() {
            let index = weight_map(&dir.join(INDEX)).map_err(|e| Problem(e.to_string()))?;
            let names: BTreeSet<String> = index.into_values().collect();
            let shards: Vec<String> = names.iter().map(|shard| format!("{}{shard}", self.folder)).collect();
            let complete = |root: &Path| shards.iter().all(|shard| root.join(shard).exists());
            if !complete(&root) {
                // Of the same commit, whatever the branch is by now.
                let revision = root.file_name().unwrap_or_default().to_string_lossy().into();
                let pinned = Repository { revision, ..self.repository.clone() };
                let choose = |entries: &[Entry]| match shards.iter().find(|s| entries.iter().all(|e| e.path != **s)) {
                    Some(absent) => Err(Problem(format!("{INDEX} names {absent}, which `{}` lacks", pinned.name))),
                    None => Ok(shards.clone()),
                };
                pinned.fetch(choose, complete)?;
            }
        }
        Ok(dir)
    }

    /// All but the shards, which the index names.
    fn choose(&self, entries: &[Entry]) -> Result<Vec<String>, Problem> {
        let found = |file: &str| {
            let path = format!("{}{file}", self.folder);
            entries.iter().any(|entry| entry.path == path).then_some(path)
        };
        let missing = |what: &str| {
            let folders = entries.iter().filter_map(|entry| entry.path.strip_suffix(CONFIG)?.strip_suffix('/'));
            let folders: Vec<&str> = folders.collect();
            let elsewhere = match folders[..] {
                [] => String::new(),
                _ => format!("; folders with a {CONFIG}: {}", folders.join(", ")),
            };
            Problem(format!("`{}` holds no {}{what}{elsewhere}", self.repository.name, self.folder))
        };
        let config = found(CONFIG).ok_or_else(|| missing(CONFIG))?;
        let weights = found(INDEX).or_else(|| found(WEIGHTS));
        let weights = weights.ok_or_else(|| missing(&format!("{WEIGHTS} and no {INDEX}")))?;
        Ok([config, weights].into_iter().chain(BESIDE.iter().filter_map(|file| found(file))).collect())
    }
}

/// Why a name is not a model on the Hub.
#[derive(Debug)]
struct Problem(String);

impl From<HubError> for Problem {
    fn from(error: HubError) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
