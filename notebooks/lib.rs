//! Nothing: the `[dependencies]` of this package are the crates that a notebook's cells can name.
