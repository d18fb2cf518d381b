//! What the Hub listed when a folder was downloaded: without a network it tells whether the folder holds
//! what is asked for now, which may be more than was asked for then.
//!
//! `listings/COMMIT` beside the cache's `snapshots/COMMIT`, a line `SIZE PATH` for each file.

use crate::Entry;
use std::io;
use std::path::{Path, PathBuf};

fn file(snapshot: &Path) -> Option<PathBuf> {
    Some(snapshot.parent()?.parent()?.join("listings").join(snapshot.file_name()?))
}

pub(crate) fn write(snapshot: &Path, entries: &[Entry]) -> io::Result<()> {
    let Some(file) = file(snapshot) else { return Ok(()) };
    let text: String = entries.iter().map(|Entry { path, size }| format!("{size} {path}\n")).collect();
    if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    std::fs::create_dir_all(file.parent().expect("in `listings`"))?;
    // Whole or not at all, whoever reads at the same time.
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, text)?;
    std::fs::rename(part, file)
}

/// None where there is none, or not one of ours.
pub(crate) fn read(snapshot: &Path) -> Option<Vec<Entry>> {
    let text = std::fs::read_to_string(file(snapshot)?).ok()?;
    let entry = |line: &str| {
        let (size, path) = line.split_once(' ')?;
        Some(Entry { path: path.into(), size: size.parse().ok()? })
    };
    text.lines().map(entry).collect()
}
