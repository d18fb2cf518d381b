//! Which variables a cell leaves for later ones: their types, and why some cannot be kept.

use super::compile::{Diagnostic, Kind};
use super::engine::Engine;
use super::generate::{self, Run, Source, old};
use super::parse::Cell;
use super::report::CellError;
use super::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    /// Asks rustc for the types of the new variables.
    pub(super) fn types(
        &mut self,
        scope: &Scope,
        cell: &Cell,
        externs: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, String>, CellError> {
        let mut types = BTreeMap::new();
        if cell.bound.is_empty() {
            return Ok(types);
        }
        let run = Run { moved: &BTreeSet::new(), since: &BTreeMap::new(), reveal: true };
        let source = generate::statements(scope, cell, &run);
        let compiled = self.compile(&source, Kind::Check, externs)?;
        for error in &compiled.errors {
            let found = error.message.strip_prefix("TYPE[").and_then(|t| t.strip_suffix(']'));
            let line = error.primary().map(|span| span.line_start);
            if let (Some(ty), Some(name)) = (found, line.and_then(|line| source.puts.get(&line))) {
                types.insert(name.clone(), ty.to_string());
            }
        }
        for ty in types.values_mut() {
            *ty = owned_lifetimes(ty);
        }
        Ok(types)
    }

    /// Closures and borrows cannot wait for a later cell; says so by the variable's name.
    pub(super) fn unkeepable(
        &self,
        cell: &Cell,
        types: &BTreeMap<String, String>,
        errors: Option<&[Diagnostic]>,
        source: &Source,
    ) -> Result<(), CellError> {
        let borrowed = errors.map(|errors| borrowing_puts(errors, source)).unwrap_or_default();
        for bound in &cell.bound {
            let name = &bound.name;
            let Some(ty) = types.get(name) else {
                if errors.is_none() {
                    let say = format!("the type of `{name}` cannot be found out; write `let {name}: … =`");
                    return Err(CellError::new("CompileError", say));
                }
                continue;
            };
            let (what, instead) = if ty.contains("{closure") || ty.contains("{async") {
                ("a closure, whose type has no name", "write a `fn`, or `Box<dyn Fn(…) -> …>` as its type")
            } else if ty.contains('{') || ty.contains("impl ") || is_local(ty) {
                ("of a type that only this cell can name", "box it as a `dyn` trait, or define the type as an item")
            } else if borrowed.contains(name) && ty.contains(['\'', '&']) {
                (
                    "a borrow of something that ends with the cell",
                    "keep an owned value (`.clone()`, `.to_vec()`, `.collect()`)",
                )
            } else {
                continue;
            };
            let say = format!("`{name}` cannot be kept for later cells: it is {what}");
            let help =
                format!("Either {instead}, or put the statements into a block `{{ … }}` so that `{name}` ends there.");
            return Err(CellError::new("CompileError", say).note(&help));
        }
        Ok(())
    }
}

/// Whether a type is of the crate `cell`, which the statements are; `std::cell` is another.
fn is_local(ty: &str) -> bool {
    let inside = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    ty.match_indices("cell::").any(|(at, _)| !inside(&ty[..at]))
}

/// Variables whose put-back rustc refuses because the cell has moved them or left them unset.
pub(super) fn moved_by(errors: &[Diagnostic], source: &Source) -> BTreeSet<String> {
    let ours = errors.iter().filter(|e| e.has_code("E0382") || e.has_code("E0381"));
    ours.filter_map(|error| error.primary()).filter_map(|span| source.puts.get(&span.line_start).cloned()).collect()
}

/// On which line of the cell it moves a variable first, where rustc says so of one that could not be put back behind the
/// closure.
pub(super) fn first_moves(errors: &[Diagnostic], source: &Source) -> BTreeMap<String, usize> {
    let ours = errors.iter().filter(|error| error.has_code("E0382"));
    let moves = ours.filter_map(|error| {
        let put = source.puts.get(&error.primary()?.line_start)?;
        let name = put.strip_prefix(&old(""))?.to_string();
        let lines = error.spans.iter().filter_map(|span| source.user_line(span.line_start));
        Some((name, lines.min()?))
    });
    moves.collect()
}

/// New variables that hold borrows: the borrow checker names their put.
fn borrowing_puts(errors: &[Diagnostic], source: &Source) -> BTreeSet<String> {
    let codes = ["E0597", "E0505", "E0716", "E0521", "E0506", "E0499", "E0502", "E0373", "E0515", "E0310"];
    errors
        .iter()
        .filter(|error| codes.iter().any(|code| error.has_code(code)))
        .flat_map(|error| &error.spans)
        .filter_map(|span| source.puts.get(&span.line_start))
        .map(|name| name.strip_prefix(&old("")).unwrap_or(name).to_string())
        .collect()
}

/// A variable that outlives its cell holds only `'static` borrows; rustc leaves that out.
fn owned_lifetimes(ty: &str) -> String {
    let mut out = String::with_capacity(ty.len() + 8);
    // Literals nobody constrained; this is what the compilation proper makes of them.
    let mut rest = ty.replace("{integer}", "i32").replace("{float}", "f64").replace("'_", "'static");
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..=at]);
        let after = rest[at + 1..].to_string();
        if !after.trim_start().starts_with('\'') {
            out.push_str("'static ");
        }
        rest = after;
    }
    out + &rest
}
