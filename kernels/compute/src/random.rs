//! Random numbers by the million: the beginning of every model. They are drawn here, where code is optimised.

use rand::{RngExt, rngs::StdRng};
use std::f64::consts::TAU;

/// `count` numbers of N(0, `std`²), each by Box and Muller from two uniform ones:
/// x = std · √(−2 ln(1 − u)) · cos 2πv.
pub fn normal(rng: &mut StdRng, count: usize, std: f64) -> Vec<f32> {
    let draw = |_| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (std * (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()) as f32
    };
    (0..count).map(draw).collect()
}

/// `count` numbers evenly between `low` and `high`.
pub fn uniform(rng: &mut StdRng, count: usize, low: f64, high: f64) -> Vec<f32> {
    (0..count).map(|_| (low + (high - low) * rng.random::<f64>()) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_first_moments_are_those_of_the_distribution_and_a_seed_means_the_same_numbers() {
        let mut rng = StdRng::seed_from_u64(1);
        let count = 200_000;
        let moment = |x: &[f32], power: i32| x.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / count as f64;
        let x = normal(&mut rng, count, 2.0);
        for (power, expected, within) in [(1, 0.0, 0.02), (2, 4.0, 0.05), (3, 0.0, 0.3), (4, 48.0, 2.0)] {
            assert!((moment(&x, power) - expected).abs() < within, "{power}: {}", moment(&x, power));
        }
        let y = uniform(&mut rng, count, -1.0, 3.0);
        assert!(y.iter().all(|y| (-1.0..=3.0).contains(y)) && (moment(&y, 1) - 1.0).abs() < 0.02);
        assert_eq!(normal(&mut StdRng::seed_from_u64(1), 5, 2.0), x[..5]);
    }
}
