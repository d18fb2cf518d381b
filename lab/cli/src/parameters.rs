//! `-p key=value`: other values in a notebook's cell tagged `parameters`.

use crate::run::source;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::ops::Range;
use syn::spanned::Spanned;

/// `key=value` as given on the command line.
pub fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
            Ok((key.trim().into(), value.trim().into()))
        }
        _ => Err(format!("expected key=value, got `{text}`")),
    }
}

/// Puts the values into the notebook and records them under `metadata.attention.parameters`.
pub fn apply(notebook: &mut Value, values: &[(String, String)]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let cell = notebook["cells"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|cell| {
            let tagged = cell["metadata"]["tags"].as_array().is_some_and(|tags| tags.iter().any(|t| t == "parameters"));
            tagged || source(cell).trim_start().starts_with(MARK)
        })
        .context("-p needs a cell with the tag `parameters` or the first line `%params`, and this notebook has none")?;
    let source = source(cell);
    let (source, written) = replace(&source, values)?;
    cell["source"] = Value::String(source);
    let metadata = &mut notebook["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata["attention"]["parameters"] = Value::Object(written);
    Ok(())
}

/// The kernel's word for the tag, which not every front end lets one set.
const MARK: &str = "%params";

/// The cell with the value of each `let key = …;` or `let key: T = …;` replaced, and nothing else
/// touched; and the values as written. Where a string stood, a bare word becomes one.
fn replace(source: &str, values: &[(String, String)]) -> Result<(String, Map<String, Value>)> {
    let bindings = bindings(source)?;
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut written = Map::new();
    for (key, value) in values {
        let Some(binding) = bindings.iter().find(|binding| binding.name == *key) else {
            let valid: Vec<_> = bindings.iter().map(|binding| binding.name.as_str()).collect();
            bail!("unknown parameter `{key}`; valid: {}", valid.join(", "));
        };
        if written.contains_key(key) {
            bail!("parameter `{key}` is given twice; once is enough");
        }
        let quoted = binding.string && !value.starts_with('"');
        let value = if quoted { format!("{value:?}") } else { value.clone() };
        if let Err(problem) = syn::parse_str::<syn::Expr>(&value) {
            bail!(
                "parameter `{key}`: `{value}` is no Rust value ({problem}); it is now `{}`",
                &source[binding.value.clone()]
            );
        }
        edits.push((binding.value.clone(), value.clone()));
        written.insert(key.clone(), Value::String(value));
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut replaced = source.to_string();
    for (range, value) in edits.into_iter().rev() {
        replaced.replace_range(range, &value);
    }
    Ok((replaced, written))
}

struct Binding {
    name: String,
    /// Bytes of the value in the source.
    value: Range<usize>,
    string: bool,
}

fn bindings(source: &str) -> Result<Vec<Binding>> {
    // A cell is the inside of a block; the brace is one byte.
    let rust = source.replacen(MARK, &" ".repeat(MARK.len()), usize::from(source.trim_start().starts_with(MARK)));
    let block: syn::Block = syn::parse_str(&format!("{{{rust}\n}}"))
        .with_context(|| format!("the cell tagged `parameters` is no Rust:\n{source}"))?;
    let name = |pattern: &syn::Pat| {
        let pattern = if let syn::Pat::Type(typed) = pattern { &typed.pat } else { pattern };
        if let syn::Pat::Ident(ident) = pattern { Some(ident.ident.to_string()) } else { None }
    };
    let local = |statement: &syn::Stmt| {
        let syn::Stmt::Local(local) = statement else { return None };
        let (name, init) = (name(&local.pat)?, local.init.as_ref()?);
        let range = init.expr.span().byte_range();
        let string = matches!(&*init.expr, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(_), .. }));
        Some(Binding { name, value: range.start - 1..range.end - 1, string })
    };
    Ok(block.stmts.iter().filter_map(local).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: &str = "\
// Change these; é is two bytes.
let size = \"nano\"; // a size
let mut steps: usize = 300;
let rates = [1e-3, // first
             2e-3];
println!(\"{steps}\");
let seed = 1;";

    #[test]
    fn a_value_is_replaced_and_nothing_else_is_touched() {
        let values =
            [("steps".to_string(), "20".to_string()), ("rates".into(), "[3e-4]".into()), ("seed".into(), "7".into())];
        let (source, _) = replace(CELL, &values).unwrap();
        assert_eq!(
            source,
            "// Change these; é is two bytes.\nlet size = \"nano\"; // a size\nlet mut steps: usize = 20;\n\
             let rates = [3e-4];\nprintln!(\"{steps}\");\nlet seed = 7;"
        );
    }

    #[test]
    fn a_bare_word_becomes_a_string_where_a_string_stood() {
        for given in ["size=small", "size=\"small\""] {
            let (source, written) = replace(CELL, &[parse(given).unwrap()]).unwrap();
            assert!(source.contains("let size = \"small\"; // a size"), "{source}");
            assert_eq!(written["size"], "\"small\"");
        }
    }

    #[test]
    fn an_unknown_parameter_is_answered_with_the_valid_ones() {
        let message = replace(CELL, &[parse("step=3").unwrap()]).unwrap_err().to_string();
        assert_eq!(message, "unknown parameter `step`; valid: size, steps, rates, seed");
    }

    #[test]
    fn a_value_that_is_no_rust_is_refused() {
        let message = replace(CELL, &[parse("steps=3;drop()").unwrap()]).unwrap_err().to_string();
        assert!(message.contains("steps") && message.contains("3;drop()") && message.contains("300"), "{message}");
        assert!(parse("steps").unwrap_err().contains("key=value"));
    }

    #[test]
    fn the_notebook_records_its_parameters() {
        let mut notebook = json!({"cells": [
            {"cell_type": "code", "metadata": {}, "source": "let steps = 1;"},
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["let steps = 1;\n", "let size = 2;"]},
        ], "metadata": {}});
        apply(&mut notebook, &[parse("steps=5").unwrap()]).unwrap();
        assert_eq!(notebook["cells"][0]["source"], "let steps = 1;");
        assert_eq!(notebook["cells"][1]["source"], "let steps = 5;\nlet size = 2;");
        assert_eq!(notebook["metadata"]["attention"]["parameters"], json!({"steps": "5"}));
        let mut marked = json!({"cells": [{"cell_type": "code", "metadata": {}, "source": "%params\nlet steps = 1;"}]});
        apply(&mut marked, &[parse("steps=5").unwrap()]).unwrap();
        assert_eq!(marked["cells"][0]["source"], "%params\nlet steps = 5;");
        let mut bare = json!({"cells": []});
        assert!(apply(&mut bare, &[parse("a=1").unwrap()]).unwrap_err().to_string().contains("tag `parameters`"));
    }
}
