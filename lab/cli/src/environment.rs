//! The project's own Python: a virtual environment with JupyterLab in `.attention/python`.
//!
//! Nothing is read from or written to the user's home: [`Environment::python`] sets every folder
//! that Jupyter would look for there.

use crate::root::shown;
use crate::terminal::Stages;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest Python that the pinned packages run on.
const OLDEST: (u32, u32) = (3, 10);
const CANDIDATES: [&str; 6] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];

pub struct Environment {
    root: PathBuf,
}

/// A Python that is there already, from which the environment is made.
#[derive(Debug, PartialEq)]
struct Interpreter {
    program: PathBuf,
    version: (u32, u32),
    venv: bool,
}

impl Environment {
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(".attention")
    }

    /// The virtual environment; its `share/jupyter` is where its Jupyter finds kernels.
    pub fn prefix(&self) -> PathBuf {
        self.folder().join("python")
    }

    fn requirements(&self) -> PathBuf {
        self.root.join("notebooks/requirements.txt")
    }

    /// What is installed: the requirements as they were, written when the installation was complete.
    fn stamp(&self) -> PathBuf {
        self.prefix().join("installed.txt")
    }

    /// Whether the environment is complete, up to date and runs.
    pub fn ready(&self) -> bool {
        let wanted = fs::read(self.requirements());
        let installed = fs::read(self.stamp());
        let same = matches!((wanted, installed), (Ok(wanted), Ok(installed)) if wanted == installed);
        // The Python it was made from may have been removed or replaced since.
        same && self.python().args(["-c", "import zmq"]).output().is_ok_and(|o| o.status.success())
    }

    /// A command that runs this environment's Python, with every folder inside the project.
    pub fn python(&self) -> Command {
        let folder = self.folder();
        let mut command = Command::new(self.prefix().join("bin/python"));
        for (name, place) in [
            ("JUPYTER_CONFIG_DIR", "jupyter/config"),
            ("JUPYTER_DATA_DIR", "jupyter/data"),
            ("JUPYTER_RUNTIME_DIR", "jupyter/runtime"),
            ("JUPYTERLAB_SETTINGS_DIR", "jupyter/settings"),
            ("JUPYTERLAB_WORKSPACES_DIR", "jupyter/workspaces"),
            ("IPYTHONDIR", "ipython"),
            ("PIP_CACHE_DIR", "cache/pip"),
        ] {
            command.env(name, folder.join(place));
        }
        // Somebody else's packages, kernels and settings stay out.
        for name in ["PYTHONHOME", "PYTHONPATH", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "JUPYTERLAB_DIR", "VIRTUAL_ENV"]
        {
            command.env_remove(name);
        }
        command.env("PYTHONNOUSERSITE", "1").env("JUPYTER_PREFER_ENV_PATH", "1").env("ATTENTION_ROOT", &self.root);
        command
    }

    /// Makes the environment if it is missing, incomplete or out of date.
    pub fn make(&self, stages: &Stages) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Two at once would write into one environment; the second waits for the first.
        let lock =
            File::create(folder.join("lock")).with_context(|| format!("cannot write in {}", folder.display()))?;
        if lock.try_lock().is_err() {
            stages.note("another `cargo lab notebook` is at it, waiting");
            lock.lock()?;
        }
        if self.ready() {
            stages.end(format_args!("there already, {}", shown(&self.prefix())));
            return Ok(());
        }
        let base = find(CANDIDATES.iter().map(PathBuf::from), std::env::var_os("ATTENTION_PYTHON").map(PathBuf::from))?;
        let (major, minor) = base.version;
        stages.note(format_args!(
            "{} (Python {major}.{minor}) makes {}",
            base.program.display(),
            shown(&self.prefix())
        ));
        let made = Command::new(&base.program)
            .args(["-m", "venv", "--clear"])
            .arg(self.prefix())
            .env_remove("PYTHONHOME")
            .env_remove("PYTHONPATH")
            .status();
        if !made.with_context(|| format!("cannot run {}", base.program.display()))?.success() {
            bail!(
                "`{} -m venv {}` failed, see above; on Debian and Ubuntu `sudo apt install python{major}.{minor}-venv` \
                 is what usually lacks",
                base.program.display(),
                self.prefix().display()
            );
        }
        stages.note(format_args!("pip installs {}", shown(&self.requirements())));
        let installed = self
            .python()
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"])
            .arg(self.requirements())
            .status()
            .context("cannot run the new environment's Python")?;
        if !installed.success() {
            bail!(
                "pip could not install {} into {}, see above. It needs the package index once: without a network, \
                 point pip to a mirror (PIP_INDEX_URL) or to a folder of wheels (PIP_FIND_LINKS, PIP_NO_INDEX=1), \
                 then run the same command again",
                shown(&self.requirements()),
                shown(&self.prefix())
            );
        }
        fs::copy(self.requirements(), self.stamp()).context("cannot note what was installed")?;
        stages.end("the Python environment is ready");
        Ok(())
    }
}

/// The Python to make the environment from: the chosen one, or the first candidate that will do.
fn find(candidates: impl Iterator<Item = PathBuf>, chosen: Option<PathBuf>) -> Result<Interpreter> {
    let install = "install Python 3.10 or later (Debian, Ubuntu: `sudo apt install python3 python3-venv`; Fedora: \
                   `sudo dnf install python3`; macOS: `brew install python`), or set ATTENTION_PYTHON to one";
    let good = |found: &Interpreter| found.version >= OLDEST;
    let found = match chosen {
        Some(program) => match ask(&program) {
            Some(found) if good(&found) => found,
            Some(Interpreter { version: (major, minor), .. }) => {
                bail!("ATTENTION_PYTHON is `{}`, Python {major}.{minor}; 3.10 or later is needed", program.display())
            }
            None => bail!("ATTENTION_PYTHON is `{}`, which does not run as a Python 3", program.display()),
        },
        None => {
            let all: Vec<_> = candidates.filter_map(|program| ask(&program)).collect();
            let too_old = all.first().map(|old| old.version);
            match (all.into_iter().find(good), too_old) {
                (Some(found), _) => found,
                (None, Some((major, minor))) => bail!("python3 is {major}.{minor}, too old for JupyterLab: {install}"),
                (None, None) => bail!("no python3 found: {install}"),
            }
        }
    };
    if !found.venv {
        let (major, minor) = found.version;
        bail!(
            "`{}` (Python {major}.{minor}) lacks the modules `venv` and `ensurepip`: \
             `sudo apt install python{major}.{minor}-venv` on Debian and Ubuntu, then run the same command again",
            found.program.display()
        );
    }
    Ok(found)
}

fn ask(program: &Path) -> Option<Interpreter> {
    let script = "import importlib.util as u, sys; \
                  print(*sys.version_info[:2], all(u.find_spec(m) for m in ('venv', 'ensurepip')), sys.executable)";
    let output = Command::new(program).args(["-c", script]).env_remove("PYTHONHOME").output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let mut words = text.trim().splitn(4, ' ');
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let venv = words.next()? == "True";
    Some(Interpreter { program: words.next()?.into(), version: (major, minor), venv })
}

/// What `doctor` says: the Python that would be used, or why there is none.
pub fn python_found() -> Result<String> {
    let found = find(CANDIDATES.iter().map(PathBuf::from), std::env::var_os("ATTENTION_PYTHON").map(PathBuf::from))?;
    Ok(format!("{}.{} at {}", found.version.0, found.version.1, found.program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn pretend(folder: &Path, name: &str, answer: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_first_python_that_is_new_enough_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let old = pretend(folder.path(), "python3", "3 9 True /usr/bin/python3");
        let new = pretend(folder.path(), "python3.12", "3 12 True /usr/bin/python3.12");
        let found = find([folder.path().join("missing"), old, new].into_iter(), None).unwrap();
        assert_eq!((found.version, found.program), ((3, 12), "/usr/bin/python3.12".into()));
    }

    #[test]
    fn what_to_install_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let old = pretend(folder.path(), "old", "3 9 True /usr/bin/python3");
        let bare = pretend(folder.path(), "bare", "3 11 False /usr/bin/python3");
        let message = |candidates: Vec<PathBuf>| find(candidates.into_iter(), None).unwrap_err().to_string();
        assert!(message(vec![]).contains("apt install python3"), "{}", message(vec![]));
        assert!(message(vec![old.clone()]).contains("3.9, too old"), "{}", message(vec![old]));
        assert!(message(vec![bare.clone()]).contains("python3.11-venv"), "{}", message(vec![bare]));
    }
}
