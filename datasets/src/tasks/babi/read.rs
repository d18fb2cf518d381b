//! Reads the published text format.

use std::path::Path;

use super::story::words;
use super::{BabiLine, BabiStory};
use crate::DatasetError;

/// The stories of a file in the bAbI format (`tasks_1-20_v1-2/en/qa1_single-supporting-fact_train.txt`
/// and its like).
///
/// # Errors
/// A file that cannot be read; a line that does not fit, with file and line.
pub fn read_babi(path: impl AsRef<Path>) -> Result<Vec<BabiStory>, DatasetError> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DatasetError::Missing { path: path.into() },
        _ => DatasetError::Io { path: path.into(), source },
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|error| DatasetError::NotUtf8 { path: path.into(), offset: error.utf8_error().valid_up_to() })?;
    parse_babi(&text, path)
}

/// The stories of a text in the same format; `source` is what errors call it.
///
/// Lines are numbered; a number 1 begins a story. A question line has tabs: the question, its
/// answer, the numbers of the lines that support it (which may be missing).
///
/// # Errors
/// A line that does not fit, with `source` and its place.
pub fn parse_babi(text: &str, source: &Path) -> Result<Vec<BabiStory>, DatasetError> {
    let mut stories: Vec<BabiStory> = Vec::new();
    for (place, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let problem =
            |found: String, expected: String| DatasetError::Line { path: source.into(), line: place, found, expected };
        let (number, rest) = line.trim_start().split_once(' ').unwrap_or((line.trim(), ""));
        let Ok(parsed) = number.parse::<usize>() else {
            return Err(problem(format!("`{number}`"), "a line number".into()));
        };
        if parsed == 1 {
            stories.push(BabiStory::default());
        }
        let next = stories.last().map_or(1, |story| story.lines.len() + 1);
        let Some(story) = stories.last_mut().filter(|story| story.lines.len() + 1 == parsed) else {
            return Err(problem(format!("line number {parsed}"), format!("{next}, or 1 for a new story")));
        };
        let mut fields = rest.split('\t').map(str::trim);
        let sentence = fields.next().unwrap_or_default();
        let said = words(sentence.strip_suffix(['.', '?']).unwrap_or(sentence));
        if said.is_empty() {
            return Err(problem("no words".into(), "a sentence or a question".into()));
        }
        let Some(answer) = fields.next() else {
            story.lines.push(BabiLine::Sentence(said));
            continue;
        };
        if answer.is_empty() {
            return Err(problem("a question without an answer".into(), "an answer behind the tab".into()));
        }
        let told = |line: usize| matches!(story.lines.get(line), Some(BabiLine::Sentence(_)));
        let facts = (fields.next().unwrap_or_default().split_whitespace())
            .map(|fact| match fact.parse::<usize>() {
                Ok(number) if number > 0 && told(number - 1) => Ok(number - 1),
                _ => Err(problem(
                    format!("supporting fact `{fact}`"),
                    format!("the number of a sentence of this story before line {parsed}"),
                )),
            })
            .collect::<Result<_, _>>()?;
        if let Some(more) = fields.next() {
            return Err(problem(format!("a fourth field `{more}`"), "question, answer and supporting facts".into()));
        }
        story.lines.push(BabiLine::Question { question: said, answer: answer.into(), facts });
    }
    Ok(stories)
}
