//! Text out of rows: one field of a JSON-lines or Parquet file.

use std::fs::File;
use std::path::Path;

use polars::prelude::{DataType, ParquetReader, SerReader};
use serde_json::Value;

use crate::DatasetError;

/// The field of every line, one per line; missing values are passed over.
pub(super) fn json_lines(path: &Path, lines: &str, field: &str) -> Result<String, DatasetError> {
    let mut text = String::with_capacity(lines.len());
    for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let found = match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(fields)) => {
                let there: String = match fields.get(field) {
                    Some(Value::String(row)) => {
                        append(&mut text, row);
                        continue;
                    }
                    Some(Value::Null) => continue,
                    Some(Value::Bool(_)) => "a boolean".into(),
                    Some(Value::Number(_)) => "a number".into(),
                    Some(Value::Array(_)) => "a list".into(),
                    Some(Value::Object(_)) => "an object".into(),
                    None => {
                        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                        format!("the fields {}", names.join(", "))
                    }
                };
                format!("{there} in line {}", number + 1)
            }
            Ok(_) => format!("JSON that is no object in line {}", number + 1),
            Err(error) => format!("no JSON in line {} ({error})", number + 1),
        };
        return Err(DatasetError::Field { path: path.to_owned(), field: field.into(), found });
    }
    Ok(text)
}

/// The column of every row, one per line; missing values are passed over.
pub(super) fn parquet(path: &Path, field: &str) -> Result<String, DatasetError> {
    let refuse = |found: String| DatasetError::Field { path: path.to_owned(), field: field.into(), found };
    let damaged = |error: polars::error::PolarsError| refuse(format!("a file that is no complete Parquet ({error})"));
    let file = File::open(path).map_err(DatasetError::io(path))?;
    let mut reader = ParquetReader::new(file);
    let schema = reader.schema().map_err(damaged)?;
    let columns = || schema.iter().map(|(name, field)| format!("{name} ({:?})", field.dtype)).collect::<Vec<_>>();
    if !schema.contains(field) {
        return Err(refuse(format!("the columns {}", columns().join(", "))));
    }
    let frame = reader.with_columns(Some(vec![field.into()])).finish().map_err(damaged)?;
    let column = frame.column(field).map_err(damaged)?;
    // Numbers can be cast as well, and would be trained on as digits.
    let is_text = matches!(column.dtype(), DataType::String | DataType::Categorical(..) | DataType::Enum(..));
    if !is_text {
        return Err(refuse(format!("the column `{field}` of type {:?}, which is no text", column.dtype())));
    }
    let column = column.cast(&DataType::String).map_err(damaged)?;
    let mut text = String::new();
    for row in column.str().map_err(damaged)?.iter().flatten() {
        append(&mut text, row);
    }
    Ok(text)
}

/// A row begins on a line of its own.
fn append(text: &mut String, row: &str) {
    text.push_str(row);
    if !row.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Corpus, CorpusConfig, PathConfig};
    use polars::prelude::{Column, DataFrame, NamedFrom, ParquetCompression, ParquetWriter, Series};
    use std::path::PathBuf;

    fn written(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn table(folder: &tempfile::TempDir, compression: ParquetCompression) -> PathBuf {
        let text = [Some("one two three"), None, Some("four\n"), Some("naïve")];
        let numbers = [1i64, 2, 3, 4];
        rows(folder, vec![Column::new("story".into(), text), Column::new("id".into(), numbers)], compression)
    }

    fn rows(folder: &tempfile::TempDir, columns: Vec<Column>, compression: ParquetCompression) -> PathBuf {
        let path = folder.path().join("rows.parquet");
        let mut frame = DataFrame::new(columns[0].len(), columns).unwrap();
        let writer = ParquetWriter::new(File::create(&path).unwrap()).with_compression(compression);
        writer.finish(&mut frame).unwrap();
        path
    }

    fn all(corpus: &Corpus) -> String {
        format!("{}{}", corpus.train_text(), corpus.validation_text())
    }

    #[test]
    fn json_lines_give_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, "x.jsonl", b"{\"text\": \"one two three\", \"n\": 1}\n\n{\"text\": \"four\"}\n");
        assert_eq!(all(&Corpus::path(path).unwrap()), "one two three\nfour\n");
    }

    #[test]
    fn parquet_gives_its_column_under_every_common_compression() {
        for compression in [
            ParquetCompression::Uncompressed,
            ParquetCompression::Snappy,
            ParquetCompression::Gzip(None),
            ParquetCompression::Zstd(None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = table(&folder, compression);
            let config = PathConfig { field: "story".into(), ..PathConfig::new(path) };
            let corpus = Corpus::open(&CorpusConfig::Path(config)).unwrap();
            assert_eq!(all(&corpus), "one two three\nfour\nnaïve\n", "{compression:?}");
        }
    }

    #[test]
    fn a_missing_field_is_answered_with_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: PathBuf| Corpus::path(path).unwrap_err().to_string();
        let message = refused(written(&folder, "bad.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 3}\n"));
        assert!(message.contains("bad.jsonl") && message.contains("body, id in line 2"), "{message}");
        let message = refused(table(&folder, ParquetCompression::Snappy));
        assert!(message.contains("rows.parquet") && message.contains("`text`"), "{message}");
        assert!(message.contains("story") && message.contains("id"), "{message}");
    }

    #[test]
    fn a_missing_value_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, "x.jsonl", b"{\"text\": \"one\"}\n{\"text\": null}\n{\"text\": \"two three\"}\n");
        assert_eq!(all(&Corpus::path(path).unwrap()), "one\ntwo three\n");
    }

    #[test]
    fn a_field_that_is_no_text_is_answered_with_its_type() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: PathBuf| Corpus::path(path).unwrap_err().to_string();
        for (value, named) in [("7", "a number"), ("true", "a boolean"), ("[\"a\"]", "a list"), ("{}", "an object")] {
            let lines = format!("{{\"text\": \"a\"}}\n{{\"text\": {value}}}\n");
            let message = refused(written(&folder, "x.jsonl", lines.as_bytes()));
            assert!(message.contains(&format!("found {named} in line 2")), "{message}");
        }
        let lists = [Series::new("".into(), [1i64, 2]), Series::new("".into(), [3i64])];
        let columns = vec![Column::new("text".into(), lists)];
        let message = refused(rows(&folder, columns, ParquetCompression::Snappy));
        assert!(message.contains("the column `text` of type List(Int64), which is no text"), "{message}");
        let labels = vec![Column::new("text".into(), [0i64, 1])];
        let message = refused(rows(&folder, labels, ParquetCompression::Snappy));
        assert!(message.contains("the column `text` of type Int64, which is no text"), "{message}");
    }

    #[test]
    fn a_truncated_parquet_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(table(&folder, ParquetCompression::Snappy)).unwrap();
        for part in [0, 4, whole.len() / 2, whole.len() - 1] {
            let message = Corpus::path(written(&folder, "half.parquet", &whole[..part])).unwrap_err().to_string();
            assert!(message.contains("half.parquet"), "{message}");
        }
    }
}
