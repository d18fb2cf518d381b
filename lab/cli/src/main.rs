//! `cargo lab …`: notebooks, training, comparison and probes from a terminal.
//!
//! - `run`: a notebook executed by a client of our own, with other `parameters`, as a file and as a page
//! - `notebook`: what JupyterLab needs, made if it is missing (`environment`, the kernel), then JupyterLab
//! - `train`, `compare`, `probe`, `memory`, `generate`, `logits`, `inspect`, `export`: thin calls of the library
//! - `bench`, `selftest`: how fast all that is, and whether the fast operators are right here
//! - `doctor`: what this machine and this build can do

mod bench;
mod compare;
mod doctor;
mod environment;
mod export;
mod generate;
mod inspect;
mod logits;
mod memory;
mod model;
mod notebook;
mod parameters;
mod probe;
mod root;
mod run;
mod selftest;
mod terminal;
mod train;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Attention variants: notebooks, training, comparison and probes.
#[derive(Parser)]
#[command(name = "lab", bin_name = "cargo lab", version, arg_required_else_help = true)]
#[command(
    after_help = "ATTENTION_DEVICE=cpu or cuda:0 chooses the device; without it, CUDA where driver, NVRTC and headers \
                  are found."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Notebook(notebook::Arguments),
    Run(run::Arguments),
    Train(train::Arguments),
    Compare(compare::Arguments),
    Probe(probe::Arguments),
    Memory(memory::Arguments),
    Bench(bench::Arguments),
    Selftest(selftest::Arguments),
    Doctor(doctor::Arguments),
    Generate(generate::Arguments),
    Logits(logits::Arguments),
    Inspect(inspect::Arguments),
    Export(export::Arguments),
}

fn main() -> ExitCode {
    // `cargo lab … | head` ends quietly, as other programs do.
    // SAFETY: sets a signal's default action before any thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let done = match Arguments::parse().command {
        Command::Notebook(arguments) => notebook::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Train(arguments) => train::run(arguments).map(success),
        Command::Compare(arguments) => compare::run(arguments).map(success),
        Command::Probe(arguments) => probe::run(arguments).map(success),
        Command::Memory(arguments) => memory::run(&arguments).map(success),
        Command::Bench(arguments) => bench::run(arguments).map(success),
        Command::Selftest(arguments) => selftest::run(&arguments).map(success),
        Command::Doctor(arguments) => doctor::run(&arguments).map(success),
        Command::Generate(arguments) => generate::run(&arguments).map(success),
        Command::Logits(arguments) => logits::run(&arguments).map(success),
        Command::Inspect(arguments) => inspect::run(&arguments).map(success),
        Command::Export(arguments) => export::run(&arguments).map(success),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{}", terminal::chain(&error));
        ExitCode::FAILURE
    })
}

/// What a command that has done its work is worth.
fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
