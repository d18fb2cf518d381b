//! Everything that can be wrong with data, said so that the reader knows what to change.

use std::path::PathBuf;

/// Why a dataset could not be opened or used. Every message names the thing, the value found and
/// what would be valid.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The path of a corpus leads nowhere.
    #[error("no file or folder at `{path}`; expected a text file, or a folder with text files")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },

    /// The operating system refused.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// Only a file named by the user itself: in a folder such files are skipped and counted.
    #[error(
        "`{path}` is not UTF-8 text (first bad byte at {offset}); expected UTF-8, convert it for \
         instance with `iconv -t UTF-8`"
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first invalid sequence starts, in bytes.
        offset: usize,
    },

    /// A `.jsonl` or `.parquet` file without the text field.
    #[error("`{path}`: expected a text field `{field}`, found {found}; name another with `field`")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field that was asked for.
        field: String,
        /// What is there instead: the fields, or what is wrong with the file.
        found: String,
    },

    /// A line that does not have the format of its file.
    #[error("`{path}`, line {line}: found {found}, expected {expected}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is there.
        found: String,
        /// What would be valid.
        expected: String,
    },

    /// There is nothing to learn from.
    #[error("corpus `{corpus}` holds no text: {reason}")]
    Empty {
        /// Which corpus.
        corpus: String,
        /// What was looked at.
        reason: String,
    },

    /// A window and the byte after it do not fit in the text.
    #[error(
        "the {part} text of corpus `{corpus}` has {bytes} bytes; a window of time {time} needs {} \
         (use a time of at most {}, or more text)", .time + 1, .bytes.saturating_sub(1)
    )]
    TooShort {
        /// Which corpus.
        corpus: String,
        /// `training` or `validation`.
        part: &'static str,
        /// Its size.
        bytes: usize,
        /// The window asked for.
        time: usize,
    },

    /// No cargo workspace to take the dependencies' sources from.
    #[error(
        "no cargo workspace {searched}: expected a folder with Cargo.lock and a Cargo.toml that has \
         a [workspace] section; run inside the project, or set ATTENTION_ROOT to its folder"
    )]
    NoWorkspace {
        /// Where it was looked for.
        searched: String,
    },

    /// `cargo metadata` failed.
    #[error(
        "cannot list the dependencies of the workspace `{root}`: {message} (the sources must be \
         present: run `cargo fetch` once with a network)"
    )]
    Metadata {
        /// The workspace.
        root: PathBuf,
        /// What cargo or rustc said.
        message: String,
    },

    /// The Hub did not answer, or not with the dataset.
    #[error(transparent)]
    Hub(#[from] hub::HubError),

    /// The dataset has no file this crate reads.
    #[error(
        "dataset `{name}` at {endpoint} has no text files; expected .txt, .md, .jsonl or \
         .parquet (other than README.md) below `{subset}`, found {found}"
    )]
    NoText {
        /// `owner/name`.
        name: String,
        /// Base URL asked.
        endpoint: String,
        /// The folder they were looked for in; empty for all.
        subset: String,
        /// Files there, the first of them.
        found: String,
    },

    /// Every text file to train on is larger than the cap.
    #[error("no text file of dataset `{name}` to train on fits into bytes = {bytes}: {found}; raise `bytes`")]
    TooLarge {
        /// `owner/name`.
        name: String,
        /// The cap.
        bytes: usize,
        /// The files with their sizes.
        found: String,
    },

    /// A `tokenizer.json` that is none, or that cannot express a text.
    #[error("`{path}`, the tokenizer: {problem}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },

    /// A parameter of a task or corpus that cannot work.
    #[error("{dataset}: {parameter} = {value}, expected {expected}")]
    Parameter {
        /// `mqar`, `needle`, `corpus`, `babi`.
        dataset: &'static str,
        /// Its name in the config.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What is valid, with the numbers it follows from.
        expected: String,
    },
}

impl DatasetError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
