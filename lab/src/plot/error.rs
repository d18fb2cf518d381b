//! What can be wrong with a figure: every error names the thing and what was expected.

use plotters::drawing::DrawingAreaErrorKind;
use std::path::PathBuf;

/// Why a figure cannot be drawn or saved.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// There is nothing to draw, or something that this figure cannot show.
    #[error("{figure}: {what}, expected {expected}")]
    Data { figure: String, what: String, expected: String },
    /// plotters could not draw it.
    #[error("plotters: {0}")]
    Draw(String),
    /// Its SVG could not be turned into pixels.
    #[error("the figure cannot be made a PNG: {0}")]
    Raster(String),
    /// The file could not be written.
    #[error("cannot write the figure to {}: {source}", path.display())]
    Save { path: PathBuf, source: std::io::Error },
}

impl PlotError {
    pub(super) fn data(figure: &str, what: impl Into<String>, expected: impl Into<String>) -> Self {
        let figure = if figure.is_empty() { "figure".into() } else { format!("figure {figure:?}") };
        Self::Data { figure, what: what.into(), expected: expected.into() }
    }

    pub(super) fn empty(figure: &str, what: impl std::fmt::Display) -> Self {
        Self::data(figure, format!("{what} is empty"), "at least one finite value")
    }
}

impl From<DrawingAreaErrorKind<std::io::Error>> for PlotError {
    fn from(error: DrawingAreaErrorKind<std::io::Error>) -> Self {
        Self::Draw(error.to_string())
    }
}
