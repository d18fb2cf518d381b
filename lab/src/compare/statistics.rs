//! Means of a few numbers, and how far to trust them.

use serde::{Deserialize, Serialize};

/// A mean with the half-width of its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    /// `t₀.₉₇₅(n − 1) · s/√n`; none for a single number, which says nothing about its spread.
    pub half_width: Option<f64>,
    pub count: usize,
}

impl Interval {
    /// NaN for no numbers.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let half_width = (count > 1).then(|| {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
            t_quantile(count - 1) * (variance / count as f64).sqrt()
        });
        Self { mean, half_width, count }
    }
}

/// The 0.975 quantile of Student's t with `freedom` degrees of freedom: a table up to 30, then the
/// expansion in `1/freedom` around the normal quantile (right to four digits there).
///
/// # Panics
/// At 0.
pub fn t_quantile(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
        2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518,
        2.0484, 2.0452, 2.0423,
    ];
    assert!(freedom > 0, "a t quantile needs at least one degree of freedom");
    if let Some(value) = TABLE.get(freedom - 1) {
        return *value;
    }
    let (z, n) = (1.959_964f64, freedom as f64);
    z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_known_numbers_is_the_textbook_one() {
        // 1, 2, 3: s = 1, half-width = 4.3027 / √3.
        let interval = Interval::of(&[1.0, 2.0, 3.0]);
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half_width.unwrap() - 2.484_16).abs() < 1e-4);
    }

    #[test]
    fn one_number_has_no_interval_rather_than_one_of_width_zero() {
        assert_eq!(Interval::of(&[5.0]), Interval { mean: 5.0, half_width: None, count: 1 });
        assert_eq!(Interval::of(&[5.0, 5.0]).half_width, Some(0.0));
    }

    #[test]
    fn the_expansion_continues_the_table() {
        for (freedom, expected) in [(31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799), (100_000, 1.9600)] {
            assert!((t_quantile(freedom) - expected).abs() < 1e-4, "{freedom}: {}", t_quantile(freedom));
        }
        let all: Vec<f64> = (1..200).map(t_quantile).collect();
        assert!(all.windows(2).all(|pair| pair[1] < pair[0]));
    }
}
