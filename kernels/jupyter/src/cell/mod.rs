//! From the text of a cell to code that runs: split it, write crates around it, have rustc
//! compile them, run the result.

pub mod add;
pub mod compile;
mod direct;
pub mod engine;
mod exits;
mod export;
pub mod generate;
pub mod items;
mod keep;
mod moves;
pub mod parse;
pub mod report;
pub mod scope;
mod sources;
mod stale;
