//! One axis: from values to positions, with its ticks. plotters finds the round values; how many
//! of them there is room for, and how they are written, is decided here.

use super::ink::SMALL;
use super::number::{extent, labels, number, power_of_ten};
use super::text;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{BoldPoints, KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use std::ops::Range;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Scale {
    #[default]
    Linear,
    /// Logarithmic, with ticks at powers of this base.
    Log(f64),
}

impl Scale {
    /// The range that shows all of `values` with a little room; `fixed` is taken as it is.
    pub fn fit(self, values: impl IntoIterator<Item = f64>, fixed: Option<(f64, f64)>) -> (f64, f64) {
        if let Some(fixed) = fixed {
            return fixed;
        }
        let shown = values.into_iter().filter(|v| self == Self::Linear || *v > 0.0);
        let (lo, hi) = extent(shown).unwrap_or((1.0, 1.0));
        match self {
            Self::Log(_) => {
                let span = hi.ln() - lo.ln();
                let room = if span < 1e-9 { 2.0 } else { (span * 0.03).exp() };
                ((lo / room).max(1e-303), (hi * room).min(1e303))
            }
            // All equal (or nearly: an axis finer than the numbers are exact shows only noise).
            Self::Linear if hi - lo <= lo.abs().max(hi.abs()) * 1e-12 => {
                let room = if lo == 0.0 { 1.0 } else { lo.abs() * 0.1 };
                (lo - room, hi + room)
            }
            Self::Linear => (lo - (hi - lo) * 0.04, hi + (hi - lo) * 0.04),
        }
    }
}

/// An axis as plotters takes it.
#[derive(Clone)]
pub(super) struct Axis {
    scale: Scale,
    pub range: (f64, f64),
    /// Position and label.
    pub ticks: Vec<(f64, String)>,
    minor: Vec<f64>,
    /// The labels are names (of tokens, of bars), which stand without tick marks.
    pub named: bool,
}

impl Axis {
    /// An axis with the given labels. `range.0` is at the left or at the bottom.
    pub fn labelled(range: (f64, f64), ticks: Vec<(f64, String)>, named: bool) -> Self {
        Self { scale: Scale::Linear, range, ticks, minor: Vec::new(), named }
    }

    /// An axis along the bottom, `length` pixels long: as many ticks as stand there side by side
    /// (only `whole` numbers for layers, steps and counts).
    pub fn bottom(scale: Scale, range: (f64, f64), length: f64, whole: bool) -> Self {
        let most = (length / 50.0).clamp(4.0, 9.0) as usize;
        let mut tries = (2..=most).rev().map(|n| Self::with_ticks(scale, range, n, whole));
        tries.clone().find(|axis| !axis.crowded(length)).or(tries.next_back()).expect("most is at least 4")
    }

    /// An axis along a side, `length` pixels long.
    pub fn side(scale: Scale, range: (f64, f64), length: f64, whole: bool) -> Self {
        Self::with_ticks(scale, range, (length / 36.0).clamp(4.0, 9.0) as usize, whole)
    }

    fn with_ticks(scale: Scale, range: (f64, f64), most: usize, whole: bool) -> Self {
        let mut axis = Self { scale, range, ticks: Vec::new(), minor: Vec::new(), named: false };
        let (mut values, mut power) = (Vec::new(), true);
        if let Scale::Log(base) = scale {
            // From a power on, since plotters leaves out the minor ticks before the first one.
            let start = base.powf(range.0.log(base).floor());
            let powers = (range.1 / start).log(base).ceil().max(1.0);
            let coord: LogCoord<f64> = ((start * (1.0 - 1e-9))..(range.1 * (1.0 + 1e-9))).log_scale().base(base).into();
            // plotters would search for ever for the ticks of a ratio that overflows.
            values = if powers.is_finite() { coord.key_points(BoldPoints(most)) } else { vec![range.0, range.1] };
            if base == 10.0 && powers <= 8.0 {
                axis.minor = coord.key_points(BoldPoints(10 * powers as usize));
            }
            if !axis.minor.is_empty() && values.iter().filter(|v| axis.holds(**v)).count() < 3 {
                let digit = |v: f64| (v / 10f64.powf((v.log10() + 1e-9).floor())).round();
                values = axis.minor.iter().copied().filter(|v| [1.0, 2.0, 5.0].contains(&digit(*v))).collect();
            }
            axis.minor.retain(|v| range.0 <= *v && *v <= range.1);
            values.retain(|v| axis.holds(*v));
            values.dedup_by(|a, b| *a <= *b * (1.0 + 1e-9));
        }
        // Also where a logarithmic axis is shorter than a step of its base: straight enough to read.
        if values.len() < 2 {
            power = false;
            values = linear_ticks(range, most);
            values.retain(|v| axis.holds(*v) && (!whole || (v - v.round()).abs() < 1e-6));
        }
        let plain = values.iter().all(|v| (0.0099..=1001.0).contains(v));
        let names: Vec<String> = match scale {
            Scale::Log(10.0) if power && !plain => values.iter().map(|v| power_of_ten(*v)).collect(),
            Scale::Log(_) if power => values.iter().map(|v| number(*v)).collect(),
            _ => labels(&values),
        };
        axis.ticks = values.into_iter().zip(names).collect();
        axis
    }

    /// What plotters measures along the axis: the value or its logarithm.
    fn measure(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            // What is not positive is far below.
            Scale::Log(_) => value.max(f64::MIN_POSITIVE).ln(),
        }
    }

    /// Position of `value` as a share of the axis.
    pub fn share(&self, value: f64) -> f64 {
        let (lo, hi) = (self.measure(self.range.0), self.measure(self.range.1));
        (self.measure(value) - lo) / (hi - lo)
    }

    pub fn holds(&self, value: f64) -> bool {
        (-1e-9..=1.0 + 1e-9).contains(&self.share(value))
    }

    /// Width of the widest label in pixels.
    pub fn widest(&self) -> f64 {
        self.ticks.iter().map(|(_, label)| text::width(label, SMALL)).fold(0.0, f64::max)
    }

    /// Pixels by which the last label reaches out beyond the end of an axis `length` pixels long.
    pub fn overhang(&self, length: f64) -> f64 {
        let last = self.ticks.last().filter(|_| !self.named);
        last.map_or(0.0, |(v, label)| (self.share(*v) - 1.0) * length + text::width(label, SMALL) / 2.0)
    }

    /// Whether labels side by side along `length` pixels would touch.
    pub fn crowded(&self, length: f64) -> bool {
        let gap = if self.named { 1.0 } else { 8.0 };
        self.ticks.windows(2).any(|pair| {
            let [a, b] = [&pair[0], &pair[1]].map(|(_, label)| text::width(label, SMALL) / 2.0);
            a + b + gap > (self.share(pair[1].0) - self.share(pair[0].0)).abs() * length
        })
    }
}

/// At most `most` round values in the range.
fn linear_ticks((lo, hi): (f64, f64), most: usize) -> Vec<f64> {
    let size = lo.abs().max(hi.abs());
    // Where numbers are hardly exact enough to differ, plotters would search for ever.
    if hi - lo < 1e-9 * size {
        return vec![lo, hi];
    }
    // plotters takes whatever is smaller than the machine's epsilon for zero.
    let unit = 10f64.powi(size.log10().floor() as i32);
    let coord = RangedCoordf64::from(lo / unit..hi / unit);
    coord.key_points(BoldPoints(most)).into_iter().map(|v| v * unit).collect()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (lo, hi) = (self.measure(self.range.0), self.measure(self.range.1));
        // Far outside is as good as infinitely far, and fits into plotters' coordinates.
        let far = 20.0 * (hi - lo).abs();
        let value = self.measure(*value).clamp(lo.min(hi) - far, lo.max(hi) + far);
        RangedCoordf64::from(lo..hi).map(&value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => self.minor.clone(),
            false => self.ticks.iter().map(|tick| tick.0).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|tick| tick.0 == *value).map(|tick| tick.1.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, range: (f64, f64), most: usize, whole: bool) -> Vec<String> {
        Axis::with_ticks(scale, range, most, whole).ticks.into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_and_have_no_more_decimals_than_needed() {
        let linear = |lo, hi| ticks(Scale::Linear, (lo, hi), 6, false);
        assert_eq!(linear(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(linear(-0.3, 0.3), ["−0.2", "−0.1", "0", "0.1", "0.2"]);
        assert_eq!(linear(0.0, 40_000.0), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(linear(0.0, 4e-5), ["0", "1×10⁻⁵", "2×10⁻⁵", "3×10⁻⁵", "4×10⁻⁵"]);
    }

    #[test]
    fn log_axes_are_labelled_at_powers() {
        let log = |base, lo, hi| ticks(Scale::Log(base), (lo, hi), 5, false);
        assert_eq!(log(10.0, 1.0, 1e5), ["1", "10", "10²", "10³", "10⁴", "10⁵"]);
        assert_eq!(log(10.0, 1e-6, 1e6), ["10⁻⁶", "10⁻³", "1", "10³", "10⁶"]);
        assert_eq!(log(10.0, 0.01, 100.0), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(log(2.0, 100.0, 2048.0), ["128", "256", "512", "1024", "2048"]);
        assert_eq!(log(10.0, 3.0, 40.0), ["5", "10", "20"]);
        assert_eq!(log(2.0, 100.0, 300.0), ["128", "256"], "two powers are enough where nothing lies between them");
    }

    #[test]
    fn whole_numbers_get_whole_ticks() {
        assert_eq!(ticks(Scale::Linear, (0.9, 3.1), 8, true), ["1", "2", "3"]);
    }

    #[test]
    fn equal_values_still_give_an_axis() {
        for value in [0.0, 1.0, -5.0, 1e-9, 1e12] {
            let axis = Axis::side(Scale::Linear, Scale::Linear.fit([value, value], None), 200.0, false);
            assert!((axis.share(value) - 0.5).abs() < 1e-6, "{value}");
            assert!(axis.ticks.len() >= 2, "{value}");
        }
    }
}
