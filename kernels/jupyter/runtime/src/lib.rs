//! What a notebook cell needs while it runs, and nothing that needs a dependency.
//!
//! The kernel loads one dylib that holds everything, this crate included, so there is exactly one
//! variable store and one interrupt flag per session. The rest of the project uses four functions:
//! [`in_notebook`], [`display`], [`interrupted`] and [`check_interrupt`]; all of them also work in
//! an ordinary program.

mod interrupt;
mod output;
mod session;
pub mod show;
mod store;
#[doc(hidden)]
pub mod wire;

pub use interrupt::{Interrupted, check_interrupt, interrupted};
pub use output::display;
pub use session::{in_notebook, run_cell, session_main};
pub use store::{put, take};

/// What the body of a cell returns, so that `?` works on any error in it.
pub type CellResult = Result<(), Box<dyn std::error::Error>>;
