//! Makes the kernel: builds the workspace, links one dylib of everything, writes the kernelspec.

use crate::assist::index::Index;
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// The folder of the workspace's `Cargo.toml`.
    pub workspace: PathBuf,
    /// The kernelspec goes to `<prefix>/share/jupyter/kernels/attention`.
    pub prefix: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Installed {
    /// The folder that holds `kernel.json`.
    pub kernelspec: PathBuf,
    /// The `attention-kernel` program.
    pub kernel: PathBuf,
    /// The folder of the dylib and `session.json`.
    pub session: PathBuf,
}

/// What cargo said it made.
#[derive(Debug, Default)]
struct Artifacts {
    /// Library crates by name, every version of each.
    crates: BTreeMap<String, Vec<(Version, PathBuf)>>,
    kernel: Option<PathBuf>,
    search: Vec<String>,
    /// Folders of the sources a notebook's completions come from.
    sources: BTreeMap<String, PathBuf>,
}

type Version = Vec<u64>;

pub fn install(options: &InstallOptions) -> Result<Installed> {
    let sysroot = sysroot(&options.workspace)?;
    let artifacts = build(&options.workspace)?;
    let kernel = artifacts.kernel.context("cargo made no `attention-kernel`")?;
    let facade = artifacts.crates.get("attention").and_then(|all| all.first());
    let (_, facade) = facade.context("cargo made no `attention` library")?;
    let profile = facade.parent().context("a library without a folder")?;
    let deps = profile.join("deps");
    let session = profile.join("session");
    std::fs::create_dir_all(&session).with_context(|| format!("cannot create {}", session.display()))?;
    // The second is for item crates, which find the dylib they were compiled against by search.
    let folders = [&deps, &session].map(|folder| format!("dependency={}", folder.display()));
    let mut search = Vec::from(folders);
    search.extend(artifacts.search.iter().cloned());
    let mut toolkit = Toolkit {
        rustc: sysroot.join("bin").join("rustc"),
        linker: linker(&sysroot),
        library_path: sysroot.join("lib"),
        dylib: session.join("libattention.so"),
        search,
        crates: BTreeMap::new(),
    };
    if link(&toolkit, facade)? || !Toolkit::index(&session).is_file() {
        let mut index = Index::default();
        for (name, folder) in &artifacts.sources {
            index.read(name, folder);
        }
        write(&Toolkit::index(&session), &serde_json::to_string(&index)?)?;
    }
    toolkit.crates = named(&artifacts.crates, &inside(&toolkit)?);
    write(&Toolkit::file(&session), &serde_json::to_string_pretty(&toolkit)?)?;
    let kernelspec = options.prefix.join("share/jupyter/kernels/attention");
    std::fs::create_dir_all(&kernelspec).with_context(|| format!("cannot create {}", kernelspec.display()))?;
    let spec = kernelspec_json(&kernel, &session, &toolkit);
    write(&kernelspec.join("kernel.json"), &serde_json::to_string_pretty(&spec)?)?;
    Ok(Installed { kernelspec, kernel, session })
}

fn kernelspec_json(kernel: &Path, session: &Path, toolkit: &Toolkit) -> Value {
    json!({
        "argv": [kernel, "serve", "--connection-file", "{connection_file}", "--session", session],
        "display_name": "Attention Zoo (Rust)",
        "language": "rust",
        "interrupt_mode": "message",
        "env": { "LD_LIBRARY_PATH": toolkit.library_path },
        "metadata": { "debugger": false },
    })
}

/// Asked in the workspace, so that `rust-toolchain.toml` decides.
fn sysroot(workspace: &Path) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .current_dir(workspace)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run rustc; is the Rust toolchain installed?")?;
    if !output.status.success() {
        bail!("`rustc --print sysroot` failed in {}", workspace.display());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// rust-lld where the toolchain has it (20 ms a cell), else the system's linker.
fn linker(sysroot: &Path) -> Vec<String> {
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
    let lld = hosts.map(|host| host.path().join("bin/rust-lld")).find(|path| path.is_file());
    match lld {
        Some(lld) => {
            let mut linker = vec![lld.display().to_string(), "-flavor".into(), "gnu".into()];
            linker.extend(["--eh-frame-hdr", "--hash-style=gnu"].map(String::from));
            linker
        }
        None => vec!["ld".into(), "--eh-frame-hdr".into()],
    }
}

/// `cargo build --workspace`: progress goes to the terminal, the list of artifacts comes to us.
fn build(workspace: &Path) -> Result<Artifacts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--workspace", "--message-format=json-render-diagnostics"]);
    // Under `cargo run` and `cargo test` the environment names the package that runs. Some build scripts
    // watch these variables: this cargo would compile them anew, and the next one back again.
    for (name, _) in std::env::vars_os() {
        let watched = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start))
                || ["CARGO_CRATE_NAME", "CARGO_BIN_NAME"].contains(&name)
        };
        if name.to_str().is_some_and(watched) {
            build.env_remove(name);
        }
    }
    let mut child = build
        .current_dir(workspace)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo; is the Rust toolchain installed?")?;
    let mut artifacts = Artifacts::default();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        if let Ok(message) = serde_json::from_str::<Value>(&line?) {
            artifacts.note(&message);
        }
    }
    if !child.wait()?.success() {
        bail!("`cargo build --workspace` failed in {}", workspace.display());
    }
    Ok(artifacts)
}

impl Artifacts {
    fn note(&mut self, message: &Value) {
        match message["reason"].as_str() {
            Some("compiler-artifact") => self.artifact(message),
            Some("build-script-executed") => {
                let paths = message["linked_paths"].as_array().into_iter().flatten();
                for path in paths.filter_map(Value::as_str) {
                    if !self.search.iter().any(|known| known == path) {
                        self.search.push(path.to_string());
                    }
                }
            }
            _ => {}
        }
    }

    fn artifact(&mut self, message: &Value) {
        let name = message["target"]["name"].as_str().unwrap_or_default().replace('-', "_");
        if let Some(executable) = message["executable"].as_str() {
            if name == "attention_kernel" && message["profile"]["test"] == false {
                self.kernel = Some(executable.into());
            }
            return;
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let library = files.filter_map(Value::as_str).find(|f| f.ends_with(".rlib") || f.ends_with(".so"));
        let Some(library) = library else { return };
        let package = message["package_id"].as_str().unwrap_or_default();
        let source = message["target"]["src_path"].as_str().map(Path::new).and_then(Path::parent);
        // The project's own crates and burn's: what the facade hands on.
        if let (Some(source), true) = (source, package.starts_with("path+") || name.starts_with("burn")) {
            self.sources.insert(name.clone(), source.into());
        }
        let version = version(package);
        self.crates.entry(name).or_default().push((version, library.into()));
    }
}

/// `registry+…#serde@1.0.228` → [1, 0, 228].
fn version(package: &str) -> Version {
    let text = package.rsplit(['@', '#']).next().unwrap_or_default();
    text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// The whole of the dylib: the facade, and the entry the session process looks for.
const SESSION: &str = "\
pub use attention::*;

#[unsafe(no_mangle)]
pub extern \"C\" fn attention_session_main() -> i32 {
    attention::cell_runtime::session_main()
}
";

/// Links the dylib, unless it is newer than the library it is made of; says whether it did.
fn link(toolkit: &Toolkit, facade: &Path) -> Result<bool> {
    let modified = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    let source = toolkit.dylib.with_file_name("session.rs");
    let same = std::fs::read_to_string(&source).is_ok_and(|text| text == SESSION);
    // Cargo makes the facade again whenever anything below it has changed.
    if same && modified(&toolkit.dylib) > modified(facade) {
        return Ok(false);
    }
    eprintln!("     Linking the notebook session");
    write(&source, SESSION)?;
    // Kernels that run now keep the file they have open; a rename does not touch it.
    let fresh = toolkit.dylib.with_extension(format!("{}.tmp", std::process::id()));
    let mut rustc = Command::new(&toolkit.rustc);
    rustc
        .env("LD_LIBRARY_PATH", &toolkit.library_path)
        // Named like the facade, so that the paths rustc prints are the paths a cell can write;
        // `metadata` tells the two apart.
        .args(["--edition", "2024", "--crate-name", "attention", "--crate-type", "dylib"])
        .args(["-Cmetadata=session", "-Cprefer-dynamic", "-Crpath", "-Copt-level=1"])
        .arg("--extern")
        .arg(format!("attention={}", facade.display()));
    for search in &toolkit.search {
        rustc.arg("-L").arg(search);
    }
    let status = rustc.arg("-o").arg(&fresh).arg(&source).status();
    if !status.context("cannot run rustc")?.success() {
        bail!("rustc could not link {}", toolkit.dylib.display());
    }
    std::fs::rename(&fresh, &toolkit.dylib).with_context(|| format!("cannot replace {}", toolkit.dylib.display()))?;
    Ok(true)
}

/// The crates in the dylib, as `name-hash`.
fn inside(toolkit: &Toolkit) -> Result<BTreeSet<String>> {
    let output = Command::new(&toolkit.rustc)
        .env("LD_LIBRARY_PATH", &toolkit.library_path)
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("-Zls=root")
        .arg(&toolkit.dylib)
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `46 rayon-e33aeb4193a9bd38 hash …`
    let named = |line: &str| {
        let mut words = line.split(' ');
        words.next()?.parse::<usize>().ok()?;
        words.next().map(String::from)
    };
    let inside: BTreeSet<String> = text.lines().filter_map(named).collect();
    if inside.is_empty() {
        bail!("rustc does not list the crates of {}: {text}", toolkit.dylib.display());
    }
    Ok(inside)
}

/// The newest version of every crate that a cell can use. Cargo also made what the dylib does not hold:
/// the crates of the command line and of the kernel. A macro runs in the compiler and needs no dylib.
fn named(made: &BTreeMap<String, Vec<(Version, PathBuf)>>, inside: &BTreeSet<String>) -> BTreeMap<String, PathBuf> {
    let usable = |path: &Path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        path.extension().is_some_and(|e| e == "so") || inside.contains(stem.trim_start_matches("lib"))
    };
    let newest = |all: &Vec<(Version, PathBuf)>| {
        let usable = all.iter().filter(|(_, path)| usable(path));
        usable.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, path)| path.clone())
    };
    made.iter().filter_map(|(name, all)| Some((name.clone(), newest(all)?))).collect()
}

/// Writes through a temporary name: a reader sees the old file or the new one.
fn write(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
