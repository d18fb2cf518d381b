//! What `install` leaves for the kernel: which rustc, which dylib, and every crate inside it.

use anyhow::{Context, Result, bail};
use semver::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Toolkit {
    /// What `install` was told: a crate that a cell adds is added there.
    pub workspace: PathBuf,
    pub prefix: PathBuf,
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
    /// Crates inside the dylib, by the names that cells write.
    pub crates: BTreeMap<String, Inside>,
    /// How many seconds the dylib took to link.
    pub linked_in: f64,
}

/// A crate inside the dylib.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inside {
    pub version: Version,
    pub path: PathBuf,
    /// Named in `notebooks/Cargo.toml`: a cell can use it as it is, the others after a `:dep`.
    pub preloaded: bool,
    #[serde(default)]
    pub features: Vec<String>,
}

impl Toolkit {
    pub fn file(session: &Path) -> PathBuf {
        session.join("session.json")
    }

    /// What completion knows.
    pub fn index(session: &Path) -> PathBuf {
        session.join("index.json")
    }

    /// What a rust-analyzer is told of the project.
    pub fn project(session: &Path) -> PathBuf {
        session.join("project.json")
    }

    /// The toolchain's folder.
    pub fn sysroot(&self) -> &Path {
        self.rustc.parent().and_then(Path::parent).unwrap_or(Path::new(""))
    }

    /// Where `install` has put this.
    pub fn session(&self) -> &Path {
        self.dylib.parent().unwrap_or(Path::new(""))
    }

    pub fn load(session: &Path) -> Result<Self> {
        let path = Self::file(session);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read; install the kernel again", path.display()))?;
        let toolkit: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; install the kernel again", path.display()))?;
        if !toolkit.rustc.is_file() {
            bail!(
                "the compiler {} is not there any more: `rustup toolchain install {}` brings it back, and \
                 `cargo lab notebook` makes the kernel again where another one is wanted",
                toolkit.rustc.display(),
                env!("CARGO_PKG_RUST_VERSION")
            );
        }
        Ok(toolkit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_gone_is_named_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().unwrap();
        let toolkit = Toolkit {
            workspace: PathBuf::new(),
            prefix: PathBuf::new(),
            rustc: folder.path().join("gone/bin/rustc"),
            linker: Vec::new(),
            library_path: PathBuf::new(),
            dylib: PathBuf::new(),
            search: Vec::new(),
            crates: BTreeMap::new(),
            linked_in: 0.0,
        };
        std::fs::write(Toolkit::file(folder.path()), serde_json::to_string(&toolkit).unwrap()).unwrap();
        let message = Toolkit::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("gone/bin/rustc") && message.contains("rustup toolchain install 1."), "{message}");
    }
}
