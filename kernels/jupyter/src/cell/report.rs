//! rustc's own rendered messages, with the cell's line numbers and without our generated lines.

use super::compile::Diagnostic;
use super::generate::Source;
use super::sources::Sources;
use std::ops::Range;

/// What an `error` message to the front end holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellError {
    pub ename: String,
    pub evalue: String,
    pub traceback: Vec<String>,
}

impl CellError {
    pub fn new(ename: &str, evalue: impl Into<String>) -> Self {
        let evalue = evalue.into();
        let traceback = vec![format!("\x1b[1;31m{ename}\x1b[0m: {evalue}")];
        CellError { ename: ename.into(), evalue, traceback }
    }

    pub fn note(mut self, note: &str) -> Self {
        self.traceback.push(note.to_string());
        self
    }
}

/// Values of one library and code of another must not meet.
pub fn outdated(why: &str, remedy: &str) -> CellError {
    CellError::new("SessionOutdated", why).note(remedy)
}

/// One error for all of a cell's diagnostics: a front end shows (and nbclient reports) only one.
/// `source` is the cell's, and `others` are those that a diagnostic may show beside it.
pub fn compile_error(diagnostics: &[Diagnostic], source: &Source, cell: usize, others: &Sources) -> CellError {
    // The library is there, but crates it was linked from are not any more, or are newer.
    let missing = |found: &&Diagnostic| ["E0460", "E0463"].iter().any(|code| found.has_code(code));
    if diagnostics.iter().find(missing).is_some_and(|found| found.message.contains("`attention`")) {
        return outdated(
            "the project has been compiled again since its notebook session was linked",
            "`cargo lab notebook` links it anew, and `%restart` begins with it.",
        );
    }
    let mut shown = Vec::new();
    let mut first = None;
    for diagnostic in diagnostics {
        let message = &diagnostic.message;
        // "aborting due to 2 previous errors" adds nothing in a notebook.
        if message.starts_with("aborting due to") || message.starts_with("For more information") {
            continue;
        }
        if first.is_none() {
            let line = diagnostic.primary().and_then(|span| source.user_line(span.line_start));
            let place = line.map(|line| format!(" (line {line})")).unwrap_or_default();
            let code = diagnostic.code.as_ref().map(|c| format!("{}: ", c.code));
            first = Some(format!("{}{message}{place}", code.unwrap_or_default()));
        }
        let rendered = diagnostic.rendered.as_deref().unwrap_or(message);
        shown.push(rewrite(rendered, source, cell, others));
    }
    shown.dedup();
    CellError {
        ename: "CompileError".into(),
        evalue: first.unwrap_or_else(|| "the compiler failed without a message".into()),
        traceback: shown,
    }
}

/// Splits a rendered line into what the eye sees and where its first number stands.
fn gutter_number(line: &str) -> Option<(Range<usize>, usize)> {
    let bytes = line.as_bytes();
    let mut at = skip_ansi_and_spaces(bytes, 0);
    let start = at;
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        at += 1;
    }
    let number = line[start..at].parse().ok()?;
    let after = skip_ansi_and_spaces(bytes, at);
    let edge = matches!(bytes.get(after), Some(b'|' | b'+' | b'-' | b'~' | b':'));
    (edge && after > at).then_some((start..at, number))
}

fn skip_ansi_and_spaces(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b' ' => at += 1,
            0x1b => {
                while at < bytes.len() && bytes[at] != b'm' {
                    at += 1;
                }
                at += 1;
            }
            _ => break,
        }
    }
    at.min(bytes.len())
}

/// `--> cell_7.rs:21:9` and `::: …` lines: where the file's name is, and the two numbers.
fn place(line: &str) -> Option<(Range<usize>, usize, usize)> {
    let arrow = line.find("--> ").or_else(|| line.find("::: "))?;
    let start = skip_ansi_and_spaces(line.as_bytes(), arrow + 4);
    let path_end = start + line[start..].find(".rs:")? + 3;
    let mut numbers = line[path_end + 1..].split(':');
    let row = numbers.next()?.parse().ok()?;
    let column = numbers.next()?;
    let digits = column.len() - column.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((start..path_end, row, column[..digits].parse().ok()?))
}

fn rewrite(rendered: &str, source: &Source, cell: usize, others: &Sources) -> String {
    let mut out: Vec<String> = Vec::new();
    // Below a generated line come its underlines; they go with it.
    let mut hidden = false;
    // The file that lines are of: without a name the cell's.
    let mut file = None;
    // A line as one of a cell, if it is generated for one.
    let of_cell = |file: Option<&str>, line: usize| match file {
        None => Some((cell, source.user_line(line))),
        Some(file) => others.find(file, line),
    };
    for line in rendered.lines() {
        if let Some((path, row, column)) = place(line) {
            hidden = false;
            let (start, path) = (path.start, &line[path]);
            file = (path.contains('/') || others.find(path, row).is_some()).then_some(path);
            match of_cell(file, row) {
                None => out.push(line.to_string()),
                Some((cell, Some(row))) => out.push(format!("{}cell [{cell}]:{row}:{column}", &line[..start])),
                Some((_, None)) => {}
            }
            continue;
        }
        if let Some((range, number)) = gutter_number(line) {
            hidden = false;
            match of_cell(file, number).map_or(Some(number), |(_, row)| row) {
                Some(row) => {
                    let width = range.len();
                    out.push(format!("{}{row:<width$}{}", &line[..range.start], &line[range.end..]));
                }
                None => hidden = true,
            }
            continue;
        }
        let first = skip_ansi_and_spaces(line.as_bytes(), 0);
        let annotation = line.as_bytes().get(first) == Some(&b'|');
        // A heading; what it is about is the cell's, unless a place follows.
        if line.as_bytes().get(first).is_some_and(u8::is_ascii_alphabetic) && !line[..first].contains(' ') {
            file = None;
        }
        if hidden && annotation {
            continue;
        }
        hidden &= annotation;
        if line.contains("For more information about this error") {
            continue;
        }
        out.push(line.to_string());
    }
    out.join("\n").trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_diagnostic_has_the_number_that_it_has_in_its_own_cell_or_file() {
        let source = |lines: &[Option<usize>]| Source { lines: lines.to_vec(), ..Source::default() };
        let others = Sources::default();
        others.remember("cell_1", 4, &source(&[None, Some(7)]));
        let rendered = |own: &str, mine: usize, other: &str, others: usize| {
            format!(
                "error[E0308]: mismatched types\n --> {own}:{mine}:5\n  |\n{mine} | add(\"x\");\n  |     ^^^ expected\n  |\n\
                 note: function defined here\n --> {other}:{others}:8\n  |\n{others} | fn add(a: i32) {{}}\n  |    ^^^\n\
                 note: required by this\n --> /lib/vec.rs:3:1\n  |\n3 | fn far() {{}}\n  | ^^^^^^\n\
                 help: try this\n  |\n{mine} | add(1);\n"
            )
        };
        let own = source(&[None, None, Some(1)]);
        let shown = rewrite(&rendered("run_2.rs", 3, "cell_1.rs", 2), &own, 5, &others);
        assert_eq!(shown, rendered("cell [5]", 1, "cell [4]", 7).trim_end());
    }
}
