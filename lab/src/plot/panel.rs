use super::frame::{TITLE, headline};
use super::{Drawing, Figure, PlotError, text};

/// Several figures in one, row by row.
///
/// ```
/// use lab::plot::{Bars, Lines, Panel};
/// let both = Panel::new("Speed")
///     .columns(2)
///     .figure(Lines::new("Loss").line("gated", [1, 2], [3.0, 2.0]))
///     .figure(Bars::new("Accuracy").bar("gated", 0.9));
/// assert!(both.svg().is_ok());
/// ```
pub struct Panel {
    title: String,
    columns: usize,
    figures: Vec<Box<dyn Figure>>,
}

impl Panel {
    /// An empty panel; the title may be empty.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), columns: 2, figures: Vec::new() }
    }

    /// Figures in a row (2 unless set).
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = columns;
        self
    }

    /// Adds a figure.
    pub fn figure(mut self, figure: impl Figure + 'static) -> Self {
        self.figures.push(Box::new(figure));
        self
    }
}

impl Figure for Panel {
    fn draw(&self) -> Result<Drawing, PlotError> {
        if self.figures.is_empty() {
            return Err(PlotError::empty(&self.title, "the list of figures"));
        }
        if self.columns == 0 {
            return Err(PlotError::value(&self.title, "the count of columns", 0, "at least 1"));
        }
        let drawn: Vec<Drawing> = self.figures.iter().map(|f| f.draw()).collect::<Result<_, _>>()?;
        let columns = self.columns.min(drawn.len());
        let widths: Vec<f64> =
            (0..columns).map(|c| drawn.iter().skip(c).step_by(columns).map(|d| d.width).fold(0.0, f64::max)).collect();
        let heights: Vec<f64> =
            drawn.chunks(columns).map(|row| row.iter().map(|d| d.height).fold(0.0, f64::max)).collect();
        let width = widths.iter().sum::<f64>();
        let title = text::wrap(&self.title, TITLE * 1.13, width - 24.0);
        let top = if title.is_empty() { 0.0 } else { title.len() as f64 * 19.0 + 10.0 };
        let mut d = Drawing::new(width, top + heights.iter().sum::<f64>());
        headline(&mut d, &title, width / 2.0);
        for (i, part) in drawn.iter().enumerate() {
            let x = widths[..i % columns].iter().sum();
            let y = top + heights[..i / columns].iter().sum::<f64>();
            d.place((x, y), part);
        }
        Ok(d)
    }
}
