//! The stop button. One press stops a compilation or asks the running cell to stop; a second
//! press while the cell still runs kills it.

use std::sync::Mutex;

#[derive(Debug, Default)]
pub struct Interrupts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pressed: u32,
    /// Process groups of compilers.
    compilers: Vec<i32>,
    /// The process group of the session: a program that the cell waits for is stopped with it.
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

    /// Registers a compiler's process group; one that starts after the press stops at once.
    pub fn compiler_started(&self, group: i32) {
        let mut state = self.0.lock().unwrap();
        state.compilers.push(group);
        if state.pressed > 0 {
            signal(-group, libc::SIGKILL);
        }
    }

    /// To be called before the process is waited for, so that its number is still its own.
    pub fn compiler_ended(&self, group: i32) {
        self.0.lock().unwrap().compilers.retain(|other| *other != group);
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
}
