//! Which files of a dataset are read.

/// Whether a file is text this crate reads; the dataset's card describes the text and is none.
pub(super) fn is_text(path: &str) -> bool {
    let known = [".txt", ".md", ".jsonl", ".parquet"].iter().any(|end| path.to_lowercase().ends_with(end));
    known && path != "README.md"
}

/// Takes `size` from what is left, if it can.
pub(super) fn fits(left: &mut u64, size: u64) -> bool {
    let rest = left.checked_sub(size);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}
