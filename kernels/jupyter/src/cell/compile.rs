//! Runs rustc on a generated crate. No cargo, no rust-analyzer: 0.1 s instead of a second.
//!
//! rustc makes an archive of objects only, and the linker is called here: rustc would have it read the
//! dylib's 200 000 symbols (0.4 s and more), though the loader resolves them anyway.

use crate::interrupts::Interrupts;
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

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
    /// optimised; what it calls has been. Whether the cell has items of its own.
    Run { optimise: bool, items: bool },
    /// Nothing is made; only the diagnostics matter.
    Check,
}

/// A process group of its own, so that what it starts is stopped with it; gone with its owner.
struct Rustc {
    child: Child,
    /// Of its source and of what it makes.
    name: String,
    kind: Kind,
    externs: BTreeSet<String>,
    /// What nobody needs after it.
    files: Vec<PathBuf>,
}

impl Drop for Rustc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The compilers of one kernel: those at work, and those that wait for a cell.
///
/// Half of rustc's time goes into its own start and into finding the dylib's several hundred crates. So a rustc for
/// the next cell is begun before there is one: what it is given says `extern crate attention; include!("run_7.rs")`,
/// and `run_7.rs` is its standard input, which it comes to when the crates are loaded, and which it reads until the
/// kernel has written the cell's text (or has died: then the pipe ends, and so does the compiler).
pub struct Compilers {
    /// Private to this kernel; generated sources and libraries live here.
    folder: PathBuf,
    interrupts: Arc<Interrupts>,
    waiting: Vec<Rustc>,
    /// Count sources: none has the name of another, so that the place of a panic tells the cell.
    items: usize,
    statements: usize,
}

/// A rustc at work.
pub struct Job {
    rustc: Rustc,
    interrupts: Arc<Interrupts>,
    said: Lines<BufReader<ChildStderr>>,
    errors: Vec<Diagnostic>,
}

pub struct Compiled {
    pub success: bool,
    pub errors: Vec<Diagnostic>,
}

impl Compilers {
    pub fn new(folder: PathBuf, interrupts: Arc<Interrupts>) -> Self {
        Self { folder, interrupts, waiting: Vec::new(), items: 0, statements: 0 }
    }

    /// Has compilers wait for the next statements, those that would do already apart.
    pub fn prepare(&mut self, toolkit: &Toolkit, externs: &BTreeSet<String>) -> Result<()> {
        for kind in [Kind::Run { optimise: false, items: false }, Kind::Check] {
            if let Some(waiting) = self.take(kind, externs) {
                self.waiting.push(waiting);
            } else {
                let begun = self.begin(toolkit, kind, externs, None)?;
                self.waiting.push(begun);
            }
        }
        Ok(())
    }

    /// Those that wait end: what they have read is not what comes.
    pub fn dismiss(&mut self) {
        self.waiting.clear();
    }

    /// The processes that wait for a cell.
    pub fn waiting(&self) -> impl Iterator<Item = u32> {
        self.waiting.iter().map(|rustc| rustc.child.id())
    }

    /// One that waits and knows all of `externs`. Another of its kind ends: it will not do for later cells either.
    fn take(&mut self, kind: Kind, externs: &BTreeSet<String>) -> Option<Rustc> {
        let at = self.waiting.iter().position(|waiting| waiting.kind == kind)?;
        let mut waiting = self.waiting.swap_remove(at);
        let alive = matches!(waiting.child.try_wait(), Ok(None));
        (alive && externs.is_subset(&waiting.externs)).then_some(waiting)
    }

    fn name(&mut self, kind: Kind) -> String {
        let (stem, count) = match kind {
            Kind::Items => ("cell", &mut self.items),
            Kind::Run { .. } => ("run", &mut self.statements),
            Kind::Check => ("check", &mut self.statements),
        };
        *count += 1;
        format!("{stem}_{count}")
    }

    /// Compiles `text`. `externs`: item crates by name, and crates of the dylib.
    pub fn start(&mut self, toolkit: &Toolkit, kind: Kind, text: &str, externs: &BTreeSet<String>) -> Result<Job> {
        let mut rustc = match self.take(kind, externs) {
            Some(waiting) => waiting,
            // A later cell's diagnostic may show a line of an item, so that its source is a file and stays.
            None => self.begin(toolkit, kind, externs, (kind == Kind::Items).then_some(text))?,
        };
        self.interrupts.compiler_started(rustc.child.id() as i32);
        if let Some(mut pipe) = rustc.child.stdin.take() {
            // One that has been stopped reads no more; how it ended tells.
            let _ = pipe.write_all(text.as_bytes());
        }
        let said = BufReader::new(rustc.child.stderr.take().expect("stderr is piped")).lines();
        Ok(Job { rustc, interrupts: self.interrupts.clone(), said, errors: Vec::new() })
    }

    /// A rustc at work on its text or, without one, waiting for it.
    fn begin(
        &mut self,
        toolkit: &Toolkit,
        kind: Kind,
        externs: &BTreeSet<String>,
        text: Option<&str>,
    ) -> Result<Rustc> {
        let name = self.name(kind);
        let files = match text {
            Some(text) => self.write(&source(&name), text).map(|()| Vec::new())?,
            None => self.include(&name)?,
        };
        self.spawn(toolkit, kind, name, externs, files)
    }

    /// Writes the source that is compiled with the standard input in it.
    fn include(&self, name: &str) -> Result<Vec<PathBuf>> {
        let (file, around, metadata) = (source(name), around(name), format!("{name}.rmeta"));
        self.write(&around, &format!("extern crate attention;\ninclude!({file:?});\n"))?;
        std::os::unix::fs::symlink("/dev/stdin", self.folder.join(&file))
            .with_context(|| format!("cannot make {file} in {}", self.folder.display()))?;
        Ok([file, around, metadata].map(|file| self.folder.join(file)).into())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.folder.join(file), text)
            .with_context(|| format!("cannot write {file} in {}", self.folder.display()))
    }

    fn spawn(
        &self,
        toolkit: &Toolkit,
        kind: Kind,
        name: String,
        externs: &BTreeSet<String>,
        files: Vec<PathBuf>,
    ) -> Result<Rustc> {
        let mut rustc = Command::new(&toolkit.rustc);
        rustc
            .current_dir(&self.folder)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", &toolkit.library_path)
            .args(["--edition", "2024", "--error-format=json", "--json=diagnostic-rendered-ansi", "-Awarnings"])
            .args(["-Cprefer-dynamic", "-Cdebuginfo=0", "-Clto=off", "-Crelocation-model=pic"])
            .args(["-Coverflow-checks=on", "-Ztrim-diagnostic-paths=no", "-Zwrite-long-types-to-disk=no"])
            // For the way out of statements that move variables.
            .arg("-Zcrate-attr=feature(try_blocks_heterogeneous)")
            .arg("-L")
            .arg(format!("dependency={}", self.folder.display()))
            .arg("--extern")
            .arg(format!("attention={}", toolkit.dylib.display()));
        for search in &toolkit.search {
            rustc.arg("-L").arg(search);
        }
        for name in externs {
            let path = match toolkit.crates.get(name) {
                Some(inside) => inside.path.clone(),
                None => self.folder.join(format!("lib{name}.rmeta")),
            };
            rustc.arg("--extern").arg(format!("{name}={}", path.display()));
        }
        // All statements are crates called `cell`, and other sessions have crates of these names too; but types are to be
        // told apart, within a session and by the file in which compiled CUDA kernels are kept.
        let salt = self.folder.file_name().unwrap_or_default().to_string_lossy();
        rustc.arg(format!("-Cmetadata={name}{salt}"));
        // Nothing is kept from cell to cell (`-Cincremental`): to hash and to write what a later cell could use takes
        // longer than to compile the few lines around the user's own.
        // To call what the library has instantiated already, rustc reads all there is of it. That pays for new types,
        // for which much is instantiated, and not for statements alone.
        let shared = if matches!(kind, Kind::Items | Kind::Run { items: true, .. }) { "yes" } else { "no" };
        rustc.args(["--crate-type", "lib"]).arg(format!("-Zshare-generics={shared}"));
        match kind {
            Kind::Items => {
                rustc.args(["--crate-name", &name, "-Copt-level=1", "--json=artifacts"]);
                rustc.arg(format!("--emit=link={name}.a,metadata=lib{name}.rmeta")).arg(source(&name))
            }
            Kind::Run { optimise, .. } => {
                rustc.args(["--crate-name", "cell"]).arg(format!("-Copt-level={}", u8::from(optimise)));
                rustc.arg(format!("--emit=link={name}.a")).arg(around(&name))
            }
            Kind::Check => {
                rustc.args(["--crate-name", "cell"]).arg(format!("--emit=metadata={name}.rmeta")).arg(around(&name))
            }
        };
        let stdin = if kind == Kind::Items { Stdio::null() } else { Stdio::piped() };
        rustc.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let child = rustc.spawn().with_context(|| format!("cannot start {}", toolkit.rustc.display()))?;
        Ok(Rustc { child, name, kind, externs: externs.clone(), files })
    }

    /// Makes a library of the compiled objects. What it does not define is found by the loader: in the
    /// dylib, in libstd, in the item crates, all of them loaded before.
    pub fn link(&self, toolkit: &Toolkit, name: &str) -> Result<PathBuf> {
        let library = self.folder.join(format!("lib{name}.so"));
        let objects = self.folder.join(format!("{name}.a"));
        let [program, arguments @ ..] = toolkit.linker.as_slice() else {
            bail!("no linker is known; install the kernel again");
        };
        let output = Command::new(program)
            .args(arguments)
            // A cell's own symbols are its own, whatever the dylib also has.
            .args(["-shared", "-Bsymbolic", "--whole-archive", "-o"])
            .args([&library, &objects])
            .env("LD_LIBRARY_PATH", &toolkit.library_path)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("the linker failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let _ = std::fs::remove_file(objects);
        Ok(library)
    }
}

/// One that is not waited for ends, and its number may soon be another's.
impl Drop for Job {
    fn drop(&mut self) {
        self.interrupts.compiler_ended(self.rustc.child.id() as i32);
    }
}

impl Job {
    /// Of its source, and of what [`Compilers::link`] makes a library of.
    pub fn name(&self) -> &str {
        &self.rustc.name
    }

    /// Waits until the crate is described, so that others can be compiled against it while its code is made. False
    /// where it will not be.
    pub fn described(&mut self) -> Result<bool> {
        while let Some(line) = self.said.next() {
            let line = line?;
            if line.contains("\"emit\":\"metadata\"") {
                return Ok(true);
            }
            self.note(line);
        }
        Ok(false)
    }

    fn note(&mut self, line: String) {
        match serde_json::from_str::<Diagnostic>(&line) {
            Ok(found) if found.level.starts_with("error") => self.errors.push(found),
            Ok(_) => {}
            // A compiler that cannot start says so in plain text.
            Err(_) => self.errors.push(Diagnostic {
                message: line.clone(),
                level: "error".into(),
                code: None,
                spans: Vec::new(),
                rendered: Some(line),
            }),
        }
    }

    pub fn finish(mut self) -> Result<Compiled> {
        while let Some(line) = self.said.next() {
            self.note(line?);
        }
        self.interrupts.compiler_ended(self.rustc.child.id() as i32);
        let success = self.rustc.child.wait()?.success();
        Ok(Compiled { success, errors: std::mem::take(&mut self.errors) })
    }
}

fn source(name: &str) -> String {
    format!("{name}.rs")
}

/// What is around a source that comes by standard input.
fn around(name: &str) -> String {
    format!("{name}.crate.rs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_compiler_that_is_not_waited_for_is_no_longer_stopped_by_the_button() {
        // Ends by itself before anybody loses patience.
        let sleep = |group| {
            let mut command = Command::new("sleep");
            command.arg("20").process_group(group).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut child = sleep(0);
        let group = child.id() as i32;
        // Stands for a stranger whose group has the number by then.
        let mut other = sleep(group);
        let interrupts = Arc::new(Interrupts::default());
        interrupts.compiler_started(group);
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let (name, kind, externs) = ("check_1".into(), Kind::Check, BTreeSet::new());
        let rustc = Rustc { child, name, kind, externs, files: Vec::new() };
        drop(Job { rustc, interrupts: interrupts.clone(), said, errors: Vec::new() });
        interrupts.press();
        std::thread::sleep(Duration::from_millis(100));
        assert!(other.try_wait().unwrap().is_none(), "the button has ended a stranger");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
