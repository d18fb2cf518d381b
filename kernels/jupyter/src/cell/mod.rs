//! From the text of a cell to code that runs: split it, write crates around it, have rustc
//! compile them, run the result.

pub mod compile;
pub mod engine;
pub mod generate;
pub mod items;
pub mod parse;
pub mod report;
pub mod scope;
