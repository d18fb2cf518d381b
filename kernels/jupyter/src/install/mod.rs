//! Makes the kernel: builds the workspace, links one dylib of everything, writes the kernelspec.

mod add;
mod build;
mod plan;
mod project;

pub use add::{Addition, Proposal, propose};
pub use build::{Progress, Watch, readable};

use crate::assist::index::Index;
use crate::toolkit::{Inside, Toolkit};
use anyhow::{Context, Result, bail};
use build::{Artifacts, Cargo, Library, Terminal};
use plan::Plan;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

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

pub fn install(options: &InstallOptions) -> Result<Installed> {
    let cargo = std::env::var_os("CARGO").map_or("cargo".into(), PathBuf::from);
    let cargo =
        Cargo { program: &cargo, workspace: &options.workspace, target: None, apart: !std::io::stderr().is_terminal() };
    make(&cargo, &options.prefix, &mut Terminal::new())
}

fn make(cargo: &Cargo, prefix: &Path, watch: &mut dyn Watch) -> Result<Installed> {
    let sysroot = sysroot(cargo.workspace)?;
    let plan = Plan::of(cargo.program, cargo.workspace)?;
    let artifacts = cargo.build(&plan, watch)?;
    let kernel = artifacts.kernel.as_ref().context("cargo made no `attention-kernel`")?;
    let facade = artifacts.crates.get("attention").and_then(|all| all.first());
    let facade = &facade.context("cargo made no `attention` library")?.path;
    let profile = facade.parent().context("a library without a folder")?;
    let deps = profile.join("deps");
    let session = profile.join("session");
    std::fs::create_dir_all(&session).with_context(|| format!("cannot create {}", session.display()))?;
    // The second is for item crates, which find the dylib they were compiled against by search.
    let folders = [&deps, &session].map(|folder| format!("dependency={}", folder.display()));
    let mut search = Vec::from(folders);
    search.extend(artifacts.search.iter().cloned());
    let preloaded = preloaded(&artifacts, &plan)?;
    let mut toolkit = Toolkit {
        workspace: std::path::absolute(cargo.workspace)?,
        prefix: std::path::absolute(prefix)?,
        rustc: sysroot.join("bin").join("rustc"),
        linker: linker(&sysroot),
        library_path: sysroot.join("lib"),
        dylib: session.join("libattention.so"),
        search,
        crates: BTreeMap::new(),
        linked_in: Toolkit::load(&session).map_or(0.0, |old| old.linked_in),
    };
    let linked = link(&mut toolkit, facade, &preloaded, watch)?;
    // It is made by the kernel's own code, and is as old as that or older.
    if linked || modified(&Toolkit::index(&session)) < modified(kernel) {
        let mut index = Index::default();
        for (name, folder) in &artifacts.sources {
            index.read(name, folder);
        }
        // Where the toolchain has them: `rustup component add rust-src`.
        for name in ["core", "alloc", "std"] {
            index.read(name, &sysroot.join("lib/rustlib/src/rust/library").join(name).join("src"));
        }
        write(&Toolkit::index(&session), &serde_json::to_string(&index)?)?;
    }
    write(&Toolkit::project(&session), &serde_json::to_string(&plan.project)?)?;
    toolkit.crates = named(&artifacts.crates, &inside(&toolkit)?);
    toolkit.crates.extend(preloaded.into_iter().map(|(name, library)| (name, inside_as(library, true))));
    write(&Toolkit::file(&session), &serde_json::to_string_pretty(&toolkit)?)?;
    let kernelspec = prefix.join("share/jupyter/kernels/attention");
    std::fs::create_dir_all(&kernelspec).with_context(|| format!("cannot create {}", kernelspec.display()))?;
    let spec = kernelspec_json(kernel, &session, &toolkit);
    write(&kernelspec.join("kernel.json"), &serde_json::to_string_pretty(&spec)?)?;
    Ok(Installed { kernelspec, kernel: kernel.clone(), session })
}

/// The crates of `notebooks/Cargo.toml`, by the names that cells write.
fn preloaded<'a>(artifacts: &'a Artifacts, plan: &Plan) -> Result<BTreeMap<String, &'a Library>> {
    let wanted = plan.preloaded.iter();
    wanted
        .map(|(name, (package, features))| {
            let mut made = artifacts.crates.values().flatten();
            let library = made.find(|made| made.package == *package && made.features == *features);
            Ok((name.clone(), library.with_context(|| format!("cargo made no `{name}` of {package}"))?))
        })
        .collect()
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

/// The whole of the dylib, with the crates of `notebooks/Cargo.toml` after it: the facade, and the entry the
/// session process looks for.
const SESSION: &str = "\
pub use attention::*;

#[unsafe(no_mangle)]
pub extern \"C\" fn attention_session_main() -> i32 {
    attention::cell_runtime::session_main()
}
";

/// Links the dylib, unless it is newer than the library it is made of; says whether it did.
fn link(
    toolkit: &mut Toolkit,
    facade: &Path,
    preloaded: &BTreeMap<String, &Library>,
    watch: &mut dyn Watch,
) -> Result<bool> {
    let source = toolkit.dylib.with_file_name("session.rs");
    let names = preloaded.keys().map(|name| format!("extern crate {name} as _;\n"));
    let text = SESSION.to_string() + &names.collect::<String>();
    let same = std::fs::read_to_string(&source).is_ok_and(|old| old == text);
    // Cargo makes the facade again whenever anything below it has changed.
    if same && modified(&toolkit.dylib) > modified(facade) {
        return Ok(false);
    }
    let before = (toolkit.linked_in > 0.0).then(|| Duration::from_secs_f64(toolkit.linked_in));
    watch.linking(before);
    write(&source, &text)?;
    let begun = Instant::now();
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
    for (name, library) in preloaded {
        rustc.arg("--extern").arg(format!("{name}={}", library.path.display()));
    }
    for search in &toolkit.search {
        rustc.arg("-L").arg(search);
    }
    let status = rustc.arg("-o").arg(&fresh).arg(&source).status();
    if !status.context("cannot run rustc")?.success() {
        bail!("rustc could not link {}", toolkit.dylib.display());
    }
    std::fs::rename(&fresh, &toolkit.dylib).with_context(|| format!("cannot replace {}", toolkit.dylib.display()))?;
    toolkit.linked_in = begun.elapsed().as_secs_f64();
    Ok(true)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
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
fn named(made: &BTreeMap<String, Vec<Library>>, inside: &BTreeSet<String>) -> BTreeMap<String, Inside> {
    let usable = |path: &Path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        path.extension().is_some_and(|e| e == "so") || inside.contains(stem.trim_start_matches("lib"))
    };
    let newest = |all: &Vec<Library>| {
        let usable = all.iter().filter(|library| usable(&library.path)).map(|library| inside_as(library, false));
        usable.max_by(|a, b| a.version.cmp(&b.version))
    };
    made.iter().filter_map(|(name, all)| Some((name.clone(), newest(all)?))).collect()
}

fn inside_as(library: &Library, preloaded: bool) -> Inside {
    let (path, features) = (library.path.clone(), library.features.clone());
    Inside { version: plan::version(&library.package), path, preloaded, features }
}

/// Writes through a temporary name: a reader sees the old file or the new one.
fn write(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
