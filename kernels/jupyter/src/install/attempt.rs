//! The project's manifests while a crate is added: what they were is kept on disk, so that they are put back even
//! where the kernel ends before the addition does.

use super::{read, write};
use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const MANIFEST: &str = "notebooks/Cargo.toml";
pub const LOCK: &str = "Cargo.lock";

/// The texts of [`MANIFEST`] and [`LOCK`].
pub type Manifests = [String; 2];

pub fn manifests(workspace: &Path) -> Result<Manifests> {
    Ok([read(&workspace.join(MANIFEST))?, read(&workspace.join(LOCK))?])
}

/// In the target folder: the manifests before and after, or nothing where no addition is under way. Whoever adds
/// holds its lock, which the system takes away from a process that ends.
const FILE: &str = "before-dep.json";

/// The right to change the manifests.
#[derive(Debug)]
pub struct Attempt {
    workspace: PathBuf,
    file: File,
}

impl Attempt {
    /// Puts back what an attempt has left that did not end. None as long as another kernel adds a crate.
    pub fn open(target: &Path, workspace: &Path) -> Result<Option<Self>> {
        let path = target.join(FILE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Whoever only looks whether something is to be put back is done at once.
                Err(TryLockError::WouldBlock) if begun.elapsed() < Duration::from_secs(1) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                // Some file systems of clusters have no locks; two kernels there must not add at the same time.
                Err(TryLockError::Error(error))
                    if error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK) =>
                {
                    break;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        let attempt = Self { workspace: workspace.into(), file };
        attempt.undo()?;
        Ok(Some(attempt))
    }

    /// Writes `after` into the workspace, which is to have `before`.
    pub fn begin(&self, before: &Manifests, after: &Manifests) -> Result<()> {
        if manifests(&self.workspace)? != *before {
            bail!("{MANIFEST} or {LOCK} has been changed meanwhile; run the line again");
        }
        let text = serde_json::to_string(&[before, after])?;
        self.file.write_all_at(text.as_bytes(), 0).context("cannot keep the manifests")?;
        for (file, text) in [MANIFEST, LOCK].iter().zip(after) {
            write(&self.workspace.join(file), text)?;
        }
        Ok(())
    }

    /// The manifests stay as they are now.
    pub fn end(&self) -> Result<()> {
        self.file.set_len(0).context("cannot forget the manifests of before")
    }

    pub fn undo(&self) -> Result<()> {
        let mut text = String::new();
        let mut file = &self.file;
        file.rewind().and_then(|()| file.read_to_string(&mut text)).context("cannot read the manifests of before")?;
        // Text that breaks off is of one that had not changed anything yet.
        if let Ok([before, after]) = serde_json::from_str::<[Manifests; 2]>(&text) {
            for ((file, before), after) in [MANIFEST, LOCK].iter().zip(before).zip(after) {
                let path = self.workspace.join(file);
                // What somebody has changed since is theirs.
                if read(&path)? == after {
                    write(&path, &before)?;
                }
            }
        }
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: [&str; 2] = ["[dependencies]\n", "version = 4\n"];
    const AFTER: [&str; 2] = ["[dependencies]\nroman = \"0.1\"\n", "version = 4\n# roman\n"];

    /// A workspace before an addition. The folder is its target folder as well.
    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("notebooks")).unwrap();
        std::fs::write(folder.path().join(MANIFEST), BEFORE[0]).unwrap();
        std::fs::write(folder.path().join(LOCK), BEFORE[1]).unwrap();
        folder
    }

    fn begun(folder: &Path) -> Attempt {
        let attempt = Attempt::open(folder, folder).unwrap().expect("nobody else");
        attempt.begin(&BEFORE.map(String::from), &AFTER.map(String::from)).unwrap();
        assert_eq!(manifests(folder).unwrap(), AFTER);
        attempt
    }

    #[test]
    fn an_attempt_whose_process_is_gone_is_put_back_by_the_next_one() {
        let folder = workspace();
        // Its lock goes with it.
        drop(begun(folder.path()));
        assert_eq!(manifests(folder.path()).unwrap(), AFTER);
        let next = Attempt::open(folder.path(), folder.path()).unwrap();
        assert!(next.is_some());
        assert_eq!(manifests(folder.path()).unwrap(), BEFORE);
    }

    #[test]
    fn an_attempt_that_ended_well_stays_and_one_that_failed_does_not() {
        let folder = workspace();
        let attempt = begun(folder.path());
        attempt.undo().unwrap();
        assert_eq!(manifests(folder.path()).unwrap(), BEFORE);
        drop(attempt);
        let attempt = begun(folder.path());
        attempt.end().unwrap();
        drop(attempt);
        Attempt::open(folder.path(), folder.path()).unwrap();
        assert_eq!(manifests(folder.path()).unwrap(), AFTER);
    }

    #[test]
    fn what_somebody_has_written_since_is_not_overwritten() {
        let folder = workspace();
        drop(begun(folder.path()));
        std::fs::write(folder.path().join(MANIFEST), "mine").unwrap();
        Attempt::open(folder.path(), folder.path()).unwrap();
        assert_eq!(manifests(folder.path()).unwrap(), ["mine", BEFORE[1]]);
        let attempt = Attempt::open(folder.path(), folder.path()).unwrap().unwrap();
        let error = attempt.begin(&BEFORE.map(String::from), &AFTER.map(String::from)).unwrap_err().to_string();
        assert!(error.contains("changed meanwhile"), "{error}");
        assert_eq!(manifests(folder.path()).unwrap(), ["mine", BEFORE[1]]);
    }

    #[test]
    fn only_one_adds_at_a_time_and_nobody_puts_back_what_is_under_way() {
        let folder = workspace();
        let attempt = begun(folder.path());
        assert!(Attempt::open(folder.path(), folder.path()).unwrap().is_none());
        assert_eq!(manifests(folder.path()).unwrap(), AFTER);
        drop(attempt);
        assert!(Attempt::open(folder.path(), folder.path()).unwrap().is_some());
    }

    #[test]
    fn a_record_that_breaks_off_changes_nothing() {
        let folder = workspace();
        std::fs::write(folder.path().join(FILE), "[[\"[depend").unwrap();
        begun(folder.path()).end().unwrap();
        assert_eq!(manifests(folder.path()).unwrap(), AFTER);
    }
}
