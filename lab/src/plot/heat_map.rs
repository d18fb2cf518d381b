use super::canvas::{Anchor, Set};
use super::colour_bar::ColourBar;
use super::frame::{LABEL, SMALL, TITLE, draw_notes, headline, wrapped_notes};
use super::matrix::{Matrix, Tint, notes, paint};
use super::tokens::{Labels, check_tokens};
use super::{Drawing, Figure, Number, PlotError, scale, text};

/// One matrix in colours: an attention pattern, a value per layer and head.
///
/// Rows run downwards, columns to the right. Values that are never negative get a sequential map
/// from zero (or from the least value where that is more than half of the greatest); with negative
/// values the map diverges and is centred at zero. What is not finite is grey.
///
/// ```
/// use lab::plot::HeatMap;
/// let figure = HeatMap::new("Layer 0, head 0", [[1.0, 0.0], [0.25, 0.75]])
///     .x("key", "token")
///     .y("query", "token")
///     .value("attention weight", "")
///     .tokens(["the", " fox"])
///     .causal();
/// assert!(figure.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    matrix: Matrix,
    x_label: String,
    y_label: String,
    value_label: String,
    x_tokens: Option<Vec<String>>,
    y_tokens: Option<Vec<String>>,
    causal: bool,
    diverging: bool,
    annotate: bool,
    range: Option<(f64, f64)>,
    size: f64,
    notes: Vec<String>,
}

impl HeatMap {
    /// A heat map of `rows`.
    pub fn new<R>(title: impl Into<String>, rows: impl IntoIterator<Item = R>) -> Self
    where
        R: IntoIterator,
        R::Item: Number,
    {
        Self {
            title: title.into(),
            matrix: Matrix::new(rows),
            x_label: String::new(),
            y_label: String::new(),
            value_label: String::new(),
            x_tokens: None,
            y_tokens: None,
            causal: false,
            diverging: false,
            annotate: false,
            range: None,
            size: 400.0,
            notes: Vec::new(),
        }
    }

    /// Label and unit of the columns (unit `""`: none).
    pub fn x(mut self, label: &str, unit: &str) -> Self {
        self.x_label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the rows (unit `""`: none).
    pub fn y(mut self, label: &str, unit: &str) -> Self {
        self.y_label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the colour bar (unit `""`: none).
    pub fn value(mut self, label: &str, unit: &str) -> Self {
        self.value_label = text::with_unit(label, unit);
        self
    }

    /// Labels for rows and columns alike: the tokens of a square pattern.
    pub fn tokens(self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        self.x_tokens(tokens.clone()).y_tokens(tokens)
    }

    /// One label for each column.
    pub fn x_tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.x_tokens = Some(tokens.into_iter().map(Into::into).collect());
        self
    }

    /// One label for each row.
    pub fn y_tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.y_tokens = Some(tokens.into_iter().map(Into::into).collect());
        self
    }

    /// Leaves blank what a causal model cannot see: the keys after the query. With fewer rows than
    /// columns, the rows are the last queries.
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// The diverging map, even where no value is negative.
    pub fn diverging(mut self) -> Self {
        self.diverging = true;
        self
    }

    /// Writes the numbers into the cells (small matrices).
    pub fn annotate(mut self) -> Self {
        self.annotate = true;
        self
    }

    /// Colours from `lo` to `hi` instead of from the data (made symmetric if `lo` is negative).
    pub fn range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// Length of the longer side of the matrix in pixels.
    pub fn size(mut self, pixels: u32) -> Self {
        self.size = f64::from(pixels.max(40));
        self
    }

    /// Adds a line of small print.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Width and height of one cell.
    fn cell(&self, rows: usize, columns: usize) -> (f64, f64) {
        let longer = rows.max(columns) as f64;
        let mut cell = (self.size / longer).min((160.0 / longer).max(44.0));
        let labelled = self.x_tokens.is_some() || self.y_tokens.is_some();
        if labelled && longer <= 48.0 {
            cell = cell.max(16.0);
        }
        if cell > 3.0 {
            cell = cell.floor();
        }
        let least = |n: usize| (48.0 / n as f64).max(cell);
        let wide = match self.annotate {
            true => self.widest_number() + 8.0,
            false => 0.0,
        };
        (least(columns).max(wide), least(rows).max(if self.annotate { 18.0 } else { 0.0 }))
    }

    fn widest_number(&self) -> f64 {
        let cells = self.matrix.cells(self.causal).filter(|c| c.2.is_finite());
        cells.map(|c| text::width(&scale::number(c.2), SMALL)).fold(0.0, f64::max)
    }
}

impl Figure for HeatMap {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let (rows, columns) = self.matrix.shape(&self.title, "the matrix")?;
        let (x_tokens, y_tokens) = (self.x_tokens.as_deref(), self.y_tokens.as_deref());
        check_tokens(&self.title, "columns", x_tokens, columns)?;
        check_tokens(&self.title, "rows", y_tokens, rows)?;
        if self.annotate && rows * columns > 1024 {
            let expected = "at most 1024 for numbers in the cells";
            return Err(PlotError::value(&self.title, "the count of cells", rows * columns, expected));
        }
        let values = || self.matrix.cells(self.causal).map(|c| c.2);
        let tint = Tint::fit(&self.title, values(), self.range, self.diverging)?;
        let missing = values().any(|v| !v.is_finite());
        let beyond = values().filter(|v| v.is_finite() && (*v < tint.lo || *v > tint.hi)).count();

        let (cw, ch) = self.cell(rows, columns);
        let (w, h) = (cw * columns as f64, ch * rows as f64);
        let x_labels = Labels::new(x_tokens, columns, cw);
        let y_labels = Labels::new(y_tokens, rows, ch);
        let bar = ColourBar::new(tint, &self.value_label, h.clamp(110.0, 420.0), missing);
        let y_label = text::wrap(&self.y_label, LABEL, h.max(160.0));
        let x_label = text::wrap(&self.x_label, LABEL, w.max(160.0));
        let left = (12.0 + y_label.len() as f64 * 16.0 + y_labels.breadth()).max(x_labels.reach() + 10.0);
        let left = left.max(x_label.iter().map(|l| text::width(l, LABEL) / 2.0 - w / 2.0 + 8.0).fold(0.0, f64::max));
        let width = left + w + 18.0 + bar.width() + 12.0;
        let title = text::wrap(&self.title, TITLE * 1.13, width - 24.0);
        let top = 14.0 + title.len() as f64 * 19.0;

        let side = rows.max(columns).div_ceil(512);
        let stride = x_labels.stride.max(y_labels.stride);
        let mut small = self.notes.clone();
        small.extend(notes(beyond, &tint, side, stride));
        let small = wrapped_notes(&small, width - 24.0);
        let below = top + h + x_labels.depth();
        let content = (below + x_label.len() as f64 * 16.0).max(top + bar.total_height() + 8.0);
        let mut d = Drawing::new(width, content + small.len() as f64 * 15.0 + 10.0);

        headline(&mut d, &title, left + w / 2.0);
        paint(&mut d, [left, top, w, h], &self.matrix, &tint, self.causal, 1);
        if self.annotate {
            for (i, j, value) in self.matrix.cells(self.causal).filter(|c| c.2.is_finite()) {
                let [r, g, b] = tint.at(value).map(f64::from);
                let bright = 0.299 * r + 0.587 * g + 0.114 * b > 140.0;
                let mut set = Set::new(SMALL, Anchor::Middle);
                set.fill = if bright { "#000000" } else { "#ffffff" };
                let at = (left + (j as f64 + 0.5) * cw, top + (i as f64 + 0.5) * ch);
                d.text(at, &scale::number(value), set);
            }
        }
        x_labels.draw_below(&mut d, left, top + h);
        y_labels.draw_left(&mut d, left, top);
        for (i, line) in y_label.iter().enumerate() {
            let at = (16.0 + i as f64 * 16.0, top + h / 2.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle).rotate(-90.0));
        }
        for (i, line) in x_label.iter().enumerate() {
            let at = (left + w / 2.0, below + 8.0 + i as f64 * 16.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle));
        }
        bar.draw(&mut d, left + w + 18.0, top);
        draw_notes(&mut d, &small);
        Ok(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::palette::{ColourMap, MISSING, hex};

    #[test]
    fn tokens_are_escaped_and_made_visible() {
        let svg = HeatMap::new("", [[1.0, 0.0], [0.5, 0.5]]).tokens(["</svg>", "\n"]).svg().unwrap();
        assert!(svg.contains("&lt;/svg&gt;") && svg.contains(">⏎<"));
        assert_eq!(svg.matches("</svg>").count(), 1);
    }

    #[test]
    fn a_wrong_count_of_labels_is_an_error_that_names_both() {
        let error = HeatMap::new("pattern", [[1.0, 0.0, 0.0]]).x_tokens(["a", "b"]).svg().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("length 2, expected 3") && error.contains("pattern"), "{error}");
    }

    #[test]
    fn a_ragged_or_empty_matrix_is_an_error() {
        let error = HeatMap::new("", [vec![1.0, 2.0], vec![1.0]]).svg().unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains("length 1, expected 2"), "{error}");
        assert!(HeatMap::new("", Vec::<Vec<f32>>::new()).svg().is_err());
        assert!(HeatMap::new("", [[f32::NAN]]).svg().is_err());
    }

    #[test]
    fn what_is_not_finite_is_grey_and_said_so() {
        let svg = HeatMap::new("", [[1.0, f32::NAN]]).svg().unwrap();
        // Once in the matrix, once in the key.
        assert_eq!(svg.matches(&hex(MISSING)).count(), 2);
        assert!(svg.contains("not finite"));
        assert!(!HeatMap::new("", [[1.0, 0.5]]).svg().unwrap().contains("not finite"));
    }

    #[test]
    fn a_map_of_signed_values_is_centred_at_zero() {
        let cells = [-0.1, 0.0, 0.9];
        let tint = Tint::fit("", cells.into_iter(), None, false).unwrap();
        assert_eq!((tint.map, tint.lo, tint.hi), (ColourMap::Diverging, -0.9, 0.9));
        assert_eq!(tint.at(0.0), [0xf7; 3]);
        let svg = HeatMap::new("", [cells]).svg().unwrap();
        assert!(svg.contains(&hex([0xf7; 3])));
    }

    #[test]
    fn a_large_map_stays_under_600_kb() {
        let rows = (0..512).map(|i| (0..512).map(move |j| (i * j % 97) as f32));
        let svg = HeatMap::new("", rows).svg().unwrap();
        assert!(svg.contains("data:image/png;base64,"));
        assert!(svg.len() < 600_000, "{}", svg.len());
        let huge = HeatMap::new("", (0..1500).map(|i| (0..1500).map(move |j| i + j))).svg().unwrap();
        assert!(huge.len() < 600_000 && huge.contains("mean of 3 × 3"), "{}", huge.len());
    }

    #[test]
    fn the_future_stays_blank_in_a_causal_map() {
        let rows = [[1.0, 1.0, 1.0]; 3];
        let cells = |svg: String| svg.matches('z').count(); // each cell is a closed path
        let (all, seen) = (HeatMap::new("", rows), HeatMap::new("", rows).causal());
        assert_eq!(cells(all.svg().unwrap()) - cells(seen.svg().unwrap()), 3);
    }
}
