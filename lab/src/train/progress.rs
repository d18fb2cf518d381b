//! What a person sees while a model trains.

use super::{History, TrainConfig};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// In a terminal one line in place; in a notebook or a pipe, a line per evaluation.
pub(super) enum Progress {
    Quiet,
    Lines { began: Instant, at: usize },
    Bar(ProgressBar),
}

impl Progress {
    pub(super) fn new(config: &TrainConfig, history: &History, until: usize, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if cell_runtime::in_notebook() || !std::io::stdout().is_terminal() {
            return Self::Lines { began: Instant::now(), at: history.step() };
        }
        let bar = ProgressBar::with_draw_target(Some(until as u64), ProgressDrawTarget::stdout());
        let style = "{prefix} {bar:24} {pos}/{len} {msg} {eta_precise} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a template that names known keys"));
        bar.set_prefix(config.name.clone());
        bar.set_position(history.step() as u64);
        bar.reset_eta();
        Self::Bar(bar)
    }

    /// After every step; `evaluated` when this step's row has a validation loss.
    pub(super) fn step(&self, config: &TrainConfig, history: &History, until: usize, evaluated: bool) {
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
            Self::Lines { began, at } if evaluated => {
                let every = config.eval_every.max(1);
                let share = (row.step - at) as f64;
                let left = Duration::from_secs_f64(began.elapsed().as_secs_f64() / share * (until - row.step) as f64);
                let accuracy = match row.accuracy {
                    Some(accuracy) => format!("  accuracy {:5.1} %", 100.0 * accuracy),
                    None => String::new(),
                };
                println!(
                    "{}  step {:>5}/{until}  train {:.4}  validation {:.4}{accuracy}  {:>6.0} tokens/s  {} left",
                    config.name,
                    row.step,
                    history.train_loss(every),
                    row.validation_loss.unwrap_or(f64::NAN),
                    history.tokens_per_second(),
                    clock(left),
                );
            }
            Self::Lines { .. } => {}
        }
    }

    /// A line that stays.
    pub(super) fn note(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines { .. } => println!("{text}"),
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
