//! A Jupyter kernel for the project: cells are compiled by rustc against one dylib that holds
//! everything, and run in a process that keeps their variables.
//!
//! - `install`: builds and links the dylib, writes the kernelspec
//! - `serve`: sockets; `shell`: requests; `outbox`: everything that leaves
//! - `client`: the other side, for the notebook runner and the tests
//! - `cell`: from a cell's text to code that runs
//! - `child`, `output`: the process that runs cells, and what it prints

mod cell;
mod child;
pub mod client;
mod directives;
mod install;
mod interrupts;
mod outbox;
mod output;
mod scratch;
mod serve;
mod shell;
mod toolkit;

pub use install::{InstallOptions, Installed, install};
pub use serve::serve;

/// Loads the dylib and hands the process over to it; returns only if that fails.
pub fn run_session(dylib: &std::path::Path) -> anyhow::Result<()> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the dylib is the one `install` linked; its entry has this type.
    unsafe {
        let library = Library::open(Some(dylib), RTLD_NOW | RTLD_GLOBAL)?;
        let main = library.get::<extern "C" fn() -> i32>(b"attention_session_main\0")?;
        std::process::exit(main());
    }
}
