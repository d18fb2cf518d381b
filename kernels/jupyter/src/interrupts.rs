//! The stop button. One press stops a compilation or asks the running cell to stop; a second
//! press while the cell still runs kills it. The end of the kernel kills all that it has started.

use std::sync::Mutex;

#[derive(Debug, Default)]
pub struct Interrupts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pressed: u32,
    /// The kernel ends.
    over: bool,
    /// Process groups of compilers.
    compilers: Vec<i32>,
    /// Process groups of sessions, in which the programs are that their cells have started. Two while one session
    /// takes the place of another.
    sessions: Vec<i32>,
    /// The session's group while a cell runs in it: a program that the cell waits for is stopped with it.
    running: Option<i32>,
}

fn signal(target: i32, signal: i32) {
    // SAFETY: kill has no memory effects; the processes are children not yet waited for.
    unsafe { libc::kill(target, signal) };
}

impl Interrupts {
    pub fn begin_cell(&self) {
        self.0.lock().unwrap().pressed = 0;
    }

    /// How often the button has been pressed since the cell began, this time included.
    pub fn press(&self) -> u32 {
        let mut state = self.0.lock().unwrap();
        state.pressed += 1;
        for group in &state.compilers {
            signal(-group, libc::SIGKILL);
        }
        if let Some(group) = state.running {
            signal(-group, if state.pressed == 1 { libc::SIGINT } else { libc::SIGKILL });
        }
        state.pressed
    }

    pub fn pressed(&self) -> bool {
        self.0.lock().unwrap().pressed > 0
    }

    /// Kills everything that the kernel has started, and what it starts from now on.
    pub fn end(&self) {
        let mut state = self.0.lock().unwrap();
        state.over = true;
        for group in state.compilers.iter().chain(&state.sessions) {
            signal(-group, libc::SIGKILL);
        }
    }

    pub fn over(&self) -> bool {
        self.0.lock().unwrap().over
    }

    /// Registers a compiler's process group; one that starts after the press stops at once.
    pub fn compiler_started(&self, group: i32) {
        let mut state = self.0.lock().unwrap();
        state.compilers.push(group);
        if state.pressed > 0 || state.over {
            signal(-group, libc::SIGKILL);
        }
    }

    /// To be called before the process is waited for, so that its number is still its own.
    pub fn compiler_ended(&self, group: i32) {
        self.0.lock().unwrap().compilers.retain(|other| *other != group);
    }

    /// Registers a session's process group.
    pub fn session_started(&self, group: i32) {
        let mut state = self.0.lock().unwrap();
        state.sessions.push(group);
        if state.over {
            signal(-group, libc::SIGKILL);
        }
    }

    /// As `compiler_ended`.
    pub fn session_ended(&self, group: i32) {
        self.0.lock().unwrap().sessions.retain(|other| *other != group);
    }

    pub fn cell_started(&self, group: i32) {
        let mut state = self.0.lock().unwrap();
        state.running = Some(group);
        // Its first lines may be on the screen, and the button pressed, before this is called.
        match state.pressed {
            0 => {}
            1 => signal(-group, libc::SIGINT),
            _ => signal(-group, libc::SIGKILL),
        }
    }

    pub fn cell_ended(&self) {
        self.0.lock().unwrap().running = None;
    }

    /// Whether a cell runs in the session now. While one is compiled or a crate is added, none does.
    pub fn cell_runs(&self) -> bool {
        self.0.lock().unwrap().running.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};
    use std::time::Duration;

    /// A program in a process group of its own. It ends by itself before anybody loses patience.
    fn program() -> (Child, i32) {
        let child = Command::new("sleep").arg("20").process_group(0).spawn().unwrap();
        let group = child.id() as i32;
        (child, group)
    }

    #[test]
    fn a_press_reaches_a_session_only_while_a_cell_runs_in_it() {
        let interrupts = Interrupts::default();
        let (mut session, group) = program();
        interrupts.session_started(group);
        interrupts.press();
        interrupts.press();
        assert!(!interrupts.cell_runs());
        std::thread::sleep(Duration::from_millis(100));
        assert!(session.try_wait().unwrap().is_none(), "a press between cells ended the session");
        interrupts.begin_cell();
        interrupts.cell_started(group);
        assert!(interrupts.cell_runs());
        interrupts.press();
        interrupts.press();
        assert!(session.wait().unwrap().signal().is_some());
    }

    #[test]
    fn the_end_kills_what_has_started_and_what_starts_after_it_and_nothing_that_has_ended() {
        let interrupts = Interrupts::default();
        let ((mut session, one), (mut compiler, two), (mut gone, three), (mut late, four)) =
            (program(), program(), program(), program());
        interrupts.session_started(one);
        interrupts.compiler_started(two);
        interrupts.session_started(three);
        interrupts.session_ended(three);
        interrupts.end();
        interrupts.session_started(four);
        for program in [&mut session, &mut compiler, &mut late] {
            assert_eq!(program.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert!(gone.try_wait().unwrap().is_none());
        gone.kill().unwrap();
        gone.wait().unwrap();
    }
}
