//! Makes the kernel: builds the workspace, links one dylib of everything, writes the kernelspec.

mod add;
mod attempt;
mod build;
mod plan;
mod project;
mod run;

pub use add::{Addition, Proposal, propose};
pub use build::{Progress, Watch, readable};

use crate::assist::index::Index;
use crate::scratch::is_gone;
use crate::toolkit::{Inside, Toolkit};
use anyhow::{Context, Result, bail};
use attempt::Attempt;
use build::{Artifacts, Cargo, Library, Terminal};
use plan::Plan;
use run::{Line, run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal};
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
    let program = std::env::var_os("CARGO").map_or("cargo".into(), PathBuf::from);
    let (workspace, apart) = (options.workspace.as_path(), !std::io::stderr().is_terminal());
    let cargo = Cargo { program: &program, rustc: None, workspace, target: None, apart };
    let mut watch = Terminal::new();
    let target = cargo.target_folder(&mut watch)?;
    // Where nothing has been built yet, no addition can have broken off.
    if target.is_dir() {
        Attempt::open(&target, workspace)?;
    }
    make(&cargo, &options.prefix, &mut watch)
}

fn make(cargo: &Cargo, prefix: &Path, watch: &mut dyn Watch) -> Result<Installed> {
    let sysroot = match cargo.rustc {
        Some(rustc) => rustc.ancestors().nth(2).context("a compiler without a toolchain")?.to_path_buf(),
        None => sysroot(cargo.workspace)?,
    };
    let plan = Plan::of(cargo, watch)?;
    let artifacts = cargo.build(&plan, watch)?;
    let kernel = artifacts.kernel.as_ref().context("cargo made no `attention-kernel`")?;
    let facade = artifacts.crates.get("attention").and_then(|all| all.first());
    let facade = &facade.context("cargo made no `attention` library")?.path;
    let profile = facade.parent().context("a library without a folder")?;
    let deps = profile.join("deps");
    let session = profile.join("session");
    std::fs::create_dir_all(&session).with_context(|| format!("cannot create {}", session.display()))?;
    sweep(&session)?;
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
    let linked = link(&mut toolkit, facade, &preloaded, cargo.apart, watch)?;
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
    let spec = kernelspec_json(kernel, &session);
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

/// No environment: it would take the place of what the user has, such as the folders of CUDA's libraries.
fn kernelspec_json(kernel: &Path, session: &Path) -> Value {
    json!({
        "argv": [kernel, "serve", "--connection-file", "{connection_file}", "--session", session],
        "display_name": "Attention Zoo (Rust)",
        "language": "rust",
        "interrupt_mode": "message",
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

/// What the dylib is linked from. The path of a library tells one version of a crate from another.
fn source(preloaded: &BTreeMap<String, &Library>) -> String {
    let names = preloaded.iter().map(|(name, made)| format!("extern crate {name} as _; // {}\n", made.path.display()));
    SESSION.to_string() + &names.collect::<String>()
}

/// Whether the dylib is of this source, and newer than every library it is made of. Cargo makes the facade again
/// whenever anything below it has changed; the crates of `notebooks/Cargo.toml` are not below it.
fn is_linked<'a>(dylib: &Path, source: &str, libraries: impl Iterator<Item = &'a Path>) -> bool {
    let same = std::fs::read_to_string(dylib.with_file_name(SOURCE)).is_ok_and(|old| old == source);
    same && modified(dylib) > libraries.map(modified).max().flatten()
}

/// The source of the dylib beside it, written when it has been linked.
const SOURCE: &str = "session.rs";

/// Links the dylib where it has to be, and says whether it had.
fn link(
    toolkit: &mut Toolkit,
    facade: &Path,
    preloaded: &BTreeMap<String, &Library>,
    apart: bool,
    watch: &mut dyn Watch,
) -> Result<bool> {
    let text = source(preloaded);
    let libraries = preloaded.values().map(|library| library.path.as_path());
    if is_linked(&toolkit.dylib, &text, libraries.chain([facade])) {
        return Ok(false);
    }
    let before = (toolkit.linked_in > 0.0).then(|| Duration::from_secs_f64(toolkit.linked_in));
    watch.linking(before);
    let begun = Instant::now();
    // Kernels that run now keep the file they have open; a rename does not touch it.
    let (file, fresh) = (toolkit.dylib.with_file_name(SOURCE), unfinished(&toolkit.dylib));
    let unlinked = unfinished(&file);
    std::fs::write(&unlinked, &text).with_context(|| format!("cannot write {}", unlinked.display()))?;
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
    rustc.arg("-o").arg(&fresh).arg(&unlinked);
    let well = run(&mut rustc, apart, watch, |line, watch| match line {
        Line::Out(line) | Line::Err(line) => watch.said(&line),
    })?;
    if !well {
        sweep(toolkit.session())?;
        bail!("rustc could not link {}", toolkit.dylib.display());
    }
    for (from, to) in [(&fresh, &toolkit.dylib), (&unlinked, &file)] {
        std::fs::rename(from, to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
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
    let temporary = unfinished(path);
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a file is called until it is whole: `libattention.PROCESS.tmp`.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
}

/// Removes what has not become whole: files of processes that are gone, and of this one, which writes nothing now.
/// The compiler begins the names of its own parts with the same two words.
fn sweep(folder: &Path) -> Result<()> {
    let cannot = || format!("cannot clean {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let process = name.split('.').nth(1).and_then(|word| word.parse::<i32>().ok());
        let ended = |id: i32| id == std::process::id() as i32 || is_gone(id);
        if process.is_some_and(ended) {
            match std::fs::remove_file(&path) {
                // Another kernel cleans as well.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.with_context(cannot)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(path: &Path) -> Library {
        Library { package: String::new(), features: Vec::new(), path: path.into() }
    }

    /// A file as old as `seconds` says, counted upwards.
    fn file(path: &Path, text: &str, seconds: u64) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn the_dylib_is_linked_anew_for_another_version_and_for_a_library_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (dylib, facade) = (at("libattention.so"), at("libattention.rlib"));
        let (old, new) = (library(&at("libroman-1.rlib")), library(&at("libroman-2.rlib")));
        for path in [&facade, &old.path, &new.path] {
            file(path, "", 10);
        }
        let linked = |roman: &Library| {
            let text = source(&BTreeMap::from([("roman".to_string(), roman)]));
            is_linked(&dylib, &text, [facade.as_path(), roman.path.as_path()].into_iter())
        };
        assert!(!linked(&old), "there is none");
        file(&dylib, "", 20);
        assert!(!linked(&old), "a link that broke off has left no source");
        file(&at(SOURCE), &source(&BTreeMap::from([("roman".to_string(), &old)])), 20);
        assert!(linked(&old));
        assert!(!linked(&new), "another version of the same crate");
        file(&old.path, "", 30);
        assert!(!linked(&old), "made again");
        file(&dylib, "", 40);
        assert!(linked(&old));
        file(&facade, "", 50);
        assert!(!linked(&old), "the facade made again");
    }

    #[test]
    fn only_what_somebody_still_writes_survives_the_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let mut alive = Command::new("sleep").arg("100").spawn().unwrap();
        let (gone, own) = (gone.id(), std::process::id());
        let written = format!("libattention.{}.tmp", alive.id());
        let kept = ["libattention.so", &written, "session.json", SOURCE];
        let swept =
            [gone, own].map(|id| [format!("libattention.{id}.tmp"), format!("libattention.{id}.a-cgu.0.rcgu.o")]);
        for name in kept.iter().map(|name| name.to_string()).chain(swept.into_iter().flatten()) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(folder.path()).unwrap();
        alive.kill().unwrap();
        alive.wait().unwrap();
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: BTreeSet<_> = left.map(|name| name.into_string().unwrap()).collect();
        assert_eq!(left, BTreeSet::from(kept.map(String::from)));
    }

    #[test]
    fn the_kernel_is_started_in_the_users_own_environment() {
        let spec = kernelspec_json(Path::new("/kernel"), Path::new("/session"));
        assert_eq!(spec.get("env"), None, "{spec}");
    }
}
