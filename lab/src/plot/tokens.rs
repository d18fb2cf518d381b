//! Labels along the axes of a matrix: tokens, or positions.

use super::canvas::{Anchor, Drawing, INK, Set, Stroke};
use super::frame::SMALL;
use super::{PlotError, text};

/// Labels of one axis of a matrix: one for each cell shown, at the cell's centre.
pub(super) struct Labels {
    /// `(position in pixels, label)`
    shown: Vec<(f64, String)>,
    /// Every how many cells a label stands.
    pub stride: usize,
    pitch: f64,
    tokens: bool,
}

impl Labels {
    /// Tokens, or positions where there are none, along `count` cells of `cell` pixels.
    pub fn new(tokens: Option<&[String]>, count: usize, cell: f64) -> Self {
        let at = |i: usize| (i as f64 + 0.5) * cell;
        if let Some(tokens) = tokens {
            let stride = (13.0 / cell).ceil().max(1.0) as usize;
            let label = |t: &String| text::shorten(&text::visible(t), 16);
            let shown = tokens.iter().enumerate().step_by(stride);
            return Self {
                shown: shown.map(|(i, t)| (at(i), label(t))).collect(),
                stride,
                pitch: stride as f64 * cell,
                tokens: true,
            };
        }
        let widest = text::width(&count.to_string(), SMALL) + 10.0;
        let least = (widest / cell).ceil().max((count as f64 / 8.0).ceil()) as usize;
        let stride = (0..).flat_map(|e| [1, 2, 5].map(|m| m * 10usize.pow(e))).find(|s| *s >= least).unwrap_or(1);
        Self {
            shown: (0..count).step_by(stride).map(|i| (at(i), i.to_string())).collect(),
            stride: 1,
            pitch: stride as f64 * cell,
            tokens: false,
        }
    }

    fn widest(&self) -> f64 {
        self.shown.iter().map(|(_, l)| text::width(l, SMALL)).fold(0.0, f64::max)
    }

    /// Degrees by which the labels of the horizontal axis are turned.
    fn turn(&self) -> f64 {
        if self.widest() + 1.0 <= self.pitch {
            0.0
        } else if self.pitch < 19.0 {
            90.0
        } else {
            45.0
        }
    }

    /// Pixels needed below the matrix.
    pub fn depth(&self) -> f64 {
        match self.turn() {
            0.0 => 22.0,
            turn => self.widest() * turn.to_radians().sin() + if turn < 90.0 { 20.0 } else { 14.0 },
        }
    }

    /// Pixels by which turned labels reach out beyond the left edge.
    pub fn reach(&self) -> f64 {
        match self.turn() {
            45.0 => self.shown.iter().map(|(at, l)| text::width(l, SMALL) * 0.707 - at).fold(0.0, f64::max),
            _ => 0.0,
        }
    }

    /// Pixels needed at the left of the matrix.
    pub fn breadth(&self) -> f64 {
        self.widest() + 8.0
    }

    pub fn draw_below(&self, d: &mut Drawing, x: f64, y: f64) {
        let turn = self.turn();
        for (at, label) in &self.shown {
            if !self.tokens {
                d.line((x + at, y), (x + at, y + 4.0), Stroke(INK, 1.0, ""));
            }
            let set = Set::new(SMALL, if turn == 0.0 { Anchor::Middle } else { Anchor::End });
            let drop = if turn == 0.0 {
                13.0
            } else if turn < 90.0 {
                9.0
            } else {
                6.0
            };
            let shift = if turn == 45.0 { 3.0 } else { 0.0 };
            d.text((x + at + shift, y + drop), label, set.rotate(-turn));
        }
    }

    pub fn draw_left(&self, d: &mut Drawing, x: f64, y: f64) {
        for (at, label) in &self.shown {
            if !self.tokens {
                d.line((x - 4.0, y + at), (x, y + at), Stroke(INK, 1.0, ""));
            }
            d.text((x - 6.0, y + at), label, Set::new(SMALL, Anchor::End));
        }
    }
}

/// Bytes as token labels: ASCII as it is, other bytes in hexadecimal.
pub fn byte_tokens(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|b| if b.is_ascii() { (*b as char).to_string() } else { format!("{b:02X}") }).collect()
}

/// Counts of labels and cells agree, or an error that names both.
pub(super) fn check_tokens(figure: &str, axis: &str, tokens: Option<&[String]>, cells: usize) -> Result<(), PlotError> {
    match tokens {
        Some(tokens) if tokens.len() != cells => {
            let because = format!("the matrix has {cells} {axis}");
            Err(PlotError::length(figure, format!("the list of tokens for {axis}"), tokens.len(), cells, because))
        }
        _ => Ok(()),
    }
}
