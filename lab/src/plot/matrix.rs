//! What heat maps share: the matrix, its axes, and its cells in colours.

use super::axis::{Axis, Scale};
use super::backend::Drawing;
use super::captions::Captions;
use super::colour_bar::ColourBar;
use super::ink::{SMALL, font};
use super::number::{counted, number, numbers};
use super::page::{Chart, Page, Plot};
use super::palette::MISSING;
use super::tint::Tint;
use super::{Number, PlotError, text};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use std::collections::BTreeMap;

/// Above this many cells a matrix is embedded as a picture.
const VECTOR_CELLS: usize = 128 * 128;
/// Above this many cells along an axis, blocks of cells are averaged.
const MOST: usize = 512;

/// Values as given: rows of numbers, not yet known to be of equal length.
#[derive(Clone, Debug)]
pub(super) struct Matrix(pub Vec<Vec<f64>>);

impl Matrix {
    pub fn new<R>(rows: impl IntoIterator<Item = R>) -> Self
    where
        R: IntoIterator,
        R::Item: Number,
    {
        Self(rows.into_iter().map(numbers).collect())
    }

    /// `(rows, columns)`, if it is a matrix.
    pub fn shape(&self, figure: &str, what: &str) -> Result<(usize, usize), PlotError> {
        let columns = self.0.first().map_or(0, Vec::len);
        if columns == 0 {
            return Err(PlotError::empty(figure, what));
        }
        if let Some(i) = self.0.iter().position(|row| row.len() != columns) {
            let what = format!("row {i} of {what} has length {}", self.0[i].len());
            return Err(PlotError::data(figure, what, format!("{columns} as row 0 has")));
        }
        Ok((self.0.len(), columns))
    }

    /// What is shown of every row: all, or its beginning, which a causal model can see.
    fn seen(&self, causal: bool) -> impl Iterator<Item = &[f64]> {
        let ahead = self.0.first().map_or(0, Vec::len).saturating_sub(self.0.len());
        let end = move |i: usize, row: &[f64]| if causal { (i + ahead + 1).min(row.len()) } else { row.len() };
        self.0.iter().enumerate().map(move |(i, row)| &row[..end(i, row)])
    }

    /// The cells that are shown, row by row.
    pub fn cells(&self, causal: bool) -> impl Iterator<Item = (usize, usize, f64)> {
        let rows = self.seen(causal).enumerate();
        rows.flat_map(|(i, row)| row.iter().enumerate().map(move |(j, v)| (i, j, *v)))
    }

    /// Means over blocks of `side × side` cells, of those that are shown: a row ends where no more are.
    fn pooled(&self, side: usize, causal: bool) -> Self {
        let mean = |band: &[&[f64]], j: usize| {
            let (mut sum, mut n) = (0.0, 0u32);
            for v in band.iter().flat_map(|row| row.iter().skip(j).take(side)).filter(|v| v.is_finite()) {
                sum += v;
                n += 1;
            }
            if n == 0 { f64::NAN } else { sum / f64::from(n) }
        };
        // No row of a band is longer than the last.
        let pool = |band: &[&[f64]]| {
            let columns = band.last().map_or(0, |row| row.len());
            (0..columns).step_by(side).map(|j| mean(band, j)).collect()
        };
        let rows: Vec<&[f64]> = self.seen(causal).collect();
        Self(rows.chunks(side).map(pool).collect())
    }
}

/// How matrices are shown; the same for all panels of a figure.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub value: String,
    pub x_tokens: Option<Vec<String>>,
    pub y_tokens: Option<Vec<String>>,
    pub causal: bool,
    pub annotate: bool,
    pub range: Option<(f64, f64)>,
}

/// The setters that figures of matrices share, for a builder with a field `look`.
macro_rules! mapped {
    ($figure:ty) => {
        impl $figure {
            /// Label and unit of the colour bar (unit `""`: none).
            pub fn value(mut self, label: &str, unit: &str) -> Self {
                self.look.value = crate::plot::text::with_unit(label, unit);
                self
            }

            /// Labels for rows and columns alike: the tokens of a square pattern.
            pub fn tokens(self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
                let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
                self.x_tokens(tokens.clone()).y_tokens(tokens)
            }

            /// One label for each column.
            pub fn x_tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
                self.look.x_tokens = Some(tokens.into_iter().map(Into::into).collect());
                self
            }

            /// One label for each row.
            pub fn y_tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
                self.look.y_tokens = Some(tokens.into_iter().map(Into::into).collect());
                self
            }

            /// Leaves blank what a causal model cannot see: the keys after the query. With fewer
            /// rows than columns, the rows are the last queries.
            pub fn causal(mut self) -> Self {
                self.look.causal = true;
                self
            }

            /// Colours from `lo` to `hi` instead of from the data (made symmetric if `lo` is
            /// negative).
            pub fn range(mut self, lo: f64, hi: f64) -> Self {
                self.look.range = Some((lo, hi));
                self
            }
        }
    };
}
pub(super) use mapped;

impl Look {
    /// Counts of labels and cells agree, or an error that names both.
    pub fn check(&self, figure: &str, of: &str, (rows, columns): (usize, usize)) -> Result<(), PlotError> {
        for (what, tokens, cells) in [("columns", &self.x_tokens, columns), ("rows", &self.y_tokens, rows)] {
            if let Some(tokens) = tokens.as_ref().filter(|tokens| tokens.len() != cells) {
                let expected = format!("{cells} (the matrix has {cells} {what})");
                let what = format!("the list of tokens for {what}{of} has length {}", tokens.len());
                return Err(PlotError::data(figure, what, expected));
            }
        }
        Ok(())
    }

    /// One or more matrices of known shape, each with its title, in boxes of `w × h` pixels.
    pub fn draw(
        &self,
        captions: &Captions,
        panels: &[(String, &Matrix)],
        columns: usize,
        (w, h): (f64, f64),
    ) -> Result<Drawing, PlotError> {
        let values = || panels.iter().flat_map(|(_, matrix)| matrix.cells(self.causal).map(|cell| cell.2));
        let tint = Tint::fit(&captions.title, values(), self.range)?;
        let shapes = panels.iter().map(|(_, matrix)| (matrix.0.len(), matrix.0[0].len()));
        let side = shapes.clone().map(|(rows, columns)| rows.max(columns).div_ceil(MOST)).max().unwrap_or(1);
        let cells: usize = shapes.clone().map(|(rows, columns)| rows * columns).sum();

        let (mut notes, mut stride) = (Vec::new(), 1);
        let beyond = values().filter(|v| v.is_finite() && (*v < tint.lo || *v > tint.hi)).count();
        if beyond > 0 {
            let (lo, hi) = (number(tint.lo), number(tint.hi));
            notes.push(format!("{} outside {lo} to {hi} and drawn in the end colour", counted(beyond, "value")));
        }
        if side > 1 {
            notes.push(format!("each point is the mean of {side} × {side} values"));
        }
        let mut charts = Vec::new();
        for ((title, matrix), (rows, columns)) in panels.iter().zip(shapes) {
            let (x, every) = labels(self.x_tokens.as_deref(), columns, w, false);
            stride = stride.max(every);
            let (y, every) = labels(self.y_tokens.as_deref(), rows, h, true);
            stride = stride.max(every);
            let (tint, shown) = (&tint, matrix.pooled(side, self.causal));
            charts.push(Chart {
                title: title.clone(),
                x,
                y,
                paint: Box::new(move |plot| match cells / (side * side) <= VECTOR_CELLS {
                    true => self.paint(plot, &shown, side, tint),
                    false => paint_image(plot, &shown, tint),
                }),
            });
        }
        if stride > 1 {
            let end = ["nd", "rd"].get(stride - 2).unwrap_or(&"th");
            notes.push(format!("every {stride}{end} token is labelled"));
        }
        let missing = values().any(|v| !v.is_finite());
        let bar = ColourBar::new(&tint, &self.value, h.max(110.0), missing);
        Page { notes, columns, charts, mesh: false, colours: Some(bar), ..Page::new(captions, (w, h)) }.draw()
    }

    /// `shown`: what [`Matrix::pooled`] left of a matrix.
    fn paint(&self, plot: &mut Plot, shown: &Matrix, side: usize, tint: &Tint) -> Result<(), PlotError> {
        // By colour, so that the backend makes one element of each; neighbours in a row at once.
        let mut runs: BTreeMap<Option<usize>, Vec<[(usize, usize); 2]>> = BTreeMap::new();
        for (i, j, value) in shown.cells(false) {
            let like = runs.entry(tint.level(value)).or_default();
            match like.last_mut() {
                Some([_, end]) if *end == (j, i + 1) => end.0 += 1,
                _ => like.push([(j, i), (j + 1, i + 1)]),
            }
        }
        let place = |(j, i): (usize, usize)| ((j * side) as f64, (i * side) as f64);
        for (level, runs) in runs {
            let colour = level.map_or(MISSING, |level| tint.colours[level]).filled();
            plot.chart.draw_series(runs.into_iter().map(|corners| Rectangle::new(corners.map(place), colour)))?;
        }
        if self.annotate {
            let cells = shown.cells(false).filter(|cell| cell.2.is_finite());
            plot.chart.draw_series(cells.map(|(i, j, value)| {
                let RGBColor(r, g, b) = tint.at(value);
                let bright = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) > 140.0;
                let style = font(SMALL, if bright { BLACK } else { WHITE }, HPos::Center);
                Text::new(number(value), (j as f64 + 0.5, i as f64 + 0.5), style)
            }))?;
        }
        Ok(())
    }
}

/// As [`Look::paint`], in one picture.
fn paint_image(plot: &mut Plot, shown: &Matrix, tint: &Tint) -> Result<(), PlotError> {
    let rows = shown.0.len();
    // The last row is shown to its end.
    let columns = shown.0[rows - 1].len();
    let mut rgb = vec![255; rows * columns * 3];
    for (i, j, value) in shown.cells(false) {
        let RGBColor(r, g, b) = tint.at(value);
        rgb[3 * (i * columns + j)..][..3].copy_from_slice(&[r, g, b]);
    }
    let (x, y) = plot.chart.plotting_area().get_pixel_range();
    let size = [x.start, y.start, x.end - x.start, y.end - y.start];
    plot.svg.image(size, (columns as u32, rows as u32), &rgb)
}

/// The axis of `count` cells along `length` pixels, labelled with tokens, or with positions where
/// there are none; and every how many cells a token stands. Rows run downwards.
fn labels(tokens: Option<&[String]>, count: usize, length: f64, rows: bool) -> (Axis, usize) {
    let n = count as f64;
    let stride = match tokens {
        Some(_) => (13.0 * n / length).ceil().max(1.0) as usize,
        None => 1,
    };
    let ticks = match tokens {
        Some(tokens) => {
            let label = |token: &String| text::shorten(&text::visible(token), 16);
            tokens.iter().enumerate().step_by(stride).map(|(i, t)| (i as f64 + 0.5, label(t))).collect()
        }
        None => {
            let range = (0.0, (n - 1.0).max(0.5));
            let axis = match rows {
                true => Axis::side(Scale::Linear, range, length, true),
                false => Axis::bottom(Scale::Linear, range, length, true),
            };
            axis.ticks.into_iter().map(|(i, label)| (i + 0.5, label)).collect()
        }
    };
    (Axis::labelled(if rows { (n, 0.0) } else { (0.0, n) }, ticks, tokens.is_some()), stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_causal_matrix_with_few_rows_shows_the_last_queries() {
        let matrix = Matrix::new([[1, 2, 3, 4], [5, 6, 7, 8]]);
        let seen: Vec<f64> = matrix.cells(true).map(|c| c.2).collect();
        assert_eq!(seen, [1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn a_block_on_the_diagonal_is_the_mean_of_what_is_seen() {
        let square = Matrix::new([[1, 9, 9], [3, 5, 9], [4, 6, 8]]);
        assert_eq!(square.pooled(2, true).0, [vec![3.0], vec![5.0, 8.0]]);
        assert_eq!(square.pooled(2, false).0, [[4.5, 9.0], [5.0, 8.0]]);
        let last_queries = Matrix::new([[1, 3, 9, 9], [5, 7, 2, 9], [1, 1, 4, 6]]);
        assert_eq!(last_queries.pooled(2, true).0, [[4.0, 2.0], [1.0, 5.0]]);
    }
}
