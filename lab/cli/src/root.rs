//! Where the project is.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The workspace's folder: `ATTENTION_ROOT`, or the one we are in, or the one this program was
/// built in.
pub fn root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("ATTENTION_ROOT") {
        let root = PathBuf::from(root);
        if !is_root(&root) {
            bail!(
                "ATTENTION_ROOT is `{}`, which is not the project's folder (no notebooks/requirements.txt there); \
                 correct it or unset it",
                root.display()
            );
        }
        return Ok(std::path::absolute(root)?);
    }
    let starts = [std::env::current_dir().ok(), Some(env!("CARGO_MANIFEST_DIR").into())];
    let found = starts.iter().flatten().flat_map(|start| start.ancestors()).find(|folder| is_root(folder));
    match found {
        Some(root) => Ok(root.into()),
        None => bail!("this is not inside the project's folder; go there, or set ATTENTION_ROOT to it"),
    }
}

fn is_root(folder: &Path) -> bool {
    folder.join("Cargo.lock").is_file() && folder.join("notebooks/requirements.txt").is_file()
}

/// `path` as a person in the current folder would write it.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
