//! The process that holds a notebook's variables: loads each cell and runs it.

use crate::{CellResult, interrupt, show, store, wire};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Result, Write};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The kernel's end of the conversation. Not stdin or stdout: those belong to the user's code.
const KERNEL: i32 = 3;
/// Room for recursive user code; only the pages touched are ever real.
const STACK: usize = 256 << 20;

static IN_NOTEBOOK: AtomicBool = AtomicBool::new(false);

/// Is this code running in a cell of the project's own kernel?
pub fn in_notebook() -> bool {
    IN_NOTEBOOK.load(Ordering::Relaxed)
}

struct Outcome {
    /// `ok`, `returned` (before the cell's end), `error`, `interrupted`, `panic` or `load`.
    kind: &'static str,
    message: String,
    /// `file:line:column` of a panic.
    place: String,
}

thread_local! {
    static OUTCOME: RefCell<Option<Outcome>> = const { RefCell::new(None) };
    static ON_CELL_THREAD: RefCell<bool> = const { RefCell::new(false) };
    static LINE: Cell<u32> = const { Cell::new(0) };
}

/// Runs the session until the kernel closes its end. Called by the kernel's child process.
pub fn session_main() -> i32 {
    IN_NOTEBOOK.store(true, Ordering::Relaxed);
    interrupt::install();
    set_hook(Box::new(on_panic));
    // SAFETY: the kernel opened this descriptor for us; programs started by cells must not get it.
    let kernel = unsafe {
        libc::fcntl(KERNEL, libc::F_SETFD, libc::FD_CLOEXEC);
        File::from_raw_fd(KERNEL)
    };
    std::thread::spawn(flush_now_and_then);
    let cells = std::thread::Builder::new()
        .name("cells".into())
        .stack_size(STACK)
        .spawn(move || serve(kernel))
        .expect("a thread for the cells");
    let _ = cells.join();
    // Destructors of whatever the notebook still holds have nobody to serve any more.
    unsafe { libc::_exit(0) }
}

/// `print!("\r50 %")` without a newline stays in std's buffer; a progress line is to be seen.
fn flush_now_and_then() {
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let _ = std::io::stdout().flush();
    }
}

fn serve(mut kernel: File) {
    ON_CELL_THREAD.with(|on| *on.borrow_mut() = true);
    while let Ok(command) = wire::receive(&mut kernel) {
        let text: Vec<String> = command.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        let answered = match text.as_slice() {
            ["run", library, symbol, nonce] => {
                // The kernel sends SIGINT only after it has read this, so none is lost or stale.
                interrupt::clear();
                wire::send(&mut kernel, &[b"began"]).and_then(|()| {
                    let outcome = load_and_run(library, symbol);
                    end_output(nonce)?;
                    answer(&mut kernel, outcome)
                })
            }
            ["load", library] => match load(library, libc::RTLD_GLOBAL) {
                Ok(_) => answer(&mut kernel, Outcome::ok()),
                Err(message) => answer(&mut kernel, Outcome::not_loaded(message)),
            },
            ["clear"] => {
                store::clear();
                answer(&mut kernel, Outcome::ok())
            }
            _ => break,
        };
        if answered.is_err() {
            break;
        }
    }
}

impl Outcome {
    fn of(kind: &'static str, message: String) -> Self {
        Outcome { kind, message, place: String::new() }
    }

    fn ok() -> Self {
        Self::of("ok", String::new())
    }

    fn not_loaded(message: String) -> Self {
        Self::of("load", message)
    }
}

/// Notes which line of the cell's text comes next. Called by generated code before every statement: a
/// failure deep in a library, or a `?`, knows nothing of the cell.
pub fn at(line: u32) {
    LINE.set(line);
}

fn answer(kernel: &mut File, outcome: Outcome) -> Result<()> {
    let result = show::take_result();
    let shown = if result.is_some() { "shown" } else { "" };
    let result = result.unwrap_or_default();
    let names = store::names();
    let line = LINE.get().to_string();
    let mut fields: Vec<&[u8]> = vec![
        outcome.kind.as_bytes(),
        outcome.message.as_bytes(),
        outcome.place.as_bytes(),
        shown.as_bytes(),
        result.as_bytes(),
        line.as_bytes(),
    ];
    fields.extend(names.iter().map(|name| name.as_bytes()));
    wire::send(kernel, &fields)
}

/// Everything the cell printed is in the pipes before these markers are.
fn end_output(nonce: &str) -> Result<()> {
    let marker = wire::end_marker(nonce);
    let mut out = std::io::stdout().lock();
    out.write_all(&marker)?;
    out.flush()?;
    std::io::stderr().lock().write_all(&marker)
}

/// Opens a library for good: values keep vtables and code of the cell they came from.
fn load(library: &str, scope: libc::c_int) -> std::result::Result<*mut libc::c_void, String> {
    let path = CString::new(library).map_err(|_| format!("a path with a NUL byte: {library}"))?;
    // SAFETY: the library was compiled by the kernel against this very dylib.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | scope);
        if handle.is_null() {
            return Err(CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned());
        }
        Ok(handle)
    }
}

fn load_and_run(library: &str, symbol: &str) -> Outcome {
    let handle = match load(library, libc::RTLD_LOCAL) {
        Ok(handle) => handle,
        Err(message) => return Outcome::not_loaded(message),
    };
    let name = CString::new(symbol).unwrap_or_default();
    // SAFETY: the kernel generates the entry with this type.
    let entry = unsafe {
        let entry = libc::dlsym(handle, name.as_ptr());
        if entry.is_null() {
            return Outcome::not_loaded(format!("no `{symbol}` in {library}"));
        }
        std::mem::transmute::<*mut libc::c_void, extern "C" fn()>(entry)
    };
    show::take_result();
    OUTCOME.with(|outcome| outcome.borrow_mut().take());
    at(0);
    entry();
    OUTCOME.with(|outcome| outcome.borrow_mut().take()).unwrap_or(Outcome::ok())
}

/// Runs a cell's body; a panic or an error becomes the cell's outcome. Called by generated code.
///
/// Only this wrapper is compiled into each cell; what it wraps is compiled once.
pub fn run_cell(body: impl FnOnce() -> CellResult) -> bool {
    let mut body = Some(body);
    run_guarded(&mut || body.take().map_or(Ok(()), |body| body()))
}

fn run_guarded(body: &mut dyn FnMut() -> CellResult) -> bool {
    let outcome = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            // A panic the user's code caught itself is not the cell's.
            OUTCOME.with(|outcome| outcome.borrow_mut().take());
            return true;
        }
        Ok(Err(error)) => {
            let kind = if crate::interrupted() { "interrupted" } else { "error" };
            Outcome::of(kind, chain(error.as_ref()))
        }
        Err(payload) => unwound(payload.as_ref()),
    };
    show::take_result();
    OUTCOME.with(|slot| *slot.borrow_mut() = Some(outcome));
    false
}

/// Notes that a cell's body has come back without an error and before its end. Called by generated code.
pub fn left_early() {
    OUTCOME.with(|slot| {
        slot.borrow_mut().get_or_insert_with(|| Outcome::of("returned", String::new()));
    });
}

const NO_MESSAGE: &str = "a panic without a message";

/// What the hook has left, if that was this panic: `resume_unwind`, by which a panic of another thread comes here, skips
/// the hook, and a panic that the cell has caught may have left its own.
fn unwound(payload: &(dyn Any + Send)) -> Outcome {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let left = OUTCOME.with(|outcome| outcome.borrow_mut().take());
    let own = left.filter(|left| left.message == text.unwrap_or(NO_MESSAGE));
    own.unwrap_or_else(|| Outcome::of("panic", text.unwrap_or("the cell unwound").into()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their source in their own message.
        if !text.contains(&cause_text) {
            text.push_str("\ncaused by: ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or(NO_MESSAGE).to_string();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    if ON_CELL_THREAD.with(|on| *on.borrow()) {
        OUTCOME.with(|slot| {
            *slot.borrow_mut() = Some(Outcome { kind: "panic", message, place });
        });
    } else {
        let thread = std::thread::current();
        crate::eprintln!("thread '{}' panicked at {place}: {message}", thread.name().unwrap_or("?"));
    }
}
