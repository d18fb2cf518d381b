//! The corpus that is on every machine that has built the project: the sources of burn and what it stands on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{few, walk};
use super::split::Document;
use super::workspace::{packages, target_env, workspace_root};
use super::{Corpus, cache};
use crate::DatasetError;
use crate::random::stable_hash;

/// The Rust sources of burn and of everything it is built from, as pinned by `Cargo.lock`.
///
/// Found through `cargo metadata --offline --locked` with the platform of this machine; taken are
/// the packages of a registry (not the workspace's, not patched ones) whose sources are on disk,
/// ordered by name and version, and of each the `*.rs` files that are UTF-8, `src/` first, in the
/// order of their paths. What else the workspace depends on is not in it, so that a crate added for a
/// notebook changes no experiment.
///
/// `bytes` caps the whole. Every crate gets the same share: the largest s with
/// `Σ min(size of crate, s) ≤ bytes`, cut at the end of a line. So a few huge crates do not crowd
/// out the others, and every crate is in the corpus with its beginning.
///
/// Training and validation share no crate, nor a family of crates: all whose names agree up to the
/// first `-` or `_` (`gemm-f32` and `gemm-f64` are nearly the same text).
///
/// What is deterministic: the same versions in `Cargo.lock`, the same platform and the same `bytes` give the
/// same text, byte for byte. Another platform has a few other dependencies, and so other shares and
/// another text; [`describe`](crate::Dataset::describe) ends in a fingerprint that shows it.
///
/// The assembled text is kept in `.attention/corpus/` of the workspace under a name made of the
/// hash of all of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DependenciesConfig {
    /// The most bytes in all. Default 4,000,000.
    pub bytes: usize,
}

impl Default for DependenciesConfig {
    fn default() -> Self {
        Self { bytes: 4_000_000 }
    }
}

/// Whose sources, with all below it.
const FRAMEWORK: &str = "burn";

/// To be raised when the recipe changes, so that old caches are not taken for new.
const RECIPE: u32 = 2;

pub(super) fn open(config: &DependenciesConfig) -> Result<Corpus, DatasetError> {
    let root = workspace_root()?;
    open_in(&root, &root.join(".attention/corpus"), config)
}

fn open_in(root: &Path, folder: &Path, config: &DependenciesConfig) -> Result<Corpus, DatasetError> {
    let lock_path = root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock_path).map_err(DatasetError::io(&lock_path))?;
    let (os, arch, env) = (std::env::consts::OS, std::env::consts::ARCH, target_env());
    let key = format!("{RECIPE} {os} {arch} {env} {} {lock}", config.bytes);
    let path = folder.join(format!("dependencies-{:016x}.json", stable_hash(key.as_bytes())));
    if let Some(corpus) = cache::load(&path) {
        return Ok(corpus);
    }
    let corpus = assemble(root, config)?;
    // A checkout that cannot be written to still has its corpus; the next opening just takes
    // as long again.
    let _ = cache::store(&path, &corpus);
    Ok(corpus)
}

fn assemble(root: &Path, config: &DependenciesConfig) -> Result<Corpus, DatasetError> {
    let mut crates = Vec::new();
    for (name, folder) in packages(root, FRAMEWORK)? {
        let files = sources(&folder)?;
        crates.push((name, folder, files));
    }
    let sizes: Vec<usize> = crates.iter().map(|(_, _, files)| files.iter().map(|(_, size)| size).sum()).collect();
    let share = fair_share(&sizes, config.bytes);

    let (mut documents, mut skipped) = (Vec::new(), Vec::new());
    for (name, folder, files) in crates {
        let text = beginning(&files, share, |file| {
            let short = file.strip_prefix(&folder).unwrap_or(file);
            skipped.push(format!("{name}/{}", short.display()));
        })?;
        if !text.is_empty() {
            // The version is for the order only: all versions of a crate are one family.
            let family = name.split(['-', '_', ' ']).next().unwrap_or(&name).to_owned();
            documents.push(Document { name, group: family, text });
        }
    }
    let mut about = format!("Rust sources of {} crates, the first {share} bytes of each at most", documents.len());
    if !skipped.is_empty() {
        about += &format!("; {} files skipped, not UTF-8: {}", skipped.len(), few(&skipped));
    }
    Corpus::from_documents("dependencies".into(), &about, documents)
}

/// The `*.rs` files of a crate with their sizes, `src/` first.
fn sources(folder: &Path) -> Result<Vec<(PathBuf, usize)>, DatasetError> {
    let mut files: Vec<PathBuf> = walk(folder)?;
    files.retain(|file| file.extension().is_some_and(|e| e == "rs"));
    let library = folder.join("src");
    files.sort_by_cached_key(|file| (!file.starts_with(&library), file.clone()));
    files
        .into_iter()
        .map(|file| {
            let size = fs::metadata(&file).map_err(DatasetError::io(&file))?.len();
            Ok((file, size as usize))
        })
        .collect()
}

/// The largest s with Σ min(size, s) ≤ total, found by giving the small ones all they have and
/// dividing what is left among the others.
fn fair_share(sizes: &[usize], total: usize) -> usize {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let mut left = total;
    for (done, &size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - done);
        if size > share {
            return share;
        }
        left -= size;
    }
    sizes.last().copied().unwrap_or(0)
}

/// Whole lines from the beginning of `files`, `limit` bytes at most. Files that are not UTF-8 are
/// passed to `skip`.
fn beginning(files: &[(PathBuf, usize)], limit: usize, mut skip: impl FnMut(&Path)) -> Result<String, DatasetError> {
    let mut text = String::new();
    for (file, _) in files {
        let bytes = fs::read(file).map_err(DatasetError::io(file))?;
        let Ok(source) = String::from_utf8(bytes) else {
            skip(file);
            continue;
        };
        for line in source.lines() {
            if text.len() + line.len() + 1 > limit {
                return Ok(text);
            }
            text += line;
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;
    use crate::corpus::workspace::root_from;
    use std::collections::BTreeSet;

    fn this_workspace() -> PathBuf {
        root_from(Path::new(env!("CARGO_MANIFEST_DIR")), true).unwrap()
    }

    #[test]
    fn the_dependencies_give_a_corpus_without_network() {
        let config = DependenciesConfig { bytes: 1_000_000 };
        let corpus = assemble(&this_workspace(), &config).unwrap();
        let (train, held_out) = (corpus.train_text(), corpus.validation_text());
        let bytes = train.len() + held_out.len();
        assert!(bytes <= config.bytes, "{bytes} bytes break the cap");
        assert!(bytes > config.bytes * 8 / 10, "{bytes} bytes leave the cap unused");
        assert!(held_out.len() * 10 >= bytes, "{} of {bytes} validation", held_out.len());

        let family = |name: &String| name.split(['-', '_', ' ']).next().unwrap().to_owned();
        let trained: BTreeSet<_> = corpus.train_documents().iter().map(family).collect();
        assert!(corpus.validation_documents().iter().all(|name| !trained.contains(&family(name))));
        assert!(corpus.train_documents().len() > 100);
        // A second assembly is the same text.
        let again = assemble(&this_workspace(), &config).unwrap();
        assert_eq!(again.describe(), corpus.describe());
        assert_eq!(again.train_text(), train);
        assert!(train.contains("fn ") && !train.contains("Attention Zoo"));
    }

    #[test]
    fn the_second_opening_reads_the_cache_and_another_cap_has_its_own() {
        let (root, folder) = (this_workspace(), tempfile::tempdir().unwrap());
        let open = |bytes| open_in(&root, folder.path(), &DependenciesConfig { bytes }).unwrap();
        let first = open(200_000);
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(cache::load(&file).unwrap().describe(), first.describe());
        // Marked, so that what comes from the cache can be told.
        let marked = fs::read_to_string(&file).unwrap().replace("fingerprint", "MARK");
        fs::write(&file, marked).unwrap();
        assert!(open(200_000).describe().contains("MARK"));
        assert!(!open(100_000).describe().contains("MARK"));
        fs::write(&file, "damaged").unwrap();
        assert_eq!(open(200_000).describe(), first.describe());
    }

    #[test]
    fn only_what_burn_stands_on_is_in_it() {
        let names: Vec<String> =
            packages(&this_workspace(), FRAMEWORK).unwrap().into_iter().map(|(name, _)| name).collect();
        let has = |start: &str| names.iter().any(|name| name.starts_with(start));
        assert!(has("burn ") && has("burn-core ") && has("cubecl-core ") && has("serde "), "{names:?}");
        // The command line's, the tables' and the figures'.
        assert!(!has("clap ") && !has("polars ") && !has("plotters "), "{names:?}");
    }

    #[test]
    fn every_crate_gets_the_same_share() {
        assert_eq!(fair_share(&[10, 100, 1000], 210), 100);
        assert_eq!(fair_share(&[10, 100, 1000], 150), 70);
        assert_eq!(fair_share(&[10, 100, 1000], 9), 3);
        assert_eq!(fair_share(&[10, 20], 1000), 20);
        for total in [0, 5, 77, 500, 5000] {
            let sizes = [3, 900, 14, 0, 250, 250];
            let share = fair_share(&sizes, total);
            assert!(sizes.iter().map(|&s| s.min(share)).sum::<usize>() <= total);
        }
    }

    #[test]
    fn a_workspace_cargo_cannot_resolve_is_an_error_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.toml"), "[workspace]\nmembers = [\"gone\"]\n").unwrap();
        fs::write(folder.path().join("Cargo.lock"), "version = 4\n").unwrap();
        let error = open_in(folder.path(), folder.path(), &DependenciesConfig::default()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("gone") && message.contains("cargo fetch"), "{message}");
    }
}
