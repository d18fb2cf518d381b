//! What a person at a terminal sees: stages, and errors with their reasons.

use std::fmt::Display;
use std::time::Instant;

/// Numbered stages with the time that each took.
pub struct Stages {
    total: usize,
    number: usize,
    started: Instant,
}

impl Stages {
    pub fn new(total: usize) -> Self {
        Self { total, number: 0, started: Instant::now() }
    }

    pub fn begin(&mut self, title: impl Display) {
        self.number += 1;
        self.started = Instant::now();
        eprintln!("[{}/{}] {title}", self.number, self.total);
    }

    pub fn note(&self, text: impl Display) {
        eprintln!("      {text}");
    }

    pub fn end(&self, text: impl Display) {
        self.note(format_args!("{text} ({:.1} s)", self.started.elapsed().as_secs_f64()));
    }
}

/// An error and what it comes from, one line each; a cause that its error already quotes is left out.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text += &format!("\n  because: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no such file").context("a.json: no such file").context("cannot load the run");
        assert_eq!(chain(&error), "error: cannot load the run\n  because: a.json: no such file");
    }
}
