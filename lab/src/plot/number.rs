//! Numbers on their way into a figure, and as text.

use super::PlotError;

/// A number that can be drawn, so that `Vec<f32>`, `&[f64]`, ranges and iterators all serve.
pub trait Number: Copy {
    /// The value as drawn.
    fn get(self) -> f64;
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn get(self) -> f64 {
                self as f64
            }
        }
    )*};
}
number!(f32, f64, i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl<T: Number> Number for &T {
    fn get(self) -> f64 {
        (*self).get()
    }
}

pub(super) fn numbers(values: impl IntoIterator<Item = impl Number>) -> Vec<f64> {
    values.into_iter().map(|v| drawable(v.get())).collect()
}

/// Differences of larger numbers overflow and of smaller ones vanish, so those are drawn as what
/// they are in effect.
pub(super) fn drawable(value: f64) -> f64 {
    match value.abs() {
        size if size > 1e300 => f64::INFINITY.copysign(value),
        size if size < 1e-300 => 0.0,
        _ => value,
    }
}

/// The least and the greatest of the finite values, if there is one.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|v| v.is_finite());
    let (lo, hi) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    (lo <= hi).then_some((lo, hi))
}

/// A range given by the user, or what is wrong with it.
pub(super) fn checked_range(
    figure: &str,
    what: &str,
    range: Option<(f64, f64)>,
    log: bool,
) -> Result<Option<(f64, f64)>, PlotError> {
    let range = range.map(|(lo, hi)| (drawable(lo), drawable(hi)));
    let expected = match range {
        Some((lo, hi)) if !(lo.is_finite() && hi.is_finite() && lo < hi) => "two finite numbers, the smaller first",
        Some((lo, _)) if log && lo <= 0.0 => "positive numbers on a log axis",
        range => return Ok(range),
    };
    let (lo, hi) = range.unwrap_or_default();
    Err(PlotError::data(figure, format!("{what} is {lo}..{hi}"), expected))
}

/// `1 value is`, `3 values are`.
pub(super) fn counted(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing} is") } else { format!("{n} {thing}s are") }
}

/// Labels for evenly spaced values: just as many decimals as they need, thousands as `k`.
pub(super) fn labels(values: &[f64]) -> Vec<String> {
    let most = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let (unit, suffix) = match most {
        m if m >= 1e13 || (m > 0.0 && m < 1e-3) => {
            let power = m.log10().floor() as i32;
            (10f64.powi(power), format!("×10{}", superscript(power)))
        }
        m if m >= 1e9 => (1e9, "G".into()),
        m if m >= 1e6 => (1e6, "M".into()),
        m if m >= 1e4 => (1e3, "k".into()),
        _ => (1.0, String::new()),
    };
    let step = values.windows(2).map(|pair| (pair[1] - pair[0]).abs() / unit).fold(most / unit, f64::min);
    let shown = |v: f64, decimals: usize| format!("{:.decimals$}", v / unit);
    // The fewest decimals that show every value exactly.
    let exact = |decimals: &usize| {
        let error = |v: &f64| (shown(*v, *decimals).parse().unwrap_or(f64::NAN) - v / unit).abs();
        values.iter().all(|v| error(v) <= 1e-3 * step)
    };
    let decimals = (0..9).find(exact).unwrap_or(9);
    let label = |v: &f64| match shown(*v, decimals).as_str() {
        zero if zero.parse() == Ok(0.0) => "0".to_string(),
        text => minus(&format!("{text}{suffix}")),
    };
    values.iter().map(label).collect()
}

/// One number, to three significant digits, without trailing zeros.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".into() } else { value.to_string() };
    }
    let size = value.abs();
    let power = size.log10().floor() as i32;
    if !(1e-3..1e7).contains(&size) {
        let mantissa = number(value / 10f64.powi(power));
        return format!("{mantissa}×10{}", superscript(power));
    }
    let text = format!("{value:.*}", (2 - power).max(0) as usize);
    match text.contains('.') {
        true => minus(text.trim_end_matches('0').trim_end_matches('.')),
        false => minus(&text),
    }
}

/// A number of one leading digit: `10³`, `2×10³`.
pub(super) fn power_of_ten(value: f64) -> String {
    let power = (value.log10() + 1e-9).floor() as i32;
    match ((value / 10f64.powi(power)).round(), power) {
        (1.0, 0) => "1".into(),
        (1.0, 1) => "10".into(),
        (1.0, _) => format!("10{}", superscript(power)),
        (mantissa, _) => format!("{mantissa}×10{}", superscript(power)),
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

    #[test]
    fn numbers_are_tidy() {
        let values = [0.250_000_01, 1024.0, -2.34567, 1.5e-7, 100.0];
        assert_eq!(values.map(number), ["0.25", "1024", "−2.35", "1.5×10⁻⁷", "100"]);
    }
}
