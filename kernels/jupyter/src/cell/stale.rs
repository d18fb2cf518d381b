//! What still means an old version of a name that has been redefined, said where it makes an error.

use super::parse::Cell;
use super::report::CellError;
use super::scope::{Scope, number, words};

/// Adds a note for each variable, item and method of the cell that belongs to an old version.
pub fn explain(mut error: CellError, scope: &Scope, cell: &Cell) -> CellError {
    let mentioned = words(&cell.source);
    let mut note = |text: String| error.traceback.push(format!("\x1b[1mnote\x1b[0m: {text}"));
    let current = scope.current_crates();
    for (name, variable) in scope.variables.iter().filter(|(name, _)| mentioned.contains(name.as_str())) {
        let old = |krate: &&String| variable.ty.contains(&format!("{krate}::")) && is_old(scope, krate, &variable.ty);
        if scope.crates.keys().any(|krate| old(&krate)) {
            note(format!(
                "`{name}` was made before its type was redefined and still has the old one ({}). Run the cell \
                 that makes it again.",
                variable.ty
            ));
        }
    }
    for krate in &current {
        for item in &scope.crates[*krate] {
            let Some(name) = item.part.names.iter().find(|name| scope.crate_of(name) == Some(krate)) else { continue };
            let newer = |word: &&&str| {
                **word != name.as_str() && scope.crate_of(word).is_some_and(|k| number(k) > number(krate))
            };
            if let (true, Some(word)) = (mentioned.contains(name.as_str()), words(&item.text).iter().find(newer)) {
                note(format!(
                    "`{name}` was defined before `{word}` was redefined and still means the old one. Run its cell again."
                ));
            }
        }
    }
    for (krate, items) in &scope.crates {
        for item in items {
            let Some(ty) = item.part.about.first() else { continue };
            let redefined = scope.crate_of(ty).is_some_and(|now| now != krate && number(now) > number(krate));
            let method = item.part.members.iter().find(|member| mentioned.contains(member.as_str()));
            if let (true, Some(method)) = (redefined && !defines(scope, ty, method_of(&method)), method) {
                note(format!("`{method}` belongs to `{ty}` as it was before. Run the cell with its `impl` again."));
            }
        }
    }
    error.traceback.dedup();
    error
}

fn method_of<'a>(method: &Option<&'a String>) -> &'a str {
    method.map_or("", String::as_str)
}

/// Whether the type's present version has the method.
fn defines(scope: &Scope, ty: &str, method: &str) -> bool {
    let items = scope.crate_of(ty).and_then(|krate| scope.crates.get(krate));
    items.into_iter().flatten().any(|item| {
        item.part.about.first().is_some_and(|about| about == ty) && item.part.members.iter().any(|m| m == method)
    })
}

/// Whether a type written as `krate::Name` is no longer what `Name` means.
fn is_old(scope: &Scope, krate: &str, ty: &str) -> bool {
    let start = format!("{krate}::");
    ty.match_indices(&start).any(|(at, _)| {
        let name: String = ty[at + start.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        scope.crate_of(&name) != Some(krate)
    })
}
