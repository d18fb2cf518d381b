//! The stop button, seen from inside: SIGINT sets a flag, loops look at it.

use std::sync::atomic::{AtomicBool, Ordering};

static FLAG: AtomicBool = AtomicBool::new(false);

/// The error a loop ends with after the stop button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Was the stop button pressed since the cell began? Always false outside a notebook.
pub fn interrupted() -> bool {
    FLAG.load(Ordering::Relaxed)
}

/// `check_interrupt()?` in a loop ends it at the stop button. The cell's variables are kept: those that it does not move,
/// and those that it has set again by then, as by `model = step(model);` (not by `model = step(model)?;`, which may leave it
/// unset).
pub fn check_interrupt() -> Result<(), Interrupted> {
    if interrupted() { Err(Interrupted) } else { Ok(()) }
}

pub(crate) fn clear() {
    FLAG.store(false, Ordering::Relaxed);
}

extern "C" fn on_sigint(_: libc::c_int) {
    FLAG.store(true, Ordering::Relaxed);
}

pub(crate) fn install() {
    // SAFETY: the handler only stores to an atomic. SA_RESTART keeps system calls of user code
    // from failing with EINTR because somebody pressed a button.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigint as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
    }
}
