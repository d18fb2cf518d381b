//! `%export`: what a notebook has defined, as a module for a crate that depends on `attention`.

use super::scope::{Binding, Scope, number};

/// Imports, macros and the newest version of every item, in the order of their cells.
pub fn module(scope: &Scope) -> String {
    let mut text = String::from("//! Exported from a notebook.\n");
    for name in &scope.deps {
        text += &format!("//! Needs the crate `{name}` beside `attention`.\n");
    }
    text += "#![allow(unused_imports)]\n\n";
    // Derives of burn write `burn::…`.
    if !scope.names.contains_key("burn") {
        text += "use attention::burn;\n";
    }
    for import in scope.names.values() {
        if let Binding::Import(import) = import {
            text += &format!("{import}\n");
        }
    }
    for glob in &scope.globs {
        text += &format!("{glob}\n");
    }
    for (_, definition) in &scope.macros {
        text += &format!("\n{definition}\n");
    }
    let mut crates: Vec<_> = scope.crates.iter().collect();
    crates.sort_by_key(|(name, _)| number(name));
    for (krate, items) in crates {
        for item in items.iter().filter(|item| scope.is_current(krate, &item.part)) {
            text += &format!("\n{}\n", item.text);
        }
    }
    text
}
