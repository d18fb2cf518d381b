//! Repetitions until the median is known.

use anyhow::Result;
use std::time::{Duration, Instant};

/// Durations of repetitions of the same thing, in seconds.
#[derive(Clone, Debug)]
pub struct Timing {
    sorted: Vec<f64>,
}

impl Timing {
    pub fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { sorted: seconds }
    }

    pub fn repetitions(&self) -> usize {
        self.sorted.len()
    }

    pub fn fastest(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half of the repetitions lie between the two.
    pub fn quartiles(&self) -> [f64; 2] {
        [self.quantile(0.25), self.quantile(0.75)]
    }

    /// Linear between neighbours.
    fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.sorted.len().saturating_sub(1)) as f64;
        let at = |i: usize| self.sorted.get(i).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(place.floor() as usize), at(place.ceil() as usize));
        low + (high - low) * place.fract()
    }

    /// Whether half the interquartile range over `√n`, roughly the median's standard error, is below 1 %.
    fn steady(&self) -> bool {
        let [low, high] = self.quartiles();
        let error = (high - low) / 2.0 / (self.sorted.len() as f64).sqrt();
        error <= 0.01 * self.median()
    }
}

const WARM_UPS: usize = 2;
const FEWEST: usize = 5;

/// Repeats `run`, which returns the seconds that count, until its median is steady to 1 % or `longest`
/// has passed; at least five times, after two to warm up.
pub fn measure(longest: Duration, mut run: impl FnMut() -> Result<f64>) -> Result<Timing> {
    for _ in 0..WARM_UPS {
        run()?;
    }
    let started = Instant::now();
    let mut seconds = Vec::new();
    loop {
        seconds.push(run()?);
        let timing = Timing::new(seconds.clone());
        if seconds.len() >= FEWEST && (timing.steady() || started.elapsed() >= longest) {
            return Ok(timing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_quartiles_are_between_neighbours() {
        let timing = Timing::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((timing.fastest(), timing.median(), timing.quartiles()), (1.0, 2.5, [1.75, 3.25]));
        assert_eq!(Timing::new(vec![7.0]).quartiles(), [7.0, 7.0]);
    }

    #[test]
    fn what_never_varies_is_measured_five_times_and_what_does_until_the_time_is_over() {
        let steady = measure(Duration::from_secs(60), || Ok(2.0)).unwrap();
        assert_eq!((steady.repetitions(), steady.median()), (FEWEST, 2.0));
        let mut runs = 0;
        let wild = measure(Duration::from_millis(20), || {
            runs += 1;
            std::thread::sleep(Duration::from_millis(1));
            Ok(if runs % 2 == 0 { 1.0 } else { 9.0 })
        });
        assert!(wild.unwrap().repetitions() > FEWEST && runs > FEWEST + WARM_UPS);
    }
}
