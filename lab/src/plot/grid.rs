use super::captions::{Captions, captioned};
use super::matrix::{Look, Matrix, mapped};
use super::{Drawing, Figure, Number, PlotError};

/// Small heat maps in a grid, with one colour bar for all: layers × heads, or the variants.
///
/// Panels fill the grid row by row. Tokens stand at the outer edges only.
///
/// ```
/// use lab::plot::AttentionGrid;
/// let pattern = [[1.0, 0.0], [0.25, 0.75]];
/// let figure = AttentionGrid::new("Patterns of layer 0")
///     .columns(2)
///     .panel("head 0", pattern)
///     .panel("head 1", pattern)
///     .x("key", "position")
///     .y("query", "position")
///     .value("attention weight", "")
///     .causal();
/// assert!(figure.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct AttentionGrid {
    captions: Captions,
    look: Look,
    panels: Vec<(String, Matrix)>,
    columns: usize,
    size: f64,
}

captioned!(AttentionGrid: x y);
mapped!(AttentionGrid);

impl AttentionGrid {
    /// A grid without panels.
    pub fn new(title: impl Into<String>) -> Self {
        let captions = Captions::new(title);
        Self { captions, look: Look::default(), panels: Vec::new(), columns: 4, size: 140.0 }
    }

    /// A grid of what another figure holds.
    pub(super) fn of(captions: Captions, look: Look, panels: Vec<(String, Matrix)>, columns: usize, size: u32) -> Self {
        Self { captions, look, panels, columns, size: f64::from(size) }
    }

    /// Adds a panel after the last one.
    pub fn panel<R>(mut self, title: impl Into<String>, rows: impl IntoIterator<Item = R>) -> Self
    where
        R: IntoIterator,
        R::Item: Number,
    {
        self.panels.push((title.into(), Matrix::new(rows)));
        self
    }

    /// Panels in a row (4 unless set).
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = columns;
        self
    }

    /// Side of one panel in pixels.
    pub fn size(mut self, pixels: u32) -> Self {
        self.size = f64::from(pixels.max(30));
        self
    }
}

impl Figure for AttentionGrid {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let title = &self.captions.title;
        if self.panels.is_empty() {
            return Err(PlotError::empty(title, "the list of panels"));
        }
        if self.columns == 0 {
            return Err(PlotError::data(title, "the count of columns is 0", "at least 1"));
        }
        for (name, matrix) in &self.panels {
            let of = format!("panel {name:?}");
            self.look.check(title, &format!(" of {of}"), matrix.shape(title, &of)?)?;
        }
        let panels: Vec<(String, &Matrix)> = self.panels.iter().map(|(name, matrix)| (name.clone(), matrix)).collect();
        self.look.draw(&self.captions, &panels, self.columns, (self.size, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(n: usize) -> AttentionGrid {
        (0..n).fold(AttentionGrid::new("g"), |g, i| g.panel(format!("head {i}"), [[1.0, 0.0], [0.5, 0.1 * i as f64]]))
    }

    #[test]
    fn every_panel_has_its_title() {
        let svg = grid(7).columns(3).svg().unwrap();
        assert!((0..7).all(|i| svg.contains(&format!(">head {i}</text>"))));
    }

    #[test]
    fn tokens_that_do_not_fit_one_panel_name_it() {
        let error = grid(2).panel("odd", [[1.0]]).tokens(["a", "b"]).svg().unwrap_err().to_string();
        assert!(error.contains("odd") && error.contains("length 2, expected 1"), "{error}");
    }

    #[test]
    fn one_negative_panel_makes_all_of_them_diverge_around_zero() {
        let svg = grid(2).panel("differential", [[-0.5, 0.0]]).svg().unwrap();
        assert!(svg.contains("#F7F7F7") && svg.contains(">−1</text>"), "{svg}");
    }

    #[test]
    fn no_panels_or_no_columns_is_an_error() {
        assert!(AttentionGrid::new("").svg().is_err());
        assert!(grid(2).columns(0).svg().is_err());
    }
}
