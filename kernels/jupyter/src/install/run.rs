//! Runs the programs that an installation needs, in reach of the stop button or of Ctrl-C.

use super::build::Watch;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};

/// A line that a program prints.
pub enum Line {
    Out(String),
    Err(String),
}

/// Runs a program to its end, and says whether that was a good one. `apart`: in a process group of its own, for a
/// stop button to end. At a terminal Ctrl-C must reach it.
pub fn run(
    command: &mut Command,
    apart: bool,
    watch: &mut dyn Watch,
    mut hear: impl FnMut(Line, &mut dyn Watch),
) -> Result<bool> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if apart {
        command.process_group(0);
    }
    let started = command.spawn();
    let program = command.get_program().display();
    let mut child = started.with_context(|| format!("cannot run {program}; is the Rust toolchain installed?"))?;
    let group = child.id() as i32;
    watch.began(group);
    let (send, lines) = channel();
    read(child.stderr.take().expect("piped"), send.clone(), Line::Err);
    read(child.stdout.take().expect("piped"), send, Line::Out);
    for line in lines {
        hear(line, watch);
    }
    watch.ended(group);
    Ok(child.wait()?.success())
}

/// What a program prints; where it fails, what it complains of.
pub fn output(command: &mut Command, apart: bool, watch: &mut dyn Watch) -> Result<String> {
    let (mut out, mut complaint) = (Vec::new(), Vec::new());
    let well = run(command, apart, watch, |line, _| match line {
        Line::Out(line) => out.push(line),
        Line::Err(line) => complaint.push(line),
    })?;
    if !well {
        bail!("{}", complaint.join("\n").trim());
    }
    Ok(out.join("\n"))
}

fn read(from: impl Read + Send + 'static, to: Sender<Line>, line: fn(String) -> Line) {
    std::thread::spawn(move || {
        let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
        lines.for_each(|bytes| drop(to.send(line(String::from_utf8_lossy(&bytes).into_owned()))));
    });
}

#[cfg(test)]
mod tests {
    use super::super::build::Progress;
    use super::*;
    use std::time::{Duration, Instant};

    /// Presses the button as soon as there is something to stop, where it is to.
    #[derive(Default)]
    struct Button {
        press: bool,
        began: Vec<i32>,
        ended: Vec<i32>,
    }

    impl Watch for Button {
        fn began(&mut self, group: i32) {
            self.began.push(group);
            if self.press {
                // SAFETY: kill has no memory effects; the group is a child's that has not been waited for.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        }

        fn ended(&mut self, group: i32) {
            self.ended.push(group);
        }

        fn said(&mut self, _line: &str) {}
        fn progress(&mut self, _progress: Progress) {}
        fn linking(&mut self, _time: Option<Duration>) {}
    }

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_program_apart_has_a_group_of_its_own_and_another_stays_in_ours() {
        let mut button = Button::default();
        // The fifth word is the group.
        let mut group = |apart| {
            let mut cut = Command::new("cut");
            let text = output(cut.args(["-d", " ", "-f", "5", "/proc/self/stat"]), apart, &mut button).unwrap();
            text.parse::<i32>().unwrap()
        };
        let (own, ours) = (group(true), group(false));
        assert_eq!(own, button.began[0]);
        // SAFETY: asks for a number.
        assert_eq!(ours, unsafe { libc::getpgrp() });
        assert_eq!(button.began, button.ended);
    }

    #[test]
    fn the_stop_button_ends_a_program_with_all_that_it_has_begun() {
        let begun = Instant::now();
        let mut button = Button { press: true, ..Button::default() };
        let well = run(&mut shell("sleep 100 & sleep 100"), true, &mut button, |_, _| {}).unwrap();
        assert!(!well && begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_printed_is_told_from_what_is_complained_of() {
        let mut button = Button::default();
        let mut ask = |script: &str| output(&mut shell(script), true, &mut button);
        assert_eq!(ask("echo a; echo no >&2; echo b").unwrap(), "a\nb");
        assert_eq!(ask("echo a; echo no >&2; echo more >&2; exit 1").unwrap_err().to_string(), "no\nmore");
        assert_eq!(ask("printf '\\377\\nafter\\n'").unwrap(), "\u{fffd}\nafter", "what is no UTF-8 ends nothing");
        let missing = output(&mut Command::new("/no/such/cargo"), true, &mut button).unwrap_err();
        assert!(format!("{missing:#}").contains("/no/such/cargo"), "{missing:#}");
    }
}
