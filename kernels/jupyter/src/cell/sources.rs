//! Which line of which cell a line of a generated file is.

use super::generate::Source;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The line maps of everything that may panic or be shown later. Shared with what passes on a session's output.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Mutex<BTreeMap<String, Lines>>>);

#[derive(Debug)]
struct Lines {
    cell: usize,
    /// As [`Source::lines`].
    lines: Vec<Option<usize>>,
}

impl Sources {
    pub fn remember(&self, name: &str, cell: usize, source: &Source) {
        let lines = Lines { cell, lines: source.lines.clone() };
        self.0.lock().unwrap().insert(format!("{name}.rs"), lines);
    }

    /// The cell that a file was made for, and the cell's line for one of the file's, where it has one.
    pub fn find(&self, file: &str, line: usize) -> Option<(usize, Option<usize>)> {
        let sources = self.0.lock().unwrap();
        let Lines { cell, lines } = sources.get(file)?;
        Some((*cell, line.checked_sub(1).and_then(|at| lines.get(at).copied().flatten())))
    }

    /// `cell [3], line 2` for `run_7.rs:14:22`.
    pub fn place(&self, place: &str) -> Option<String> {
        let (file, numbers) = place.split_once(':')?;
        let line = numbers.split(':').next()?.parse().ok()?;
        Some(match self.find(file, line)? {
            (cell, Some(line)) => format!("cell [{cell}], line {line}"),
            (cell, None) => format!("cell [{cell}]"),
        })
    }

    /// A text with the places in it that are in generated files as places in cells.
    pub fn told(&self, text: &str) -> String {
        let mut told = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(".rs:") {
            let start = rest[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
            let numbers = rest[at + 4..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
            let place = rest[start..rest.len() - numbers.len()].trim_end_matches(':');
            let end = start + place.len();
            match self.place(place) {
                Some(place) => told.extend([&rest[..start], place.as_str()]),
                None => told.push_str(&rest[..end]),
            }
            rest = &rest[end..];
        }
        told + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_generated_files_are_told_as_places_in_cells_and_others_as_they_are() {
        let sources = Sources::default();
        let source = Source { lines: vec![None, Some(5), Some(6)], ..Source::default() };
        sources.remember("run_7", 3, &source);
        for (text, told) in [
            ("thread 'a' panicked at run_7.rs:2:14: b", "thread 'a' panicked at cell [3], line 5: b"),
            ("[run_7.rs:3:1]\n[run_7.rs:1:1]\n", "[cell [3], line 6]\n[cell [3]]\n"),
            ("run_8.rs:2:1 é.rs:: src/lib.rs:7:1: run_7.rs", "run_8.rs:2:1 é.rs:: src/lib.rs:7:1: run_7.rs"),
            ("run_7.rs:x run_7.rs:", "run_7.rs:x run_7.rs:"),
        ] {
            assert_eq!(sources.told(text), told);
        }
    }
}
