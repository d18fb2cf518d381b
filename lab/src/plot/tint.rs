//! From values to the colours of a heat map.

use super::PlotError;
use super::backend::png;
use super::number::{checked_range, extent};
use super::palette::{MISSING, colours};
use plotters::style::RGBColor;

/// The last step of a colour map: even, so that zero has a step of its own. More steps than the
/// eye tells apart would only make more elements.
const LAST: usize = 126;

/// The colours of a figure, and the values at both ends.
#[derive(Clone, Debug)]
pub(super) struct Tint {
    pub colours: Vec<RGBColor>,
    pub lo: f64,
    pub hi: f64,
}

impl Tint {
    /// Sequential from zero for values that are never negative (from the least value if that is
    /// more than half of the greatest), diverging and centred at zero otherwise.
    pub fn fit(
        figure: &str,
        values: impl IntoIterator<Item = f64>,
        fixed: Option<(f64, f64)>,
    ) -> Result<Self, PlotError> {
        let fixed = checked_range(figure, "colour range", fixed, false)?;
        let Some(found) = extent(values) else {
            return Err(PlotError::empty(figure, "the matrix (without what is not finite)"));
        };
        let (lo, hi) = fixed.unwrap_or(found);
        let most = lo.abs().max(hi.abs());
        let diverging = lo < -1e-9 * most;
        let (lo, hi) = match (diverging, fixed) {
            (true, _) => (-most, most),
            (false, Some(fixed)) => fixed,
            (false, None) if lo > 0.5 * hi && lo < hi * (1.0 - 1e-9) => (lo, hi),
            (false, None) => (0.0, hi.max(0.0)),
        };
        Ok(Self { colours: colours(diverging, LAST), lo, hi: if hi > lo { hi } else { lo + 1.0 } })
    }

    /// The step of the colour map that shows `value`, if it is finite.
    pub fn level(&self, value: f64) -> Option<usize> {
        let share = ((value - self.lo) / (self.hi - self.lo)).clamp(0.0, 1.0);
        value.is_finite().then(|| (share * LAST as f64).round() as usize)
    }

    pub fn at(&self, value: f64) -> RGBColor {
        self.level(value).map_or(MISSING, |level| self.colours[level])
    }
}

/// Rows of `columns` values as a picture, an address for `<img src>`; nothing where no value is finite.
pub(crate) fn picture(values: &[f64], columns: usize) -> Option<String> {
    let tint = Tint::fit("", values.iter().copied(), None).ok()?;
    let rgb: Vec<u8> = values.iter().map(|value| tint.at(*value)).flat_map(|RGBColor(r, g, b)| [r, g, b]).collect();
    png((columns as u32, (values.len() / columns) as u32), &rgb).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(cells: &[f64]) -> (f64, f64) {
        let tint = Tint::fit("", cells.iter().copied(), None).unwrap();
        (tint.lo, tint.hi)
    }

    #[test]
    fn values_never_negative_are_shown_from_zero() {
        assert_eq!(ends(&[0.1, 0.8]), (0.0, 0.8));
        assert_eq!(ends(&[0.9, 0.95]), (0.9, 0.95));
        assert_eq!(ends(&[0.3]), (0.0, 0.3));
        assert_eq!(ends(&[0.0, 0.0]), (0.0, 1.0));
    }

    #[test]
    fn signed_values_are_centred_at_zero() {
        assert_eq!(ends(&[-2.0]), (-2.0, 2.0));
        let tint = Tint::fit("", [-0.1, 0.0, 0.9], None).unwrap();
        assert_eq!((tint.lo, tint.hi), (-0.9, 0.9));
        assert_eq!(tint.at(0.0), RGBColor(0xf7, 0xf7, 0xf7));
    }
}
