//! Runs rustc on a generated crate. No cargo, no rust-analyzer: 0.15 s instead of a second.
//!
//! rustc makes an archive of objects only, and the linker is called here: rustc would have it read the
//! dylib's 200 000 symbols (0.4 s and more), though the loader resolves them anyway. For the same reason
//! generic code is not shared with the dylib: to look for what could be shared costs rustc more
//! than a cell's own copies.

use crate::interrupts::Interrupts;
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[derive(Debug, Clone, Deserialize)]
pub struct Diagnostic {
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub level: String,
    #[serde(default)]
    pub code: Option<Code>,
    #[serde(default)]
    pub spans: Vec<Span>,
    #[serde(default)]
    pub rendered: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Code {
    pub code: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Span {
    pub line_start: usize,
    pub is_primary: bool,
}

impl Diagnostic {
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_ref().is_some_and(|own| own.code == code)
    }

    pub fn primary(&self) -> Option<&Span> {
        self.spans.iter().find(|span| span.is_primary)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cell's items: a library with one identity, statics included.
    Items,
    /// A cell's statements: loaded and run once. Straight-line code gains nothing from being
    /// optimised; what it calls has been.
    Run { optimise: bool },
    /// Nothing is made; only the diagnostics matter.
    Check,
}

pub struct Compiler<'a> {
    pub toolkit: &'a Toolkit,
    /// Private to this kernel; generated sources and libraries live here.
    pub folder: &'a Path,
    pub interrupts: &'a Interrupts,
}

/// A rustc at work.
pub struct Job<'a> {
    child: Child,
    interrupts: &'a Interrupts,
}

pub struct Compiled {
    pub success: bool,
    pub errors: Vec<Diagnostic>,
}

impl<'a> Compiler<'a> {
    pub fn library(&self, name: &str) -> PathBuf {
        self.folder.join(format!("lib{name}.so"))
    }

    /// Starts compiling `name.rs`, which is written first. `externs`: item crates by name, and
    /// crates of the dylib.
    pub fn start(&self, name: &str, text: &str, kind: Kind, externs: &BTreeSet<String>) -> Result<Job<'a>> {
        let file = format!("{name}.rs");
        std::fs::write(self.folder.join(&file), text)
            .with_context(|| format!("cannot write {file} in {}", self.folder.display()))?;
        let mut rustc = Command::new(&self.toolkit.rustc);
        rustc
            .current_dir(self.folder)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", &self.toolkit.library_path)
            .args(["--edition", "2024", "--error-format=json", "--json=diagnostic-rendered-ansi"])
            .args(["-Cprefer-dynamic", "-Cdebuginfo=0", "-Clto=off", "-Crelocation-model=pic"])
            .args(["-Coverflow-checks=on", "-Ztrim-diagnostic-paths=no"])
            .arg("-L")
            .arg(format!("dependency={}", self.folder.display()))
            .arg("--extern")
            .arg(format!("attention={}", self.toolkit.dylib.display()));
        for search in &self.toolkit.search {
            rustc.arg("-L").arg(search);
        }
        for name in externs {
            let path = match self.toolkit.crates.get(name) {
                Some(inside) => inside.path.clone(),
                None => self.folder.join(format!("lib{name}.rmeta")),
            };
            rustc.arg("--extern").arg(format!("{name}={}", path.display()));
        }
        rustc.args(["--crate-type", "lib", "-Zshare-generics=no"]);
        match kind {
            Kind::Items => {
                rustc.args(["--crate-name", name, "-Copt-level=1"]);
                rustc.arg(format!("--emit=link={name}.a,metadata=lib{name}.rmeta"))
            }
            // Statements change little from cell to cell around the user's lines, so incremental
            // compilation halves the time. Two compilers that run at once need a cache each.
            Kind::Run { optimise } => {
                let level = u8::from(optimise);
                rustc.args(["--crate-name", "cell"]);
                rustc.arg(format!("-Copt-level={level}")).arg(format!("-Cincremental=run{level}.cache"));
                rustc.arg(format!("--emit=link={name}.a"))
            }
            Kind::Check => {
                rustc.args(["--crate-name", "cell", "-Cincremental=check.cache"]);
                rustc.arg(format!("--emit=metadata={name}.rmeta"))
            }
        };
        rustc.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own, so that the linker it starts is stopped with it.
        rustc.process_group(0);
        let child = rustc.spawn().with_context(|| format!("cannot start {}", self.toolkit.rustc.display()))?;
        self.interrupts.compiler_started(child.id() as i32);
        Ok(Job { child, interrupts: self.interrupts })
    }
}

impl Compiler<'_> {
    /// Makes a library of the compiled objects. What it does not define is found by the loader: in the
    /// dylib, in libstd, in the item crates, all of them loaded before.
    pub fn link(&self, name: &str) -> Result<PathBuf> {
        let library = self.library(name);
        let objects = self.folder.join(format!("{name}.a"));
        let [program, arguments @ ..] = self.toolkit.linker.as_slice() else {
            bail!("no linker is known; install the kernel again");
        };
        let output = Command::new(program)
            .args(arguments)
            // A cell's own symbols are its own, whatever the dylib also has.
            .args(["-shared", "-Bsymbolic", "--whole-archive", "-o"])
            .args([&library, &objects])
            .env("LD_LIBRARY_PATH", &self.toolkit.library_path)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("the linker failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let _ = std::fs::remove_file(objects);
        Ok(library)
    }
}

impl Job<'_> {
    pub fn finish(mut self) -> Result<Compiled> {
        let stderr = self.child.stderr.take().expect("stderr is piped");
        let mut errors = Vec::new();
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            match serde_json::from_str::<Diagnostic>(&line) {
                Ok(found) if found.level.starts_with("error") => errors.push(found),
                Ok(_) => {}
                // A compiler that cannot start says so in plain text.
                Err(_) => errors.push(Diagnostic {
                    message: line.clone(),
                    level: "error".into(),
                    code: None,
                    spans: Vec::new(),
                    rendered: Some(line),
                }),
            }
        }
        self.interrupts.compiler_ended(self.child.id() as i32);
        let success = self.child.wait()?.success();
        Ok(Compiled { success, errors })
    }
}
