use super::canvas::{Anchor, Set};
use super::colour_bar::ColourBar;
use super::frame::{LABEL, TITLE, draw_notes, headline, wrapped_notes};
use super::matrix::{Matrix, Tint, notes, paint};
use super::tokens::{Labels, check_tokens};
use super::{Drawing, Figure, Number, PlotError, text};

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
    title: String,
    panels: Vec<(String, Matrix)>,
    columns: usize,
    x_label: String,
    y_label: String,
    value_label: String,
    tokens: Option<Vec<String>>,
    causal: bool,
    range: Option<(f64, f64)>,
    size: f64,
    notes: Vec<String>,
}

impl AttentionGrid {
    /// A grid without panels.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            panels: Vec::new(),
            columns: 4,
            x_label: String::new(),
            y_label: String::new(),
            value_label: String::new(),
            tokens: None,
            causal: false,
            range: None,
            size: 140.0,
            notes: Vec::new(),
        }
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

    /// Label and unit of the columns of every panel (unit `""`: none).
    pub fn x(mut self, label: &str, unit: &str) -> Self {
        self.x_label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the rows of every panel (unit `""`: none).
    pub fn y(mut self, label: &str, unit: &str) -> Self {
        self.y_label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the colour bar (unit `""`: none).
    pub fn value(mut self, label: &str, unit: &str) -> Self {
        self.value_label = text::with_unit(label, unit);
        self
    }

    /// The tokens of the rows and columns of every panel.
    pub fn tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tokens = Some(tokens.into_iter().map(Into::into).collect());
        self
    }

    /// Leaves blank what a causal model cannot see.
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Colours from `lo` to `hi` instead of from the data of all panels.
    pub fn range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// Side of one panel in pixels.
    pub fn size(mut self, pixels: u32) -> Self {
        self.size = f64::from(pixels.max(30));
        self
    }

    /// Adds a line of small print.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn check(&self) -> Result<(), PlotError> {
        if self.panels.is_empty() {
            return Err(PlotError::empty(&self.title, "the list of panels"));
        }
        if self.columns == 0 {
            return Err(PlotError::value(&self.title, "the count of columns", 0, "at least 1"));
        }
        for (name, matrix) in &self.panels {
            let (rows, columns) = matrix.shape(&self.title, &format!("panel {name:?}"))?;
            check_tokens(&self.title, &format!("columns of panel {name:?}"), self.tokens.as_deref(), columns)?;
            check_tokens(&self.title, &format!("rows of panel {name:?}"), self.tokens.as_deref(), rows)?;
        }
        Ok(())
    }
}

const GAP: f64 = 16.0;

impl Figure for AttentionGrid {
    fn draw(&self) -> Result<Drawing, PlotError> {
        self.check()?;
        let values = || self.panels.iter().flat_map(|(_, m)| m.cells(self.causal).map(|c| c.2));
        let tint = Tint::fit(&self.title, values(), self.range, false)?;
        let missing = values().any(|v| !v.is_finite());
        let beyond = values().filter(|v| v.is_finite() && (*v < tint.lo || *v > tint.hi)).count();

        let s = self.size;
        let columns = self.columns.min(self.panels.len());
        let rows = self.panels.len().div_ceil(columns);
        let titles: Vec<Vec<String>> = self.panels.iter().map(|(t, _)| text::wrap(&text::plain(t), LABEL, s)).collect();
        let heads: Vec<f64> =
            titles.chunks(columns).map(|row| row.iter().map(Vec::len).max().unwrap_or(0) as f64 * 15.0 + 5.0).collect();

        let tokens = self.tokens.as_deref();
        let labels = |n: usize| Labels::new(tokens, n, s / n as f64);
        let shapes: Vec<(usize, usize)> = self.panels.iter().map(|(_, m)| (m.0.len(), m.0[0].len())).collect();
        let breadth = shapes.iter().step_by(columns).map(|s| labels(s.0).breadth()).fold(0.0, f64::max);
        let depth = shapes.iter().map(|s| labels(s.1).depth()).fold(0.0, f64::max);
        let reach = shapes.iter().map(|s| labels(s.1).reach()).fold(0.0, f64::max);
        let stride = shapes.iter().map(|s| labels(s.0.max(s.1)).stride).max().unwrap_or(1);

        let (w, h) = (
            columns as f64 * s + (columns - 1) as f64 * GAP,
            rows as f64 * s + heads.iter().sum::<f64>() + (rows - 1) as f64 * 8.0,
        );
        let y_label = text::wrap(&self.y_label, LABEL, h.max(160.0));
        let x_label = text::wrap(&self.x_label, LABEL, w.max(160.0));
        let left = (12.0 + y_label.len() as f64 * 16.0 + breadth).max(reach + 10.0);
        let bar = ColourBar::new(tint, &self.value_label, (h - heads[0]).clamp(110.0, 320.0), missing);
        let width = left + w + 20.0 + bar.width() + 12.0;
        let title = text::wrap(&self.title, TITLE * 1.13, width - 24.0);
        let top = 12.0 + title.len() as f64 * 19.0;

        let side = shapes.iter().map(|s| s.0.max(s.1).div_ceil(512)).max().unwrap_or(1);
        let mut small = self.notes.clone();
        small.extend(notes(beyond, &tint, side, stride));
        let small = wrapped_notes(&small, width - 24.0);
        let below = top + h + depth;
        let content = (below + x_label.len() as f64 * 16.0).max(top + heads[0] + bar.total_height() + 8.0);
        let mut d = Drawing::new(width, content + small.len() as f64 * 15.0 + 10.0);

        headline(&mut d, &title, left + w / 2.0);
        let mut y = top;
        for (row, head) in heads.iter().enumerate() {
            y += head;
            for column in 0..columns {
                let Some((_, matrix)) = self.panels.get(row * columns + column) else {
                    continue;
                };
                let (lines, shape) = (&titles[row * columns + column], shapes[row * columns + column]);
                let x = left + column as f64 * (s + GAP);
                for (i, line) in lines.iter().rev().enumerate() {
                    let at = (x + s / 2.0, y - 11.0 - i as f64 * 15.0);
                    d.text(at, line, Set::new(LABEL, Anchor::Middle));
                }
                paint(&mut d, [x, y, s, s], matrix, &tint, self.causal, self.panels.len());
                if column == 0 {
                    labels(shape.0).draw_left(&mut d, x, y);
                }
                // The last panel of its column, also where the last row is not full.
                if (row + 1) * columns + column >= self.panels.len() && row + 1 >= rows.saturating_sub(1) {
                    let last_row = row + 1 == rows;
                    if last_row || !self.panels.len().is_multiple_of(columns) {
                        labels(shape.1).draw_below(&mut d, x, y + s);
                    }
                }
            }
            y += s + 8.0;
        }
        for (i, line) in y_label.iter().enumerate() {
            let at = (16.0 + i as f64 * 16.0, top + h / 2.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle).rotate(-90.0));
        }
        for (i, line) in x_label.iter().enumerate() {
            let at = (left + w / 2.0, below + 8.0 + i as f64 * 16.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle));
        }
        bar.draw(&mut d, left + w + 20.0, top + heads[0]);
        draw_notes(&mut d, &small);
        Ok(d)
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
        assert!(svg.contains("#f7f7f7") && svg.contains(">−1</text>"), "{svg}");
    }

    #[test]
    fn no_panels_or_no_columns_is_an_error() {
        assert!(AttentionGrid::new("").svg().is_err());
        assert!(grid(2).columns(0).svg().is_err());
    }
}
