//! From values to positions on an axis: range, round ticks and tidy numbers.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// Logarithmic, with ticks at powers of ten.
    Log,
    /// Logarithmic, with ticks at powers of two (sequence lengths, batch sizes).
    Log2,
}

/// An axis over `lo..=hi`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub kind: Kind,
    pub lo: f64,
    pub hi: f64,
    /// Counts, layers, steps: no ticks between whole numbers.
    pub whole: bool,
}

/// A tick: its position as a share of the axis, and its label.
pub(super) type Tick = (f64, String);

impl Scale {
    /// The range that shows all of `values` with a little room; `fixed` is taken as it is.
    pub fn fit(kind: Kind, values: impl Iterator<Item = f64>, fixed: Option<(f64, f64)>) -> Self {
        let usable = |v: &f64| v.is_finite() && (kind == Kind::Linear || *v > 0.0);
        let (lo, hi) = values.filter(usable).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (lo, hi) = match fixed {
            Some(fixed) => fixed,
            None if lo > hi && kind == Kind::Linear => (0.0, 1.0),
            None if lo > hi => (1.0, 10.0),
            None if kind != Kind::Linear => {
                let span = hi.ln() - lo.ln();
                let room = if span < 1e-9 { 2.0 } else { (span * 0.03).exp() };
                ((lo / room).max(1e-303), (hi * room).min(1e303))
            }
            // All equal (or nearly: an axis finer than the numbers are exact shows only noise).
            None if hi - lo <= lo.abs().max(hi.abs()) * 1e-12 => {
                let room = if lo == 0.0 { 1.0 } else { lo.abs() * 0.1 };
                (lo - room, hi + room)
            }
            None => {
                let room = (hi - lo) * 0.04;
                (lo - room, hi + room)
            }
        };
        Self { kind, lo, hi, whole: false }
    }

    /// Position of `value` as a share of the axis (outside `0..=1` when out of range).
    pub fn at(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Linear => (value - self.lo) / (self.hi - self.lo),
            _ => (value.ln() - self.lo.ln()) / (self.hi.ln() - self.lo.ln()),
        }
    }

    /// About `wanted` labelled ticks at round values, and minor ticks between them.
    pub fn ticks(&self, wanted: usize) -> (Vec<Tick>, Vec<f64>) {
        let (values, labels, minor) = match self.kind {
            Kind::Linear => self.linear(wanted),
            Kind::Log => self.decades(wanted),
            Kind::Log2 => self.doublings(wanted),
        };
        let place = |v: &f64| self.at(*v);
        let ticks = values.iter().map(place).zip(labels).collect();
        (ticks, minor.iter().map(place).collect())
    }

    fn holds(&self, value: f64) -> bool {
        (-1e-9..=1.0 + 1e-9).contains(&self.at(value))
    }

    fn linear(&self, wanted: usize) -> (Vec<f64>, Vec<String>, Vec<f64>) {
        let raw = (self.hi - self.lo) / wanted.max(1) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step =
            [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999).unwrap_or(power);
        let step = if self.whole { step.max(1.0).ceil() } else { step };
        let first = (self.lo / step - 1e-6).ceil() as i64;
        let last = (self.hi / step + 1e-6).floor() as i64;
        let values: Vec<f64> = (first..=last).map(|k| k as f64 * step).collect();
        let labels = numbers(&values, step);
        (values, labels, Vec::new())
    }

    fn decades(&self, wanted: usize) -> (Vec<f64>, Vec<String>, Vec<f64>) {
        let (first, last) = (self.lo.log10().floor() as i32, self.hi.log10().ceil() as i32);
        let at = |steps: &[f64]| -> Vec<f64> {
            (first..=last)
                .flat_map(|e| steps.iter().map(move |m| m * 10f64.powi(e)))
                .filter(|v| self.holds(*v))
                .collect()
        };
        let digits: Vec<f64> = (1..10).map(f64::from).collect();
        let mut values = at(&[1.0]);
        if values.len() < 3 {
            values = at(&[1.0, 2.0, 5.0]);
        }
        if values.len() < 3 {
            values = at(&digits);
        }
        if values.len() < 2 {
            // Less than a step of any decade: a linear axis is straight enough to read.
            return self.linear(wanted);
        }
        let stride = values.len().div_ceil(wanted.max(2));
        if stride > 1 {
            values = values.into_iter().step_by(stride).collect();
        }
        let minor = if last - first <= 8 { at(&digits) } else { Vec::new() };
        let plain = values.iter().all(|v| (0.0099..=1001.0).contains(v));
        let labels = values.iter().map(|v| if plain { number(*v) } else { power_of_ten(*v) });
        (values.clone(), labels.collect(), minor)
    }

    fn doublings(&self, wanted: usize) -> (Vec<f64>, Vec<String>, Vec<f64>) {
        let (first, last) = (self.lo.log2().floor() as i32, self.hi.log2().ceil() as i32);
        let all: Vec<f64> = (first..=last).map(|e| 2f64.powi(e)).filter(|v| self.holds(*v)).collect();
        if all.len() < 2 {
            return self.linear(wanted);
        }
        let stride = all.len().div_ceil(wanted.max(2));
        let values: Vec<f64> = all.iter().copied().step_by(stride).collect();
        let labels = values.iter().map(|v| number(*v)).collect();
        (values, labels, all)
    }
}

/// Labels for evenly spaced values: just as many decimals as `step` needs, thousands as `k`.
fn numbers(values: &[f64], step: f64) -> Vec<String> {
    let most = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let (unit, suffix) = match most {
        m if m >= 1e13 || (m > 0.0 && m < 1e-3) => {
            let power = 10f64.powf(m.log10().floor());
            (power, format!("×10{}", superscript(power.log10().round() as i32)))
        }
        m if m >= 1e10 => (1e9, "G".into()),
        m if m >= 1e7 => (1e6, "M".into()),
        m if m >= 1e4 => (1e3, "k".into()),
        _ => (1.0, String::new()),
    };
    let shown = |v: f64, d: usize| format!("{:.d$}", v / unit);
    // The fewest decimals that show every tick exactly.
    let exact = |d: &usize| {
        let error = |v: &f64| (shown(*v, *d).parse().unwrap_or(f64::NAN) - v / unit).abs();
        values.iter().all(|v| error(v) < 1e-3 * step / unit)
    };
    let decimals = (0..9).find(exact).unwrap_or(9);
    values
        .iter()
        .map(|v| match shown(*v, decimals).as_str() {
            zero if zero.parse() == Ok(0.0) => "0".to_string(),
            text => minus(&format!("{text}{suffix}")),
        })
        .collect()
}

/// One number, to three significant digits, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let size = value.abs();
    let power = size.log10().floor() as i32;
    if !(1e-3..1e7).contains(&size) {
        let mantissa = number(value / 10f64.powi(power));
        return format!("{mantissa}×10{}", superscript(power));
    }
    let text = format!("{value:.*}", (2 - power).max(0) as usize);
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    minus(text)
}

fn power_of_ten(value: f64) -> String {
    let power = (value.log10() + 1e-9).floor() as i32;
    let mantissa = (value / 10f64.powi(power)).round();
    match (mantissa, power) {
        (1.0, 0) => "1".into(),
        (1.0, 1) => "10".into(),
        (1.0, _) => format!("10{}", superscript(power)),
        _ => format!("{mantissa}×10{}", superscript(power)),
    }
}

fn superscript(power: i32) -> String {
    let digit = |c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32(0x2070 + (c as u32 - '0' as u32)).unwrap_or(c),
    };
    power.to_string().chars().map(digit).collect()
}

/// A real minus sign in place of the hyphen.
fn minus(text: &str) -> String {
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(kind: Kind, lo: f64, hi: f64) -> Vec<String> {
        let scale = Scale { kind, lo, hi, whole: false };
        scale.ticks(5).0.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_have_no_more_decimals_than_needed() {
        assert_eq!(labels(Kind::Linear, 0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(Kind::Linear, -0.3, 0.3), ["−0.2", "0", "0.2"]);
        assert_eq!(labels(Kind::Linear, 0.0, 40_000.0), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(labels(Kind::Linear, 0.0, 4e-5), ["0", "1×10⁻⁵", "2×10⁻⁵", "3×10⁻⁵", "4×10⁻⁵"]);
    }

    #[test]
    fn log_axes_are_labelled_at_powers() {
        assert_eq!(labels(Kind::Log, 1.0, 1e5), ["1", "10²", "10⁴"]);
        assert_eq!(labels(Kind::Log, 0.01, 100.0), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(labels(Kind::Log2, 100.0, 2048.0), ["128", "256", "512", "1024", "2048"]);
    }

    #[test]
    fn whole_numbers_get_whole_ticks() {
        let scale = Scale { kind: Kind::Linear, lo: 0.9, hi: 3.1, whole: true };
        let labels: Vec<_> = scale.ticks(8).0.into_iter().map(|t| t.1).collect();
        assert_eq!(labels, ["1", "2", "3"]);
    }

    #[test]
    fn equal_values_still_give_an_axis() {
        for value in [0.0, 1.0, -5.0, 1e-9, 1e12] {
            let scale = Scale::fit(Kind::Linear, [value, value].into_iter(), None);
            assert!((scale.at(value) - 0.5).abs() < 1e-6, "{value}: {scale:?}");
            assert!(scale.ticks(5).0.len() >= 2, "{value}: {scale:?}");
        }
    }

    #[test]
    fn numbers_are_tidy() {
        assert_eq!(number(0.250_000_01), "0.25");
        assert_eq!(number(1024.0), "1024");
        assert_eq!(number(-2.34567), "−2.35");
        assert_eq!(number(1.5e-7), "1.5×10⁻⁷");
        assert_eq!(number(100.0), "100");
    }
}
