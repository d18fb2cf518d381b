//! Tables.

use super::{Show, escape, grouped};
use polars::prelude::{AnyValue, Column, DataFrame};
use std::fmt::Write;

/// Rows that are shown; of longer tables the first and the last of them.
const ROWS: usize = 20;

impl Show for DataFrame {
    fn evcxr_display(&self) {
        cell_runtime::display_bundle(&[("text/html", &html(self)), ("text/plain", &self.to_string())]);
    }
}

fn html(frame: &DataFrame) -> String {
    let columns = frame.columns();
    let mut html = String::from("<table><thead><tr>");
    for column in columns {
        let (name, ty) = (escape(column.name()), escape(&column.dtype().to_string()));
        let _ = write!(
            html,
            "<th style=\"text-align:{}\">{name}<br><span style=\"font-weight:normal;opacity:.65\">{ty}</span></th>",
            side(column)
        );
    }
    html += "</tr></thead><tbody>";
    let height = frame.height();
    let (first, last) = if height <= ROWS { (height, height) } else { (ROWS / 2, height - ROWS / 2) };
    for row in (0..first).chain(last..height) {
        if row == last && first < last {
            let _ = write!(html, "<tr><td colspan=\"{}\">⋮</td></tr>", columns.len().max(1));
        }
        html += "<tr>";
        for column in columns {
            let text = match column.get(row) {
                Ok(AnyValue::Null) => "<span style=\"opacity:.5\">null</span>".to_string(),
                Ok(value) => escape(&told(&value)),
                Err(error) => escape(&error.to_string()),
            };
            let _ = write!(html, "<td style=\"text-align:{}\">{text}</td>", side(column));
        }
        html += "</tr>";
    }
    let (rows, columns) = (grouped(height), columns.len());
    html + &format!("</tbody></table><div style=\"opacity:.65\">{rows} × {columns}</div>")
}

fn side(column: &Column) -> &'static str {
    if column.dtype().is_numeric() { "right" } else { "left" }
}

/// Every row as text, in columns. (As text, polars leaves out the rows between the first five and the last five.)
pub(crate) fn whole(frame: &DataFrame) -> String {
    let cells = |column: &Column| -> Vec<String> {
        let cell = |row| match column.get(row) {
            Ok(AnyValue::Null) => "–".to_string(),
            Ok(value) => told(&value),
            Err(error) => error.to_string(),
        };
        std::iter::once(column.name().to_string()).chain((0..frame.height()).map(cell)).collect()
    };
    let columns: Vec<Vec<String>> = frame.columns().iter().map(cells).collect();
    let width = |cells: &Vec<String>| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(width).collect();
    let line = |row: usize| {
        let padded = columns.iter().zip(&widths).map(|(cells, &width)| format!("{:width$}", cells[row]));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    (0..=frame.height()).map(line).collect()
}

/// A value as a person reads it: six digits behind the point are enough.
fn told(value: &AnyValue<'_>) -> String {
    let float = |value: f64| {
        let text = format!("{value:.6}");
        if !value.is_finite() || (value != 0.0 && value.abs() < 1e-4) || value.abs() >= 1e12 {
            return format!("{value:e}");
        }
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match value {
        AnyValue::Float32(value) => float((*value).into()),
        AnyValue::Float64(value) => float(*value),
        AnyValue::String(text) => (*text).to_string(),
        AnyValue::StringOwned(text) => text.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::{Column, df};

    #[test]
    fn names_and_texts_cannot_become_markup() {
        let evil = "<script>alert('1')</script>";
        let frame = DataFrame::new(1, vec![Column::new(evil.into(), [evil])]).unwrap();
        let html = html(&frame);
        assert!(!html.contains("<script") && html.matches("&lt;script&gt;alert(&#39;1&#39;)").count() == 2, "{html}");
    }

    #[test]
    fn a_long_table_shows_both_ends_and_says_how_long_it_is() {
        let numbers: Vec<i64> = (0..1234).collect();
        let html = html(&df!["n" => numbers, "x" => vec![0.5; 1234]].unwrap());
        assert_eq!(html.matches("<tr>").count(), 1 + ROWS + 1);
        assert!(
            html.contains(">9<") && html.contains(">1224<") && !html.contains(">10<") && html.contains('⋮'),
            "{html}"
        );
        assert!(html.contains("1\u{202f}234 × 2") && html.contains(">i64<"));
    }

    #[test]
    fn numbers_are_short_and_what_is_missing_is_said() {
        let told = |value: f64| told(&AnyValue::Float64(value));
        assert_eq!([0.1 + 0.2, 2.0, 1e-9, -0.0, f64::NAN].map(told), ["0.3", "2", "1e-9", "-0", "NaN"]);
        assert!(html(&df!["a" => [Some(1), None]].unwrap()).contains(">null<"));
    }
}
