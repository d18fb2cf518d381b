//! What heat maps share: the matrix, its colours and its cells.

use super::canvas::Drawing;
use super::palette::{ColourMap, MISSING, hex};
use super::{Number, PlotError, checked_range, numbers, png};
use std::collections::BTreeMap;

/// Above this many cells a matrix is embedded as a picture.
const VECTOR_CELLS: usize = 128 * 128;
/// Steps of a colour map: even, so that zero has one of its own, and few enough for a PNG palette
/// with two more colours.
const LEVELS: f64 = 252.0;
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
            let because = "as row 0 has";
            return Err(PlotError::length(figure, format!("row {i} of {what}"), self.0[i].len(), columns, because));
        }
        Ok((self.0.len(), columns))
    }

    /// The cells that are shown, row by row: all, or those a causal model can see.
    pub fn cells(&self, causal: bool) -> impl Iterator<Item = (usize, usize, f64)> {
        let ahead = self.0.first().map_or(0, Vec::len).saturating_sub(self.0.len());
        self.0.iter().enumerate().flat_map(move |(i, row)| {
            let seen = if causal { (i + ahead + 1).min(row.len()) } else { row.len() };
            row[..seen].iter().enumerate().map(move |(j, v)| (i, j, *v))
        })
    }

    /// Means over blocks, so that no axis has more than [`MOST`] cells; and the block's side.
    fn pooled(&self) -> (Self, usize) {
        let side = self.0.len().max(self.0[0].len()).div_ceil(MOST);
        let pool = |band: &[Vec<f64>]| -> Vec<f64> {
            (0..band[0].len())
                .step_by(side)
                .map(|j| {
                    let block = band.iter().flat_map(|row| &row[j..(j + side).min(row.len())]);
                    let (sum, n) = block.filter(|v| v.is_finite()).fold((0.0, 0u32), |(s, n), v| (s + v, n + 1));
                    if n == 0 { f64::NAN } else { sum / f64::from(n) }
                })
                .collect()
        };
        (Self(self.0.chunks(side).map(pool).collect()), side)
    }
}

/// The colours of a figure: which map, over which values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tint {
    pub map: ColourMap,
    pub lo: f64,
    pub hi: f64,
}

impl Tint {
    /// Sequential from zero for values that are never negative (from the least value if that is
    /// more than half of the greatest), diverging and centred at zero otherwise.
    pub fn fit(
        figure: &str,
        values: impl Iterator<Item = f64>,
        fixed: Option<(f64, f64)>,
        diverging: bool,
    ) -> Result<Self, PlotError> {
        let fixed = checked_range(figure, "colour range", fixed, false)?;
        let finite = values.filter(|v| v.is_finite());
        let (lo, hi) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        if lo > hi {
            return Err(PlotError::empty(figure, "the matrix (without what is not finite)"));
        }
        let (lo, hi) = fixed.unwrap_or((lo, hi));
        let most = lo.abs().max(hi.abs());
        let (map, lo, hi) = if diverging || lo < -1e-9 * most {
            (ColourMap::Diverging, -most, most)
        } else if fixed.is_some() || (lo > 0.5 * hi && lo < hi * (1.0 - 1e-9)) {
            (ColourMap::Sequential, lo, hi)
        } else {
            (ColourMap::Sequential, 0.0, hi.max(0.0))
        };
        let hi = if hi > lo { hi } else { lo + 1.0 };
        Ok(Self { map, lo: if most == 0.0 && lo != 0.0 { -1.0 } else { lo }, hi })
    }

    /// The step of the colour map, `0..=LEVELS`, that shows a finite `value`.
    fn level(&self, value: f64) -> f64 {
        (((value - self.lo) / (self.hi - self.lo)).clamp(0.0, 1.0) * LEVELS).round()
    }

    pub fn at(&self, value: f64) -> [u8; 3] {
        match value.is_finite() {
            true => self.map.at(self.level(value) / LEVELS),
            false => MISSING,
        }
    }
}

/// Draws the cells into the box. Returns the side of the averaged blocks (1: none).
pub(super) fn paint(
    d: &mut Drawing,
    [x, y, w, h]: [f64; 4],
    matrix: &Matrix,
    tint: &Tint,
    causal: bool,
    panels: usize,
) -> usize {
    let (matrix, side) = matrix.pooled();
    let (rows, columns) = (matrix.0.len(), matrix.0[0].len());
    let (cw, ch) = (w / columns as f64, h / rows as f64);
    if rows * columns * panels <= VECTOR_CELLS {
        let mut by_colour: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (i, j, value) in matrix.cells(causal) {
            let corner = (x + j as f64 * cw, y + i as f64 * ch);
            by_colour.entry(hex(tint.at(value))).or_default().push(corner);
        }
        for (colour, corners) in &by_colour {
            d.cells(corners, (cw, ch), colour);
        }
    } else {
        // The levels, one colour for what is not finite, one for what is blank.
        let mut palette: Vec<[u8; 4]> =
            (0..=LEVELS as u8).map(|k| tint.map.at(f64::from(k) / LEVELS)).map(|[r, g, b]| [r, g, b, 255]).collect();
        palette.push([MISSING[0], MISSING[1], MISSING[2], 255]);
        palette.push([255, 255, 255, 255]);
        let mut pixels = vec![254u8; rows * columns];
        for (i, j, value) in matrix.cells(causal) {
            pixels[i * columns + j] = if value.is_finite() { tint.level(value) as u8 } else { 253 };
        }
        let png = png::indexed(columns, rows, &palette, &pixels);
        d.image([x, y, w, h], &png, cw.min(ch) >= 1.0);
    }
    d.outline([x, y, w, h], "#888888");
    side
}

/// Notes that follow from the data: values beyond a given range, averaged blocks, thinned labels.
pub(super) fn notes(beyond: usize, tint: &Tint, side: usize, stride: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if beyond > 0 {
        let (lo, hi) = (super::scale::number(tint.lo), super::scale::number(tint.hi));
        notes.push(format!("{} outside {lo} to {hi} and drawn in the end colour", super::counted(beyond, "value")));
    }
    if side > 1 {
        notes.push(format!("each point is the mean of {side} × {side} values"));
    }
    if stride > 1 {
        let end = match stride {
            2 => "nd",
            3 => "rd",
            _ => "th",
        };
        notes.push(format!("every {stride}{end} token is labelled"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_negative_are_shown_from_zero() {
        let tint = |cells: &[f64]| {
            let t = Tint::fit("", cells.iter().copied(), None, false).unwrap();
            (t.map, t.lo, t.hi)
        };
        assert_eq!(tint(&[0.1, 0.8]), (ColourMap::Sequential, 0.0, 0.8));
        assert_eq!(tint(&[0.9, 0.95]), (ColourMap::Sequential, 0.9, 0.95));
        assert_eq!(tint(&[0.3]), (ColourMap::Sequential, 0.0, 0.3));
        assert_eq!(tint(&[0.0, 0.0]), (ColourMap::Sequential, 0.0, 1.0));
        assert_eq!(tint(&[-2.0]), (ColourMap::Diverging, -2.0, 2.0));
    }

    #[test]
    fn a_causal_matrix_with_few_rows_shows_the_last_queries() {
        let matrix = Matrix::new([[1, 2, 3, 4], [5, 6, 7, 8]]);
        let seen: Vec<f64> = matrix.cells(true).map(|c| c.2).collect();
        assert_eq!(seen, [1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0]);
    }
}
