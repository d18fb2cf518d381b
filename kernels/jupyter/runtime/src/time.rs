//! `%timeit`.

use crate::{CellResult, check_interrupt};
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
/// A round is long enough for the clock, and the whole short enough for a person.
const ROUND: Duration = Duration::from_millis(100);
const ENOUGH: Duration = Duration::from_secs(5);

/// Runs `body` many times and prints what one run takes. `settle` waits for work that a device still
/// does. Called by generated code.
pub fn time_it(body: &mut dyn FnMut() -> CellResult, settle: &mut dyn FnMut()) -> CellResult {
    let began = Instant::now();
    let mut round = |runs: u32| -> Result<Duration, Box<dyn std::error::Error>> {
        let began = Instant::now();
        for _ in 0..runs {
            body()?;
            check_interrupt()?;
        }
        settle();
        Ok(began.elapsed())
    };
    // The first run fills caches and compiles kernels.
    round(1)?;
    let mut runs = 1;
    let mut took = round(runs)?;
    while took < ROUND {
        let factor = ROUND.as_secs_f64() / took.as_secs_f64().max(1e-9);
        runs = (f64::from(runs) * factor.clamp(1.5, 100.0)).ceil().min(1e9) as u32;
        took = round(runs)?;
    }
    let mut times = vec![took / runs];
    while times.len() < ROUNDS && began.elapsed() < ENOUGH {
        times.push(round(runs)? / runs);
    }
    times.sort();
    let median = times[times.len() / 2];
    let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    println!(
        "{median:.3?} a run (median of {} of {}; {:.3?} to {:.3?})",
        plural(times.len() as u64, "round"),
        plural(runs.into(), "run"),
        times[0],
        times[times.len() - 1],
    );
    Ok(())
}
