//! A Jupyter kernel for the project: cells are compiled by rustc against one dylib that holds
//! everything, and run in a process that keeps their variables.
//!
//! - `install`: builds and links the dylib, writes the kernelspec
//! - `serve`: sockets; `shell`: cells, one after the other; `prompt`: everything that need not wait for
//!   them; `outbox`: all that leaves
//! - `client`: the other side, for the notebook runner and the tests
//! - `assist`: completion and hover
//! - `cell`: from a cell's text to code that runs
//! - `child`, `output`, `memory`: the process that runs cells, what it prints, what it may hold
//! - `directives`: the lines of a cell that are not Rust

mod assist;
mod cell;
mod child;
pub mod client;
mod directives;
mod history;
mod install;
mod interrupts;
mod memory;
mod outbox;
mod output;
mod prompt;
mod scratch;
mod serve;
mod shell;
mod toolkit;

pub use install::{InstallOptions, Installed, install};
pub use serve::serve;
pub use toolkit::Toolkit;

/// Loads the dylib and hands the process over to it; returns only if that fails.
pub fn run_session(dylib: &std::path::Path) -> anyhow::Result<()> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    child::go_together();
    // SAFETY: the dylib is the one `install` linked; its entry has this type.
    unsafe {
        let library = Library::open(Some(dylib), RTLD_NOW | RTLD_GLOBAL)?;
        let main = library.get::<extern "C" fn() -> i32>(b"attention_session_main\0")?;
        std::process::exit(main());
    }
}
