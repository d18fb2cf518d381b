//! `cargo lab notebook`: from a clean clone to a notebook that runs.

use crate::environment::Environment;
use crate::root::{root, shown};
use crate::run;
use crate::terminal::Stages;
use anyhow::{Context, Result, bail};
use jupyter_kernel::{InstallOptions, install};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Open a notebook in JupyterLab, or with --execute run it as `cargo lab run` does.
///
/// Makes what is missing first: a Python environment with JupyterLab in .attention/python, and the
/// kernel "Attention Zoo (Rust)". Nothing is written outside the project's folder.
#[derive(clap::Args)]
pub struct Arguments {
    /// A notebook of notebooks/ by name or the beginning of its name, or the path of one
    #[arg(default_value = "00-tour")]
    name: String,
    /// Run all cells without a browser and save the outputs; fails where a cell fails. The options below
    /// that are not about JupyterLab belong to it
    #[arg(long)]
    execute: bool,
    /// Start JupyterLab without opening a browser
    #[arg(long, conflicts_with = "execute")]
    no_open: bool,
    /// JupyterLab's port [default: 8888, or the next that is free]
    #[arg(long, conflicts_with = "execute")]
    port: Option<u16>,
    #[command(flatten)]
    options: run::Options,
    /// Passed on to JupyterLab, for instance `-- --ServerApp.ip=0.0.0.0`
    #[arg(last = true, conflicts_with = "execute")]
    jupyter: Vec<String>,
}

/// The kernelspec's folder name, as `jupyter_kernel::install` writes it.
pub const KERNEL: &str = "attention";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.execute {
        return run::execute(&arguments.name, &arguments.options);
    }
    if arguments.options.given() {
        bail!(
            "-p, --output, --html and --timeout are for a headless run: add --execute, or edit the notebook's cell \
             tagged `parameters`"
        );
    }
    let root = root()?;
    // What is wrong with the request is said before minutes are spent on it.
    let path = resolve(&root.join("notebooks"), &arguments.name)?;
    run::read(&path)?;
    if let Some(port) = arguments.port {
        free(port)?;
    }

    let mut stages = Stages::new(3);
    let environment = Environment::new(&root);
    stages.begin("Python environment");
    environment.make(&stages)?;
    stages.begin("Kernel \"Attention Zoo (Rust)\"");
    install(&InstallOptions { workspace: root.clone(), prefix: environment.prefix() })
        .context("cannot make the notebook's kernel")?;
    stages.end("the kernel is ready");
    stages.begin(format_args!("JupyterLab with {}", shown(&path)));
    stages.note(crate::doctor::device_line()?);
    serve(&environment, &root, &path, arguments)
}

/// The notebook called `name`: a path, a file's stem in `folder`, or the beginning of just one.
pub fn resolve(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(std::path::absolute(path)?);
    }
    let mut stems: Vec<String> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let stem = path.file_stem()?.to_str()?;
            (path.extension()? == "ipynb").then(|| stem.to_string())
        })
        .collect();
    stems.sort();
    let wanted = name.strip_suffix(".ipynb").unwrap_or(name);
    let file = |stem: &str| folder.join(format!("{stem}.ipynb"));
    if stems.iter().any(|stem| stem == wanted) {
        return Ok(file(wanted));
    }
    let starting: Vec<_> = stems.iter().filter(|stem| stem.starts_with(wanted)).cloned().collect();
    match &starting[..] {
        [one] => Ok(file(one)),
        [] if stems.is_empty() => bail!("no notebook `{name}`: {} holds none", folder.display()),
        [] => bail!("no notebook `{name}`; valid: {}, or the path of an .ipynb file", stems.join(", ")),
        several => bail!("`{name}` begins several notebooks: {}; write more of the name", several.join(", ")),
    }
}

fn free(port: u16) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "port {port} is taken, perhaps by a JupyterLab that still runs: stop it, give another --port, or leave \
             --port out and the next free one is found"
        ),
        Err(error) => Err(error)
            .with_context(|| format!("cannot use port {port}; give another --port above 1024, or leave it out")),
    }
}

/// Becomes JupyterLab, so that signals and the exit status are its own.
fn serve(environment: &Environment, root: &Path, path: &Path, arguments: &Arguments) -> Result<ExitCode> {
    configure(root)?;
    // A notebook from elsewhere is opened in its own folder.
    let (folder, inside) = match path.strip_prefix(root) {
        Ok(inside) => (root, inside),
        Err(_) => (path.parent().expect("a file"), Path::new(path.file_name().expect("a file"))),
    };
    let mut python = environment.python();
    python.current_dir(folder).args(["-c", include_str!("serve.py")]);
    python.arg(root.join("notebooks")).arg(root.join("runs/notebooks"));
    python.arg("--log-level=WARN");
    python.arg(format!("--ServerApp.root_dir={}", folder.display()));
    python.arg(format!("--LabApp.default_url=/lab/tree/{}", inside.display()));
    if arguments.no_open {
        python.arg("--no-browser");
    }
    if let Some(port) = arguments.port {
        python.args([format!("--ServerApp.port={port}"), "--ServerApp.port_retries=0".into()]);
    }
    // SAFETY: reads one number.
    if unsafe { libc::geteuid() } == 0 {
        python.arg("--allow-root");
    }
    eprintln!("      Ctrl-C twice stops it; its address:");
    python.args(&arguments.jupyter);
    Err(python.exec()).context("cannot run the Python environment's python")
}

/// JupyterLab's settings: our kernel first, and no questions, news or update checks.
fn configure(root: &Path) -> Result<()> {
    let folder = root.join(".attention/jupyter/config");
    let settings = json!({
        "LabApp": { "check_for_updates_class": "jupyterlab.NeverCheckForUpdate", "news_url": null },
        // Its search for language servers runs npm, which writes into the user's home.
        "LanguageServerManager": { "autodetect": false },
        "MultiKernelManager": { "default_kernel_name": KERNEL },
        // Loading the session's library the first time takes a moment on a cold disk.
        "MappingKernelManager": { "kernel_info_timeout": 120 },
    });
    let page = json!({ "disabledExtensions": { "@jupyterlab/apputils-extension:announcements": true } });
    for (name, content) in [("jupyter_lab_config.json", settings), ("labconfig/page_config.json", page)] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a file"))
            .and_then(|()| fs::write(&path, format!("{content:#}\n")))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notebooks() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["00-tour.ipynb", "01-sinks.ipynb", "01-sinks-long.ipynb", "02-lambda.ipynb", "notes.md"] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        folder
    }

    #[test]
    fn a_notebook_is_found_by_name_by_beginning_and_by_path() {
        let folder = notebooks();
        let stem =
            |name: &str| resolve(folder.path(), name).unwrap().file_stem().unwrap().to_str().unwrap().to_string();
        assert_eq!(stem("00-tour"), "00-tour");
        assert_eq!(stem("02"), "02-lambda");
        assert_eq!(stem("01-sinks"), "01-sinks", "a whole name wins over a beginning");
        assert_eq!(stem("02-lambda.ipynb"), "02-lambda");
        let path = folder.path().join("02-lambda.ipynb");
        assert_eq!(resolve(folder.path(), path.to_str().unwrap()).unwrap(), path);
    }

    #[test]
    fn an_unknown_notebook_is_answered_with_the_valid_ones() {
        let folder = notebooks();
        let message = |name: &str| resolve(folder.path(), name).unwrap_err().to_string();
        assert!(message("tuor").contains("00-tour, 01-sinks, 01-sinks-long, 02-lambda"), "{}", message("tuor"));
        assert!(!message("tuor").contains("notes"));
        assert!(message("01").contains("01-sinks, 01-sinks-long; write more"), "{}", message("01"));
    }

    #[test]
    fn a_taken_port_says_what_to_do() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let message = free(port).unwrap_err().to_string();
        assert!(message.contains(&port.to_string()) && message.contains("--port"), "{message}");
    }
}
