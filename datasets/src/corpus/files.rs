//! Text from files: the user's own, and those fetched from the Hub.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Corpus, split::Document, tables};
use crate::DatasetError;

/// A text file or a folder of the user's.
///
/// A folder is read recursively, files in the order of their paths; names that begin with a dot and
/// symbolic links to folders are passed over. Files that are not UTF-8 are skipped, and
/// [`describe`](crate::Dataset::describe) says how many and which. A `.jsonl` or `.parquet` file
/// gives the field `field` of each of its rows, a line each. How it is split: as file names say
/// (`train`, `valid`, `test`), else by file, else the last tenth of every file; so a single file
/// gives its tail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathConfig {
    /// The file or folder.
    pub path: PathBuf,
    /// Which field of a `.jsonl` or `.parquet` file is the text. Default `text`.
    #[serde(default = "text_field")]
    pub field: String,
}

pub(super) fn text_field() -> String {
    "text".into()
}

impl PathConfig {
    /// The file or folder with every default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), field: text_field() }
    }
}

pub(super) fn open(config: &PathConfig) -> Result<Corpus, DatasetError> {
    let path = &config.path;
    let kind = match fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DatasetError::Missing { path: path.clone() });
        }
        Err(error) => return Err(DatasetError::io(path)(error)),
    };
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if kind.is_dir() {
        let (documents, about) = read_all(path, &walk(path)?, &config.field, &format!("`{}`", path.display()))?;
        Corpus::from_documents(name, &about, documents)
    } else {
        let text = match read(path, &config.field)? {
            Ok(text) => text,
            Err(offset) => {
                return Err(DatasetError::NotUtf8 { path: path.clone(), offset });
            }
        };
        let about = format!("`{}`", path.display());
        let document = Document { name: name.clone(), group: name.clone(), text };
        Corpus::from_documents(name, &about, vec![document])
    }
}

/// Reads `files` below `root` as documents, and says in words what they are; `source` is where from.
pub(super) fn read_all(
    root: &Path,
    files: &[PathBuf],
    field: &str,
    source: &str,
) -> Result<(Vec<Document>, String), DatasetError> {
    let (mut documents, mut skipped) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().replace('\\', "/");
        match read(file, field)? {
            Ok(text) if text.is_empty() => {}
            Ok(text) => documents.push(Document { group: name.clone(), name, text }),
            Err(_) => skipped.push(name),
        }
    }
    let mut about = format!("{} text files of {source}", documents.len());
    if !skipped.is_empty() {
        about += &format!("; {} skipped, not UTF-8: {}", skipped.len(), few(&skipped));
    }
    Ok((documents, about))
}

/// The text of a file, or the place of the first byte that is not UTF-8.
fn read(path: &Path, field: &str) -> Result<Result<String, usize>, DatasetError> {
    let is = |ending| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    if is("parquet") {
        return tables::parquet(path, field).map(Ok);
    }
    let bytes = fs::read(path).map_err(DatasetError::io(path))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Ok(Err(error.utf8_error().valid_up_to())),
    };
    if is("jsonl") {
        return tables::json_lines(path, &text, field).map(Ok);
    }
    Ok(Ok(text))
}

/// All files below `root` in the order of their paths, hidden ones passed over.
pub(super) fn walk(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(DatasetError::io(&folder))? {
            let entry = entry.map_err(DatasetError::io(&folder))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(DatasetError::io(&path))?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() || path.is_file() {
                files.push(path); // a link to a folder could lead in circles, one to a file cannot
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The first names of a list, for a message.
pub(super) fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_is_read_in_path_order_and_split_by_file() {
        let lines: Vec<(String, Vec<u8>)> =
            (0..20).map(|i| (format!("part{}/{i:02}.txt", i % 3), format!("file {i:02}\n").into_bytes())).collect();
        let files: Vec<(&str, &[u8])> = lines.iter().map(|(name, text)| (name.as_str(), text.as_slice())).collect();
        let folder = folder(&files);
        let corpus = Corpus::path(folder.path()).unwrap();
        let (train, held_out) = (corpus.train_documents(), corpus.validation_documents());
        assert_eq!(train.len() + held_out.len(), 20);
        assert!(held_out.len() >= 2 && held_out.iter().all(|name| !train.contains(name)));
        assert!(train.is_sorted() && held_out.is_sorted());
        let all: String = corpus
            .train_text()
            .lines()
            .chain(corpus.validation_text().lines())
            .map(|line| format!("{line};"))
            .collect();
        assert!((0..20).all(|i| all.contains(&format!("file {i:02};"))), "{all}");
        assert_eq!(Corpus::path(folder.path()).unwrap().train_text(), corpus.train_text());
    }

    #[test]
    fn files_that_are_not_utf8_are_skipped_and_named() {
        let folder = folder(&[
            ("a.txt", b"plain text, long enough to be split"),
            ("b.bin", b"\xff\xfe\x00"),
            (".hidden", b"not read"),
        ]);
        let corpus = Corpus::path(folder.path()).unwrap();
        let line = corpus.describe();
        assert!(line.contains("1 text files") && line.contains("1 skipped"), "{line}");
        assert!(line.contains("b.bin") && line.contains("fingerprint"), "{line}");
        assert!(!corpus.train_text().contains("not read"));
    }

    #[test]
    fn a_single_file_gives_its_tail_for_validation() {
        let folder = folder(&[("book.txt", "0123456789".repeat(10).as_bytes())]);
        let corpus = Corpus::path(folder.path().join("book.txt")).unwrap();
        assert_eq!(corpus.name(), "book");
        assert_eq!((corpus.train_text().len(), corpus.validation_text()), (90, "0123456789"));
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let folder = folder(&[("bad.txt", b"good until here: \xff"), ("empty.txt", b"")]);
        let refused = |name: &str| Corpus::path(folder.path().join(name)).unwrap_err().to_string();
        let message = refused("nowhere");
        assert!(message.contains("nowhere") && message.contains("no file"), "{message}");
        let message = refused("bad.txt");
        assert!(message.contains("bad.txt") && message.contains("17"), "{message}");
        let message = refused("empty.txt");
        assert!(message.contains("empty") && message.contains("0 bytes"), "{message}");
    }

    /// With texts on this machine: `ATTENTION_DATA=FOLDER cargo test -p datasets`. The folder holds
    /// `tinyshakespeare.txt` and `wikitext-2/` (`valid.txt`, `test.txt`).
    #[test]
    fn published_texts_have_their_published_sizes() {
        let Some(data) = std::env::var_os("ATTENTION_DATA").map(PathBuf::from) else {
            eprintln!("skipped: ATTENTION_DATA is not set");
            return;
        };
        let corpus = Corpus::path(data.join("tinyshakespeare.txt")).unwrap();
        assert_eq!(corpus.train_text().len() + corpus.validation_text().len(), 1_115_394);
        assert!(corpus.train_text().starts_with("First Citizen:"));
        let corpus = Corpus::path(data.join("wikitext-2")).unwrap();
        assert!(corpus.validation(0, 8, 256).ids.iter().all(|id| (0..256).contains(id)));
    }
}
