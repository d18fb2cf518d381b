//! What a notebook cell needs while it runs, and nothing that needs a dependency.
//!
//! The kernel loads one dylib that holds everything, this crate included, so there is exactly one
//! variable store and one interrupt flag per session. The rest of the project uses [`in_notebook`],
//! [`interrupted`], [`check_interrupt`], [`display`] and its relatives; all of them also work in an
//! ordinary program.

mod interrupt;
mod macros;
mod output;
mod session;
pub mod show;
mod store;
mod time;
#[doc(hidden)]
pub mod wire;

pub use interrupt::{Interrupted, check_interrupt, interrupted};
pub use output::{clear_output, display, display_bundle, display_with_id, eprint, update_display};
pub use session::{at, in_notebook, left_early, run_cell, session_main};
pub use store::{put, take};
pub use time::time_it;

/// What the body of a cell returns, so that `?` works on any error in it.
pub type CellResult = Result<(), Box<dyn std::error::Error>>;
