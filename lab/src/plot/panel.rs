use super::backend::{FINE, Svg};
use super::ink::units;
use super::page::{headline, title_lines};
use super::{Drawing, Figure, PlotError};

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
#[derive(Debug)]
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
            return Err(PlotError::data(&self.title, "the count of columns is 0", "at least 1"));
        }
        let drawn: Vec<Drawing> = self.figures.iter().map(|f| f.draw()).collect::<Result<_, _>>()?;
        let columns = self.columns.min(drawn.len());
        let widest = |c: usize| drawn.iter().skip(c).step_by(columns).map(|d| d.width).max().unwrap_or(0);
        let widths: Vec<u32> = (0..columns).map(widest).collect();
        let heights: Vec<u32> =
            drawn.chunks(columns).map(|row| row.iter().map(|d| d.height).max().unwrap_or(0)).collect();
        let width: u32 = widths.iter().sum();
        let (title, top) = title_lines(&self.title, f64::from(width));
        let top = if title.is_empty() { 0.0 } else { top + 10.0 };
        let svg = Svg::new(width, top as u32 + heights.iter().sum::<u32>(), FINE);
        headline(&svg.area(), &title, f64::from(width) / 2.0)?;
        // Where one column or row ends and the next begins.
        let ends = |sizes: &[u32]| -> Vec<i32> {
            let sums = sizes.iter().scan(0, |sum, size| {
                *sum += size;
                Some(units(f64::from(*sum)))
            });
            sums.take(sizes.len() - 1).collect()
        };
        let (_, body) = svg.area().split_vertically(units(top));
        let cells = body.split_by_breakpoints(ends(&widths), ends(&heights));
        for (cell, figure) in cells.iter().zip(&drawn) {
            svg.place(cell.get_base_pixel(), figure);
        }
        Ok(svg.finish())
    }
}
