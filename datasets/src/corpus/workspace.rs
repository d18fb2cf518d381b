//! The workspace this runs in, and the packages it depends on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::MetadataCommand;

use crate::DatasetError;

/// The C library, the part of the platform that `std::env::consts` leaves out.
pub(super) fn target_env() -> &'static str {
    if cfg!(target_env = "musl") {
        "musl"
    } else if cfg!(target_env = "msvc") {
        "msvc"
    } else {
        "gnu"
    }
}

/// The folder ATTENTION_ROOT names, else the nearest one above the current folder that is a
/// workspace.
pub(super) fn workspace_root() -> Result<PathBuf, DatasetError> {
    match std::env::var_os("ATTENTION_ROOT") {
        Some(root) => root_from(Path::new(&root), false),
        None => {
            let current = std::env::current_dir().map_err(DatasetError::io("."))?;
            root_from(&current, true)
        }
    }
}

pub(super) fn root_from(start: &Path, upwards: bool) -> Result<PathBuf, DatasetError> {
    let is_workspace = |folder: &&Path| {
        folder.join("Cargo.lock").is_file()
            && fs::read_to_string(folder.join("Cargo.toml"))
                .is_ok_and(|toml| toml.lines().any(|line| line.trim() == "[workspace]"))
    };
    let depth = if upwards { usize::MAX } else { 1 };
    start.ancestors().take(depth).find(is_workspace).map(Path::to_owned).ok_or_else(|| {
        let searched = if upwards {
            format!("in `{}` or above", start.display())
        } else {
            format!("in `{}`, where ATTENTION_ROOT points", start.display())
        };
        DatasetError::NoWorkspace { searched }
    })
}

/// The registry packages that `package` is built from on this platform, itself included, as far as they are on
/// disk: ("name version", folder), sorted.
pub(super) fn packages(root: &Path, package: &str) -> Result<Vec<(String, PathBuf)>, DatasetError> {
    let failed = |message: String| DatasetError::Metadata { root: root.to_owned(), message };
    let flags = ["--offline", "--locked", "--filter-platform", &host(root).map_err(failed)?];
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .current_dir(root)
        .other_options(flags.map(str::to_owned).to_vec())
        .exec()
        .map_err(|error| failed(error.to_string().trim().to_owned()))?;
    let graph = metadata.resolve.as_ref().ok_or_else(|| failed("cargo resolved nothing".into()))?;
    let below: HashMap<_, _> = graph.nodes.iter().map(|node| (&node.id, &node.dependencies)).collect();
    let mut next: Vec<_> = metadata.packages.iter().filter(|p| *p.name == *package).map(|p| &p.id).collect();
    let mut reached = HashSet::new();
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            next.extend(below[id]);
        }
    }
    let mut packages: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| reached.contains(&package.id))
        .filter(|package| package.source.as_ref().is_some_and(|s| s.repr.starts_with("registry+")))
        .filter_map(|package| {
            let folder = package.manifest_path.parent()?.as_std_path();
            folder.is_dir().then(|| (&package.name, &package.version, folder.to_owned()))
        })
        .collect();
    packages.sort();
    Ok(packages.into_iter().map(|(name, version, folder)| (format!("{name} {version}"), folder)).collect())
}

/// The triple of this machine, as the workspace's own compiler names it.
fn host(root: &Path) -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| format!("`rustc -vV` names no host: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_workspace_the_error_says_what_to_set() {
        let folder = tempfile::tempdir().unwrap();
        for upwards in [true, false] {
            let message = root_from(folder.path(), upwards).unwrap_err().to_string();
            assert!(message.contains("ATTENTION_ROOT"), "{message}");
            assert!(message.contains(&folder.path().display().to_string()), "{message}");
        }
    }
}
