//! What can be wrong with a figure: every error names the thing, its value and what was expected.

use plotters::drawing::DrawingAreaErrorKind;
use plotters_backend::DrawingErrorKind;
use std::path::PathBuf;

/// Why a figure cannot be drawn or saved.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("{figure}: {what} is empty, expected at least one finite value")]
    Empty { figure: String, what: String },
    /// Two things that belong together differ in size.
    #[error("{figure}: {what} has length {got}, expected {expected} ({because})")]
    Length { figure: String, what: String, got: usize, expected: usize, because: String },
    /// A value that this figure cannot show.
    #[error("{figure}: {what} is {got}, expected {expected}")]
    Value { figure: String, what: String, got: String, expected: String },
    /// plotters could not draw it.
    #[error("plotters: {0}")]
    Draw(String),
    /// The file could not be written.
    #[error("cannot write the figure to {}: {source}", path.display())]
    Save { path: PathBuf, source: std::io::Error },
}

impl From<DrawingAreaErrorKind<std::io::Error>> for PlotError {
    fn from(error: DrawingAreaErrorKind<std::io::Error>) -> Self {
        Self::Draw(error.to_string())
    }
}

impl From<DrawingErrorKind<std::io::Error>> for PlotError {
    fn from(error: DrawingErrorKind<std::io::Error>) -> Self {
        Self::Draw(error.to_string())
    }
}

impl PlotError {
    pub(super) fn empty(figure: &str, what: impl Into<String>) -> Self {
        let (figure, what) = (name(figure), what.into());
        Self::Empty { figure, what }
    }

    pub(super) fn length(
        figure: &str,
        what: impl Into<String>,
        got: usize,
        expected: usize,
        because: impl Into<String>,
    ) -> Self {
        let (figure, what, because) = (name(figure), what.into(), because.into());
        Self::Length { figure, what, got, expected, because }
    }

    pub(super) fn value(
        figure: &str,
        what: impl Into<String>,
        got: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Value { figure: name(figure), what: what.into(), got: got.to_string(), expected: expected.into() }
    }
}

fn name(figure: &str) -> String {
    if figure.is_empty() { "figure".into() } else { format!("figure {figure:?}") }
}
