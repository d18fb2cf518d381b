//! Weights in 8 bits, for a page.

use crate::probe::Pattern;

/// More cells than this, of all patterns together, are pooled: a page of megabytes opens slowly everywhere.
const MOST: usize = 2_100_000;

/// How the cells of all patterns of a view are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Tokens of a pattern.
    pub time: usize,
    /// Tokens that share a cell, along each axis.
    pub block: usize,
    /// Cells behind the diagonal are not stored.
    pub causal: bool,
}

impl Grid {
    /// The finest grid for so many patterns.
    pub fn new(time: usize, causal: bool, patterns: usize) -> Self {
        let grid = |block| Self { time, block, causal };
        (0..)
            .map(|power| grid(1 << power))
            .find(|grid| grid.cells() * patterns <= MOST || grid.side() == 1)
            .expect("one")
    }

    pub fn side(self) -> usize {
        self.time.div_ceil(self.block)
    }

    /// Cells that are stored of a pattern.
    pub fn cells(self) -> usize {
        let side = self.side();
        if self.causal { side * (side + 1) / 2 } else { side * side }
    }

    /// The cells of a pattern, row by row, and the weight that the greatest level stands for.
    ///
    /// Level 0 is what is not finite. A weight of `most · share²` has the level `1 + 254 · share`; in a
    /// pattern with negative weights `128 ± 127 · share`.
    pub fn levels(self, pattern: &Pattern, signed: bool) -> (Vec<u8>, f32) {
        let seen = |t: usize| if self.causal { t + 1 } else { self.time };
        let weights = (0..self.time).flat_map(|t| &pattern.row(t)[..seen(t)]);
        let most = weights.filter(|weight| weight.is_finite()).fold(0.0, |most: f32, weight| most.max(weight.abs()));
        let level = |weight: f32| {
            let share = if most > 0.0 { (weight.abs() / most).sqrt() } else { 0.0 };
            match (weight.is_finite(), signed) {
                (false, _) => 0,
                (true, false) => (1.0 + 254.0 * share).round() as u8,
                (true, true) => (128.0 + 127.0 * share.copysign(weight)).round() as u8,
            }
        };
        let mut levels = Vec::with_capacity(self.cells());
        let side = self.side();
        for i in 0..side {
            let rows = i * self.block..((i + 1) * self.block).min(self.time);
            for j in 0..if self.causal { i + 1 } else { side } {
                // The weight farthest from zero; what is not finite hides nothing.
                let mut greatest = f32::NAN;
                for t in rows.clone() {
                    let until = ((j + 1) * self.block).min(seen(t));
                    for &weight in &pattern.row(t)[(j * self.block).min(until)..until] {
                        if weight.is_finite() && (greatest.is_nan() || greatest.abs() < weight.abs()) {
                            greatest = weight;
                        }
                    }
                }
                levels.push(level(greatest));
            }
        }
        (levels, most)
    }
}

/// Whether a pattern of these has negative weights.
pub fn signed<'a>(mut patterns: impl Iterator<Item = &'a Pattern>) -> bool {
    patterns.any(|pattern| pattern.matrix.iter().any(|weight| *weight < 0.0))
}
