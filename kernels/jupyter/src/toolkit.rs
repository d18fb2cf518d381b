//! What `install` leaves for the kernel: which rustc, which dylib, and every crate inside it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Toolkit {
    /// The compiler itself, not rustup's shim: the shim costs 20 ms a cell.
    pub rustc: PathBuf,
    /// The linker that comes with the compiler, and its first arguments.
    pub linker: Vec<String>,
    /// Where libstd's shared library is.
    pub library_path: PathBuf,
    /// The dylib of everything, to which cells and the session process link.
    pub dylib: PathBuf,
    /// `-L` arguments: where the dylib's parts and the proc-macros are.
    pub search: Vec<String>,
    /// Crates inside the dylib that a cell can name with `:dep`.
    pub crates: BTreeMap<String, PathBuf>,
}

impl Toolkit {
    pub fn file(session: &Path) -> PathBuf {
        session.join("session.json")
    }

    /// What completion knows.
    pub fn index(session: &Path) -> PathBuf {
        session.join("index.json")
    }

    pub fn load(session: &Path) -> Result<Self> {
        let path = Self::file(session);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read; install the kernel again", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}
