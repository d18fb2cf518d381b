//! The kernel's private folder, and the remains of kernels that were killed.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PREFIX: &str = "attention-kernel-";

/// A folder of this process alone, removed when it ends.
pub fn folder() -> Result<TempDir> {
    let base = std::env::temp_dir();
    sweep(&base);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir()
        .with_context(|| format!("cannot make a folder in {}", base.display()))
}

/// Removes folders whose process is gone: after `kill -9` nobody else does.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(is_gone) {
            remove(entry.path());
        }
    }
}

/// Whether there is no such process any more.
pub fn is_gone(pid: i32) -> bool {
    // SAFETY: signal 0 only asks whether the process exists.
    let asked = unsafe { libc::kill(pid, 0) };
    asked != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// A compiler of the kernel that is gone may be writing into its folder for a moment longer.
fn remove(folder: PathBuf) {
    let removed = |folder: &Path| std::fs::remove_dir_all(folder).is_ok() || !folder.exists();
    if removed(&folder) {
        return;
    }
    std::thread::spawn(move || {
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(100));
            if removed(&folder) {
                return;
            }
        }
        eprintln!("attention-kernel: {}, of a kernel that is gone, cannot be removed", folder.display());
    });
}
