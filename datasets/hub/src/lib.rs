//! Files of a repository on the Hugging Face Hub: downloaded with progress, kept in the cache that
//! every Hugging Face tool shares, and loud when offline.
//!
//! `hf-hub` does the work. This crate chooses files before it downloads them, shows how far it is,
//! gives up on silence, checks what came against the listing, and falls back on a complete earlier
//! download where the Hub does not answer.

mod error;
mod listing;
mod progress;

pub use error::HubError;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepositorySync, RepoTypeAny, split_id};
use progress::{Bar, Watch};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Texts and tables.
    Dataset,
    /// A configuration and weights.
    Model,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dataset => "dataset",
            Self::Model => "model",
        })
    }
}

impl Kind {
    fn copy_on_disk(self) -> &'static str {
        match self {
            Self::Dataset => "use it as a path corpus",
            Self::Model => "give its path",
        }
    }

    /// How many files are fetched at once. `hf-hub` starts an interrupted file anew, and weights are
    /// few and large: one at a time, so that one at most is lost.
    fn at_once(self) -> usize {
        match self {
            Self::Dataset => 8,
            Self::Model => 1,
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// A repository, where it is asked for, and how long silence is borne.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Dataset or model.
    pub kind: Kind,
    /// `owner/name`, as in its address.
    pub name: String,
    /// Branch, tag or commit; `main` may change under you.
    pub revision: String,
    /// Base URL; by default the variable `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// Cache folder; by default the shared one (`HF_HUB_CACHE`, `HF_HOME`).
    pub cache: PathBuf,
    /// Whether to use the cache without asking, as `HF_HUB_OFFLINE=1` says.
    pub offline: bool,
    /// For the first answer: a network that swallows packets should be found out soon.
    pub answer_within: Duration,
    /// Between two signs of life of a download.
    pub silence: Duration,
}

impl Repository {
    /// The repository at revision `main`, reached as the environment says. `HF_TOKEN` opens private
    /// and gated ones.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            revision: "main".into(),
            endpoint: std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into()),
            cache: hf_hub::resolve_cache_dir(),
            offline: std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| says_yes(&value)),
            answer_within: Duration::from_secs(15),
            silence: Duration::from_secs(90),
        }
    }

    /// The folder that holds the files which `choose` picks from the listing, each at its path.
    ///
    /// Files that are in the cache are not fetched again. Where the Hub does not answer or is too busy to, or the cache
    /// cannot be written, the folder of an earlier download serves, if it holds everything that `choose` picks from the
    /// listing of that time, and a line says why.
    /// Other programs keep no listing; of what they downloaded `complete` decides.
    ///
    /// # Errors
    /// [`HubError`], and whatever `choose` returns.
    pub fn fetch<E: From<HubError>>(
        &self,
        choose: impl Fn(&[Entry]) -> Result<Vec<String>, E>,
        complete: impl Fn(&Path) -> bool,
    ) -> Result<PathBuf, E> {
        let (error, listed) = match self.connect().and_then(|connection| Ok((self.list(&connection)?, connection))) {
            Ok((entries, connection)) => match self.download(connection, choose(&entries)?, &entries) {
                Ok(folder) => {
                    if let Err(error) = listing::write(&folder, &entries) {
                        eprintln!("what {} lists could not be noted for times without a network: {error}", self.name);
                    }
                    return Ok(folder);
                }
                // The half that has just come is no earlier download.
                Err(error) => (error, Some(entries)),
            },
            Err(error) => (error, None),
        };
        let HubError::Offline { reason, .. } = &error else { return Err(error.into()) };
        let request = self.handle()?;
        let request = request.snapshot_download().revision(&self.revision).local_files_only(true);
        let Ok(folder) = request.send() else { return Err(error.into()) };
        let whole = match listed.or_else(|| listing::read(&folder)) {
            Some(entries) => choose(&entries)?.iter().all(|name| folder.join(name).is_file()),
            None => complete(&folder),
        };
        if !whole {
            return Err(error.into());
        }
        if !self.offline {
            eprintln!("{}: {reason}; using the cached copy of {}", self.endpoint, self.name);
        }
        Ok(folder)
    }

    fn handle(&self) -> Result<HFRepositorySync<RepoTypeAny>, HubError> {
        // Few and short retries: someone is waiting, and there may be a copy in the cache.
        let client = HFClient::builder().endpoint(&self.endpoint).cache_dir(&self.cache).retry_max_attempts(2);
        let client = client.build_sync().map_err(|error| self.refused(error.to_string()))?;
        let (owner, name) = split_id(&self.name);
        let kind = match self.kind {
            Kind::Dataset => RepoTypeAny::Dataset,
            Kind::Model => RepoTypeAny::Model,
        };
        Ok(client.repository(kind, owner, name))
    }

    /// A repository that answers and has the revision.
    fn connect(&self) -> Result<HFRepositorySync<RepoTypeAny>, HubError> {
        if self.offline {
            return Err(self.unreachable("HF_HUB_OFFLINE is set"));
        }
        let handle = self.handle()?;
        let watch = Arc::default();
        let (there, revision) = (handle.clone(), self.revision.clone());
        let ask = move || there.revision_exists().revision(&revision).send();
        if self.patiently(self.answer_within, &watch, ask)? {
            return Ok(handle);
        }
        let there = handle.clone();
        let exists = self.patiently(self.answer_within, &watch, move || there.exists().send())?;
        Err(self.refused(if exists {
            format!("it has no revision `{}`; a branch, a tag or a commit is expected, such as main", self.revision)
        } else {
            format!("there is no such {}: it does not exist; check the spelling, `owner/name`", self.kind)
        }))
    }

    fn list(&self, handle: &HFRepositorySync<RepoTypeAny>) -> Result<Vec<Entry>, HubError> {
        let (handle, revision) = (handle.clone(), self.revision.clone());
        let ask = move || handle.list_tree().revision(revision).recursive(true).send();
        let entries = self.patiently(self.silence, &Arc::default(), ask)?;
        let file = |entry| match entry {
            RepoTreeEntry::File { path, size, .. } => Some(Entry { path, size }),
            RepoTreeEntry::Directory { .. } => None,
        };
        // A listing does not name files outside its folder.
        let inside = |entry: &Entry| Path::new(&entry.path).components().all(|c| matches!(c, Component::Normal(_)));
        let mut files: Vec<Entry> = entries.into_iter().filter_map(file).filter(inside).collect();
        // By path components, as a folder is read.
        files.sort_by(|a, b| Path::new(&a.path).cmp(Path::new(&b.path)));
        Ok(files)
    }

    fn download(
        &self,
        handle: HFRepositorySync<RepoTypeAny>,
        names: Vec<String>,
        entries: &[Entry],
    ) -> Result<PathBuf, HubError> {
        let patterns: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let (label, revision, at_once) = (self.name.clone(), self.revision.clone(), self.kind.at_once());
        let watch = Arc::<Watch>::default();
        let folder = self.patiently(self.silence, &watch.clone(), move || {
            let bar = Bar::new(label, watch);
            let request = handle.snapshot_download().revision(revision).allow_patterns(patterns);
            request.max_workers(at_once).progress(bar).send()
        })?;
        for entry in entries.iter().filter(|entry| names.contains(&entry.path)) {
            self.check(&folder.join(&entry.path), entry)?;
        }
        Ok(folder)
    }

    /// `hf-hub` keeps whatever body a server sends, an error page too, as the file that was asked for.
    fn check(&self, path: &Path, entry: &Entry) -> Result<(), HubError> {
        let found = path.metadata().map_or(0, |data| data.len());
        if found == entry.size && path.exists() {
            return Ok(());
        }
        // The link and the blob behind it, so that the next attempt fetches it again.
        for file in [path.canonicalize().ok().as_deref(), Some(path)].into_iter().flatten() {
            let _ = std::fs::remove_file(file);
        }
        let Entry { path, size } = entry;
        Err(self.refused(format!("{path} came as {found} bytes, the listing says {size}; it was not kept, run again")))
    }

    /// Runs a request on a thread of its own and gives it up after `silence` without a sign of
    /// life. `hf-hub` sets no time limits, and a firewall that drops packets would hold the caller
    /// for minutes. The abandoned thread ends when the system gives its connection up.
    fn patiently<T: Send + 'static>(
        &self,
        silence: Duration,
        watch: &Arc<Watch>,
        request: impl FnOnce() -> Result<T, HFError> + Send + 'static,
    ) -> Result<T, HubError> {
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

    /// What a failure means to the person who named the repository.
    fn explain(&self, error: HFError) -> HubError {
        match &error {
            HFError::Request { .. } | HFError::RateLimited { .. } => self.unreachable(&chain(&error)),
            // A server that cannot answer now, or that waited too long for the question.
            HFError::Http { context } if context.status.is_server_error() || context.status.as_u16() == 408 => {
                self.unreachable(&chain(&error))
            }
            HFError::Io(error) => self.unreachable(&format!("{} could not be written: {error}", self.cache.display())),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => self.refused(format!(
                "{error}; a private or gated {} needs HF_TOKEN (a name that does not exist is answered in the same way)",
                self.kind
            )),
            _ => self.refused(chain(&error)),
        }
    }

    fn unreachable(&self, reason: &str) -> HubError {
        HubError::Offline {
            kind: self.kind,
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            reason: reason.to_owned(),
            cache: self.cache.clone(),
        }
    }

    fn refused(&self, message: String) -> HubError {
        HubError::Refused {
            kind: self.kind,
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            revision: self.revision.clone(),
            message,
        }
    }
}

/// As Hugging Face's own library reads a switch.
fn says_yes(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A glob pattern that matches this path and no other.
fn literal(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            '*' | '?' | '[' | ']' | '{' | '}' => format!("[{c}]"),
            c => c.to_string(),
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_where_hugging_face_s_own_library_takes_it_for_on() {
        assert!(["1", "ON", "on", "Yes", "true", "TRUE"].into_iter().all(says_yes));
        assert!(!["", "0", "no", "off", "false", "False", "2"].into_iter().any(says_yes));
    }
}
