//! A story as text: numbered lines, some of which are questions.

use std::fmt;

/// One line of a story. Words are as written, without the final full stop or question mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BabiLine {
    /// Something that is told.
    Sentence(Vec<String>),
    /// Something that is asked about what was told before.
    Question {
        /// The words of the question.
        question: Vec<String>,
        /// The answer, one word even where it is a list (`n,w`).
        answer: String,
        /// The lines that the answer follows from, counted from 0, as far as they are known.
        facts: Vec<usize>,
    },
}

/// A story. Printed, it has the published format:
///
/// ```text
/// 1 Mary moved to the bathroom.
/// 2 John went to the hallway.
/// 3 Where is Mary?⇥bathroom⇥1
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BabiStory {
    /// Its lines in order; numbers count them from 1.
    pub lines: Vec<BabiLine>,
}

impl BabiStory {
    /// Adds a sentence and returns its line, counted from 0.
    pub(super) fn tell(&mut self, sentence: &str) -> usize {
        self.lines.push(BabiLine::Sentence(words(sentence)));
        self.lines.len() - 1
    }

    pub(super) fn ask(&mut self, question: &str, answer: impl Into<String>, facts: Vec<usize>) {
        self.lines.push(BabiLine::Question { question: words(question), answer: answer.into(), facts });
    }

    /// How many of its lines are questions.
    pub fn questions(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line, BabiLine::Question { .. })).count()
    }
}

pub(super) fn words(sentence: &str) -> Vec<String> {
    sentence.split_whitespace().map(str::to_owned).collect()
}

impl fmt::Display for BabiStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in (1..).zip(&self.lines) {
            match line {
                BabiLine::Sentence(words) => writeln!(f, "{number} {}.", words.join(" "))?,
                BabiLine::Question { question, answer, facts } => {
                    let facts: Vec<String> = facts.iter().map(|line| (line + 1).to_string()).collect();
                    writeln!(f, "{number} {}?\t{answer}\t{}", question.join(" "), facts.join(" "))?;
                }
            }
        }
        Ok(())
    }
}
