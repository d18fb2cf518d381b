//! An assembled corpus on disk, so that only the first opening pays for it.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::Corpus;

/// The corpus at `path`, if there is a readable one. A file that cannot be parsed counts as absent:
/// it is rebuilt and replaced.
pub(super) fn load(path: &Path) -> Option<Corpus> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes the corpus to a temporary file next to `path` and renames it, so a reader sees the whole
/// file or none, and two writers do not mix.
pub(super) fn store(path: &Path, corpus: &Corpus) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    // As any new file, where temporary ones are their owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = BufWriter::new(builder.tempfile_in(folder)?);
    serde_json::to_writer(&mut file, corpus)?;
    file.flush()?;
    file.into_inner().map_err(|error| error.into_error())?.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_corpus_comes_back_and_a_damaged_one_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "some text of some length").unwrap();
        let corpus = Corpus::path(folder.path()).unwrap();
        let path = folder.path().join("deep/cache.json");
        assert!(load(&path).is_none());
        store(&path, &corpus).unwrap();
        let again = load(&path).unwrap();
        assert_eq!(again.train_text(), corpus.train_text());
        assert_eq!(again.description, corpus.description);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(load(&path).is_none());
        store(&path, &corpus).unwrap();
        assert!(load(&path).is_some());
        let beside = folder.path().join("a.txt");
        assert_eq!(path.metadata().unwrap().permissions(), beside.metadata().unwrap().permissions());
    }
}
