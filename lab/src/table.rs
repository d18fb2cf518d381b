//! Rows of plain data as a polars `DataFrame`, and frames as Parquet files.

use crate::LabError;
use crate::error::at;
use polars::prelude::{DataFrame, ParquetReader, ParquetWriter, SerReader};
use std::path::Path;

/// A row type that knows its columns.
pub trait Row: Sized {
    fn table(rows: &[Self]) -> DataFrame;
}

/// `rows.frame()` for every list of rows that `lab` returns.
pub trait Frame {
    /// One column per field, one row per element.
    fn frame(&self) -> DataFrame;
}

impl<R: Row> Frame for [R] {
    fn frame(&self) -> DataFrame {
        R::table(self)
    }
}

/// `columns!(rows; "name" => |row| value, …)`.
macro_rules! columns {
    ($rows:expr; $($name:literal => $value:expr),+ $(,)?) => {
        polars::prelude::DataFrame::new(
            $rows.len(),
            vec![$(polars::prelude::Column::new($name.into(), $rows.iter().map($value).collect::<Vec<_>>())),+],
        )
        .expect("every column has one value per row")
    };
}
pub(crate) use columns;

/// Writes a frame as Parquet: complete under another name, then renamed.
///
/// # Errors
/// With the file's name.
pub fn write_parquet(path: &Path, frame: &DataFrame) -> Result<(), LabError> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame.clone()).map_err(at(path))?;
    Ok(zoo::checkpoint::write_atomically(path, &bytes)?)
}

/// Reads a frame from a Parquet file.
///
/// # Errors
/// A missing, truncated or corrupt file, with its name.
pub fn read_parquet(path: &Path) -> Result<DataFrame, LabError> {
    let bytes = std::fs::read(path).map_err(at(path))?;
    ParquetReader::new(std::io::Cursor::new(bytes)).finish().map_err(at(path))
}
