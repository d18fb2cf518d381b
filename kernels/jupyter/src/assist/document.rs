//! What a cell sees, as one file of Rust for a rust-analyzer: macros, imports, items by the crate they became, and a
//! function in which the variables are bound and the cell's text stands.

use crate::cell::parse::without_directives;
use crate::cell::scope::{KeptItem, Own, Scope};
use std::fmt::Write;

#[derive(Debug, Clone)]
pub struct Document {
    pub text: String,
    /// Where it is asked, from 0, the column in bytes.
    pub line: usize,
    pub column: usize,
}

impl Document {
    /// `cursor` counts characters of `code`.
    pub fn new(scope: &Scope, code: &[char], cursor: usize) -> Self {
        let mut text = String::from("use ::attention::cell_runtime::{dbg, eprint, eprintln};\n");
        for (_, own) in &scope.macros {
            text.push_str(own);
            text.push('\n');
        }
        text.push_str(&scope.imports(&Own::default()));
        for (krate, items) in seen(scope) {
            let items: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
            let _ = writeln!(text, "pub mod {krate} {{\nuse super::*;\n{}\n}}", items.join("\n"));
        }
        text.push_str("fn __cell() -> ::attention::cell_runtime::CellResult {\n");
        for (name, variable) in &scope.variables {
            let mutable = if variable.mutable { "mut " } else { "" };
            let _ = writeln!(text, "let {mutable}{name}: {} = ::attention::cell_runtime::take({name:?});", variable.ty);
        }
        let (_, cell) = without_directives(&code.iter().collect::<String>());
        let offset = text.len() + code[..cursor].iter().map(|c| c.len_utf8()).sum::<usize>();
        // The end of an expression that is still being written.
        let _ = writeln!(text, "{cell}\n;\n}}");
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Document { line: before.matches('\n').count(), column: offset - line_start, text }
    }
}

/// The crates that names and the types of variables lead to.
fn seen(scope: &Scope) -> impl Iterator<Item = (&String, &Vec<KeptItem>)> {
    let current = scope.current_crates();
    let held = |krate: &str| scope.variables.values().any(|variable| variable.ty.contains(&format!("{krate}::")));
    scope.crates.iter().filter(move |(krate, _)| current.contains(krate.as_str()) || held(krate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::parse::parse;
    use crate::cell::scope::Variable;

    #[test]
    fn the_cursor_is_where_it_was_in_the_cell() {
        let mut scope = Scope::default();
        scope.variables.insert("x".into(), Variable { ty: "cell_1::Own".into(), mutable: true });
        let cell = parse("struct Own { wide: f32 }").unwrap();
        let item = KeptItem { part: cell.items[0].clone(), text: "pub struct Own { pub wide: f32 }".into() };
        scope.define_crate("cell_1", vec![item]);
        let code: Vec<char> = "%vars\n  é(x.wi, y)".chars().collect();
        let document = Document::new(&scope, &code, "%vars\n  é(x.wi".chars().count());
        let line = document.text.lines().nth(document.line).unwrap();
        assert_eq!(&line[..document.column], "  é(x.wi", "{}", document.text);
        assert!(!document.text.contains('%'), "{}", document.text);
        for part in ["pub mod cell_1 {", "use cell_1::Own;", "let mut x: cell_1::Own ="] {
            assert!(document.text.contains(part), "{part} in {}", document.text);
        }
        let file = document.text.replace("é(x.wi, y)", "x.wide");
        assert!(syn::parse_file(&file).is_ok(), "{file}");
    }
}
