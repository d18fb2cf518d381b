//! A notebook as one HTML page: no script of its own, nothing fetched, dark and light, made to be printed.
//!
//! - `prose`: markdown, with its pictures inside and its mathematics as MathML
//! - `code`: Rust with its kinds of words marked
//! - `terminal`: printed text with its colours

mod code;
mod prose;
mod terminal;

use super::document::{source, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lab::show::escape;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// What is shown of an output that comes in several types, best first; as JupyterLab has it.
const TYPES: [&str; 7] =
    ["text/html", "text/markdown", "text/latex", "image/svg+xml", "image/png", "image/jpeg", "text/plain"];

/// The page. Pictures that the prose names are looked for in `folder`.
pub fn page(notebook: &Value, folder: &Path, title: &str) -> String {
    let rust = notebook["metadata"]["language_info"]["name"].as_str().is_none_or(|name| name == "rust");
    let mut body = String::new();
    for cell in notebook["cells"].as_array().into_iter().flatten() {
        let source = source(cell);
        match cell["cell_type"].as_str() {
            Some("markdown") => body += &section("prose", "", &prose::html(&source, folder, &cell["attachments"])),
            Some("code") if !source.trim().is_empty() => body += &code_cell(cell, &source, rust),
            Some("raw") => body += &section("raw", "", &format!("<pre>{}</pre>", escape(&source))),
            _ => {}
        }
    }
    let title = escape(title);
    let style = include_str!("page.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn section(class: &str, label: &str, content: &str) -> String {
    format!("<section class=\"{class}\" data-label=\"{label}\">\n{content}</section>\n")
}

fn code_cell(cell: &Value, source: &str, rust: bool) -> String {
    let count = cell["execution_count"].as_u64().map_or(" ".to_string(), |count| count.to_string());
    let code = if rust { code::html(source) } else { escape(source) };
    let mut html = section("code", &format!("[{count}]"), &format!("<pre>{code}</pre>\n"));
    let outputs = cell["outputs"].as_array().into_iter().flatten();
    let shown: String = outputs.map(output).collect();
    if !shown.is_empty() {
        html += &section("outputs", "", &shown);
    }
    html
}

fn output(output: &Value) -> String {
    match output["output_type"].as_str() {
        Some("stream") => {
            let class = if output["name"] == "stderr" { "stream stderr" } else { "stream" };
            format!("<pre class=\"{class}\">{}</pre>\n", terminal::html(&text(&output["text"])))
        }
        Some("error") => {
            let lines: Vec<&str> =
                output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!("<pre class=\"error\">{}</pre>\n", terminal::html(&lines.join("\n")))
        }
        _ => TYPES.iter().find_map(|mime| Some(shown(mime, output["data"].get(mime)?))).unwrap_or_default(),
    }
}

fn shown(mime: &str, content: &Value) -> String {
    let content = text(content);
    match mime {
        "text/html" => format!("<div class=\"html\">{content}</div>\n"),
        "text/markdown" => {
            format!("<div class=\"prose\">{}</div>\n", prose::html(&content, Path::new(""), &Value::Null))
        }
        "text/latex" => format!("<div>{}</div>\n", prose::latex(content.trim_matches(['$', '\n', ' ']), true)),
        // As an image and not inline: then its names and styles are its own, and a script in it does not run.
        "image/svg+xml" => picture(mime, &BASE64.encode(content)),
        "image/png" | "image/jpeg" => picture(mime, content.split_whitespace().collect::<String>().as_str()),
        _ => format!("<pre>{}</pre>\n", terminal::html(&content)),
    }
}

fn picture(mime: &str, base64: &str) -> String {
    format!("<figure><img alt=\"\" src=\"data:{mime};base64,{base64}\"></figure>\n")
}

/// `text` with a class, escaped.
fn marked(html: &mut String, class: &str, text: &str) {
    let _ = match class {
        "" => write!(html, "{}", escape(text)),
        _ => write!(html, "<span class=\"{class}\">{}</span>", escape(text)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_a_cell_prints_can_become_markup() {
        let evil = "<script>alert(1)</script>\"'";
        let notebook = json!({"metadata": {}, "cells": [
            {"cell_type": "code", "execution_count": 1, "source": format!("// {evil}\nlet a = \"{evil}\";"), "outputs": [
                {"output_type": "stream", "name": "stdout", "text": [evil]},
                {"output_type": "error", "ename": evil, "evalue": evil, "traceback": [evil]},
                {"output_type": "execute_result", "data": {"text/plain": [evil]}},
                {"output_type": "display_data", "data": {"image/svg+xml": [evil], "text/plain": [evil]}},
            ]},
            {"cell_type": "raw", "source": evil},
        ]});
        let page = page(&notebook, Path::new("."), evil);
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("alert(1)").count(), 7, "all the same it is all there, but for the picture: {page}");
    }

    #[test]
    fn of_several_types_the_richest_is_shown_and_only_that() {
        let notebook = json!({"cells": [{"cell_type": "code", "source": "a", "outputs": [
            {"output_type": "display_data", "data": {"text/plain": "plain", "text/html": "<b>rich</b>"}},
        ]}]});
        let page = page(&notebook, Path::new("."), "");
        assert!(page.contains("<b>rich</b>") && !page.contains("plain</pre>"), "{page}");
    }

    #[test]
    fn the_page_fetches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.svg"), "<svg/>").unwrap();
        let source = "![a](a.svg) ![b](attachment:b.png) $x^2$";
        let notebook = json!({"cells": [
            {"cell_type": "markdown", "source": source, "attachments": {"b.png": {"image/png": "QUJD"}}},
        ]});
        let page = page(&notebook, folder.path(), "");
        assert!(page.contains("data:image/svg+xml;base64,PHN2Zy8+") && page.contains("data:image/png;base64,QUJD"));
        assert!(page.contains("<msup>"), "{page}");
        assert!(["<link", "src=\"http", "url(", "@import", "<script"].iter().all(|way| !page.contains(way)), "{page}");
    }
}
