//! What a person sees while a model trains.

use super::{History, TrainConfig};
use crate::plot::Lines;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// In a terminal one line in place; in a notebook a curve that grows in place; in a pipe a line per
/// evaluation.
pub(super) enum Progress {
    Quiet,
    Lines(Clock),
    Curve { clock: Clock, id: String, drawn: Cell<Option<Instant>> },
    Bar(ProgressBar),
}

/// When the steps of this call began, after which step, and which is the last.
pub(super) struct Clock {
    began: Instant,
    at: usize,
    until: usize,
}

/// A curve is drawn again after this time, and when training ends.
const REDRAW: Duration = Duration::from_millis(500);
/// More points than this a picture cannot show; each is then the mean of several steps.
const POINTS: usize = 250;

impl Progress {
    pub(super) fn new(config: &TrainConfig, history: &History, until: usize, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        let clock = Clock { began: Instant::now(), at: history.step(), until };
        if cell_runtime::in_notebook() {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let id = format!("train-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            return Self::Curve { clock, id, drawn: Cell::new(None) };
        }
        if !std::io::stdout().is_terminal() {
            return Self::Lines(clock);
        }
        let bar = ProgressBar::with_draw_target(Some(until as u64), ProgressDrawTarget::stdout());
        let style = "{prefix} {bar:24} {pos}/{len} {msg} {eta_precise} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a template that names known keys"));
        bar.set_prefix(config.name.clone());
        bar.set_position(history.step() as u64);
        bar.reset_eta();
        Self::Bar(bar)
    }

    /// After every step; `evaluated` when this step's row has a validation loss, `last` when no other
    /// follows.
    pub(super) fn step(&self, config: &TrainConfig, history: &History, evaluated: bool, last: bool) {
        let Some(row) = history.rows.last() else { return };
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_position(row.step as u64);
                let validation = history.validation_loss().map_or(String::new(), |v| format!(", validation {v:.3}"));
                bar.set_message(format!(
                    "train {:.3}{validation}, {:.0} tokens/s,",
                    row.train_loss, row.tokens_per_second
                ));
            }
            Self::Lines(clock) if evaluated => println!("{}", clock.line(config, history)),
            Self::Lines(_) => {}
            Self::Curve { clock, id, drawn } => {
                let due = drawn.get().is_none_or(|before| before.elapsed() >= REDRAW);
                if due || last {
                    let line = clock.line(config, history);
                    show(id, drawn.get().is_none(), curve(config, history, clock.until), &line);
                    drawn.set(Some(Instant::now()));
                }
            }
        }
    }

    /// A line that stays.
    pub(super) fn note(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines(_) | Self::Curve { .. } => println!("{text}"),
            Self::Bar(bar) => bar.println(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}

impl Clock {
    fn line(&self, config: &TrainConfig, history: &History) -> String {
        let (step, until) = (history.step(), self.until);
        let share = (step - self.at) as f64;
        let left = Duration::from_secs_f64(self.began.elapsed().as_secs_f64() / share * (until - step) as f64);
        let mut line = format!(
            "{}  step {step:>5}/{until}  train {:.4}",
            config.name,
            history.train_loss(config.eval_every.clamp(1, step))
        );
        if let Some(loss) = history.validation_loss() {
            line += &format!("  validation {loss:.4}");
        }
        if let Some(accuracy) = history.accuracy() {
            line += &format!("  accuracy {:5.1} %", 100.0 * accuracy);
        }
        line + &format!("  {:>6.0} tokens/s  {} left", history.tokens_per_second(), clock(left))
    }
}

/// Both losses so far, on an axis that reaches to the end: what is missing of the curve is still to
/// be done.
fn curve(config: &TrainConfig, history: &History, until: usize) -> Lines {
    let losses = history.train_losses();
    let size = losses.len().div_ceil(POINTS);
    let mean = |chunk: &[(f64, f64)]| {
        let count = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / count, chunk.iter().map(|p| p.1).sum::<f64>() / count)
    };
    let (steps, train): (Vec<_>, Vec<_>) = losses.chunks(size.max(1)).map(mean).unzip();
    let (at, validation): (Vec<_>, Vec<_>) = history.validation_losses().into_iter().unzip();
    let lines = Lines::new(config.name.clone()).x("training step", "").y("loss", "nats/token").size(460, 170);
    let lines = lines.x_range(0.0, until as f64).markers(false).line("train", steps, train);
    if at.is_empty() { lines } else { lines.line("validation", at, validation) }
}

fn show(id: &str, first: bool, curve: Lines, line: &str) {
    let display = if first { cell_runtime::display_with_id } else { cell_runtime::update_display };
    match curve.note(line).svg() {
        Ok(svg) => display(id, &[("image/svg+xml", &svg), ("text/plain", line)]),
        // One point is no curve yet.
        Err(_) => display(id, &[("text/plain", line)]),
    }
}

/// `75` as `1:15`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_minutes_and_hours_where_there_are_any() {
        assert_eq!(clock(Duration::from_secs(75)), "1:15");
        assert_eq!(clock(Duration::from_secs(3 * 3600 + 62)), "3:01:02");
    }
}
