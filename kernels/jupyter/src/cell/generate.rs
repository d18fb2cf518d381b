//! Writes the crates that rustc compiles for a cell, and remembers which of their lines are the
//! user's.

use super::exits::Exits;
use super::parse::Cell;
use super::scope::{KeptItem, Own, Scope, rooted};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The entry of every cell; the loader looks it up in the one library it has just opened.
pub const ENTRY: &str = "attention_cell";

/// How the last expression of a cell is shown, decided by method lookup in one compilation: the cell
/// calls `(&value).evcxr_display()`, and lookup tries `T::evcxr_display(&self)` first (the type's own
/// method, or any trait's, as evcxr has it), then what is said here for every type, by which the cell
/// hands the value on to the library (`attention::show`).
///
/// Part of every cell and not of the library, where rustc would offer these traits for import to a
/// cell of evcxr, which then takes its own fallback to `Debug` for failed.
const SHOW: &str = "\
use ::attention::show::{ByDebug as _, ByModule as _, ByName as _, ByShow as _};
trait __ShowUnit { fn evcxr_display(&self); }
impl __ShowUnit for () { fn evcxr_display(&self) {} }
trait __ShowOther { fn evcxr_display(&self) -> ::attention::show::Other; }
impl<T> __ShowOther for &T { fn evcxr_display(&self) -> ::attention::show::Other { ::attention::show::Other } }";

/// Around the statements of a `%timeit`. What a device still computes belongs to the time.
const TIME_IT: &str = "\
let __device = ::attention::device();
::attention::cell_runtime::time_it(&mut || -> ::attention::cell_runtime::CellResult {";
const TIME_IT_END: &str = "\
::std::result::Result::Ok(())
}, &mut || if let Ok(device) = &__device { let _ = device.sync(); })?;";

/// A generated source file.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub text: String,
    /// For each line of `text` the line of the cell it came from.
    pub lines: Vec<Option<usize>>,
    /// Generated lines that put a variable back, by (1-based) line number.
    pub puts: BTreeMap<usize, String>,
}

impl Source {
    pub fn generated(&mut self, text: &str) {
        for line in text.lines() {
            self.text.push_str(line);
            self.text.push('\n');
            self.lines.push(None);
        }
    }

    /// A piece of the user's text, at its own columns.
    fn user(&mut self, source: &str, range: &Range<usize>, publish: &[Range<usize>]) {
        self.in_place_of(source, range, &published(source, range, publish));
    }

    /// What a piece of the user's text has become, at that one's columns.
    fn in_place_of(&mut self, source: &str, range: &Range<usize>, text: &str) {
        let line_start = source[..range.start].rfind('\n').map_or(0, |at| at + 1);
        let first = source[..range.start].matches('\n').count() + 1;
        let indent: String =
            source[line_start..range.start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let text = indent + text;
        for (index, line) in text.lines().enumerate() {
            self.text.push_str(line);
            self.text.push('\n');
            self.lines.push(Some(first + index));
        }
    }

    fn at(&mut self, source: &str, range: &Range<usize>) {
        let line = source[..range.start].matches('\n').count() + 1;
        self.generated(&format!("::attention::cell_runtime::at({line});"));
    }

    /// Puts a variable back; `key` says where, in the words of [`Run::moved`].
    pub fn put(&mut self, key: &str, name: &str, condition: &str) {
        self.generated(&format!("{condition} ::attention::cell_runtime::put(\"{name}\", {name});"));
        self.puts.insert(self.lines.len(), key.to_string());
    }

    /// The cell's line for a generated line (both 1-based).
    pub fn user_line(&self, line: usize) -> Option<usize> {
        self.lines.get(line.checked_sub(1)?).copied().flatten()
    }
}

/// The text of an item with `pub` where it had no visibility, or a narrower one.
pub fn published(source: &str, range: &Range<usize>, publish: &[Range<usize>]) -> String {
    replaced(source, range, publish, |place| if place.is_empty() { "pub " } else { "pub" })
}

/// A piece of the user's text with other words at these places in it.
pub fn replaced<'a>(
    source: &str,
    range: &Range<usize>,
    places: &[Range<usize>],
    by: impl Fn(&Range<usize>) -> &'a str,
) -> String {
    let mut text = String::new();
    let mut at = range.start;
    let mut places = places.to_vec();
    places.sort_unstable_by_key(|place| place.start);
    for place in places {
        text.push_str(&source[at..place.start]);
        text.push_str(by(&place));
        at = place.end;
    }
    text + &source[at..range.end]
}

/// Macros and imports, less the names that the crate has itself.
fn head(scope: &Scope, cell: &Cell, own: Own) -> Source {
    let mut out = Source::default();
    out.generated("use ::attention::cell_runtime::{dbg, eprint, eprintln};");
    for (name, text) in &scope.macros {
        if !cell.macros.iter().any(|(own, _)| own == name) {
            out.generated(text);
        }
    }
    for (_, range) in &cell.macros {
        out.user(&cell.source, range, &[]);
    }
    let Own { mut names, roots } = own;
    names.extend(cell.uses.iter().flat_map(|(_, imports)| imports).filter_map(|i| i.name.clone()));
    let own = Own { names, roots };
    out.generated(&scope.imports(&own));
    for (range, _) in &cell.uses {
        out.in_place_of(&cell.source, range, &rooted(&cell.source[range.clone()], &own.roots));
    }
    out
}

/// The crate of a cell's items, together with the older ones that must share their crate.
pub fn items(scope: &Scope, cell: &Cell, older: &[KeptItem]) -> Source {
    let mut out = head(scope, cell, Own::of(cell.items.iter().chain(older.iter().map(|item| &item.part))));
    for item in older {
        out.generated(&item.text);
    }
    for item in &cell.items {
        out.user(&cell.source, &item.range, &item.publish);
    }
    out
}

/// Only the imports and macros of a cell, to see whether they are right.
pub fn imports(scope: &Scope, cell: &Cell) -> Source {
    head(scope, cell, Own::default())
}

/// The text as it stands, inside a function, for rustc to say what is wrong with it.
pub fn verbatim(source: &str) -> Source {
    let mut out = Source::default();
    out.generated("fn cell() {");
    out.user(source, &(0..source.len()), &[]);
    out.generated("}");
    out
}

/// What statements need to know beyond the cell's text.
pub struct Run<'a> {
    /// Variables not to put back, because the cell moves them or leaves them unset.
    pub moved: &'a BTreeSet<String>,
    /// The line of the cell on which each is moved first, as far as that is known.
    pub since: &'a BTreeMap<String, usize>,
    /// Ask for types instead of running: every new variable is passed to `reveal`.
    pub reveal: bool,
}

pub fn statements(scope: &Scope, cell: &Cell, run: &Run<'_>) -> Source {
    let mut out = head(scope, cell, Own::default());
    if run.reveal {
        out.generated(
            "#[diagnostic::on_unimplemented(message = \"TYPE[{Self}]\")]\n\
             trait __Reveal {}\n\
             fn __reveal<T: __Reveal>(_: &T) {}",
        );
    }
    if cell.last.is_some() && !cell.timed {
        out.generated(SHOW);
    }
    out.generated(&format!("#[unsafe(no_mangle)]\npub extern \"C\" fn {ENTRY}() {{"));
    let used: Vec<_> = scope.variables.iter().filter(|(name, _)| cell.mentioned.contains(*name)).collect();
    for (name, variable) in &used {
        let mutable = if variable.mutable { "mut " } else { "" };
        out.generated(&format!("let {mutable}{name}: {} = ::attention::cell_runtime::take(\"{name}\");", variable.ty));
    }
    // An error, a panic and an early `return` end the cell before its end.
    out.generated("let mut __ended = false;");
    out.generated("::attention::cell_runtime::run_cell(|| -> ::attention::cell_runtime::CellResult {");
    let inside: Vec<_> =
        used.iter().map(|(name, _)| *name).filter(|name| run.moved.contains(&old(name)) && !run.reveal).collect();
    let exits = Exits::new(cell, run, &inside);
    if !exits.is_empty() {
        exits.open(&mut out);
    }
    if cell.timed {
        out.generated(TIME_IT);
    }
    for (number, range) in cell.statements.iter().chain(&cell.last).enumerate() {
        exits.pass(&mut out, number);
        out.at(&cell.source, range);
        if number < cell.statements.len() {
            out.in_place_of(&cell.source, range, &exits.text(cell, range, number));
        }
    }
    let last = cell.last.as_ref().map(|range| (range, exits.text(cell, range, cell.statements.len())));
    if cell.timed {
        if let Some((range, text)) = last {
            out.generated("::std::hint::black_box(");
            out.in_place_of(&cell.source, range, &text);
            out.generated(");");
        }
        out.generated(TIME_IT_END);
    } else if let Some((range, text)) = last {
        out.generated("match &(");
        out.in_place_of(&cell.source, range, &text);
        out.generated(
            ") { __value => { let __own = (&*__value).evcxr_display(); \
             (&&&&::attention::show::Value(&*__value, __own)).finish() } }",
        );
    }
    for bound in &cell.bound {
        if run.reveal {
            out.generated(&format!("__reveal(&{});", bound.name));
            out.puts.insert(out.lines.len(), bound.name.clone());
        } else if !run.moved.contains(&bound.name) {
            out.put(&bound.name, &bound.name, "");
        }
    }
    let redefined = |name: &str| cell.bound.iter().any(|bound| bound.name == name);
    // Moved and perhaps set again (`x = f(x)`): then the value lives in the closure, and only its end can tell whether
    // there is one to keep.
    for name in inside.iter().filter(|name| !run.moved.contains(&again(name)) && !redefined(name)) {
        out.put(&again(name), name, "");
    }
    out.generated("__ended = true;");
    match exits.is_empty() {
        true => out.generated("::std::result::Result::Ok(())"),
        false => exits.close(&mut out),
    }
    out.generated("});");
    for (name, _) in &used {
        // An old variable the cell redefines comes back only if the cell did not get that far.
        let redefined = redefined(name);
        let gone = run.moved.contains(&old(name)) || run.reveal;
        if !gone {
            let condition = if redefined { "if !__ended { " } else { "{ " };
            out.put(&old(name), name, condition);
            out.generated("}");
        }
    }
    out.generated("if !__ended { ::attention::cell_runtime::left_early(); }\n}");
    out
}

/// How `moved` names a variable that the cell moves and does not set again.
pub fn again(name: &str) -> String {
    format!("again {name}")
}

/// How it names one that the cell is not to put back from wherever it is left.
pub fn late(name: &str) -> String {
    format!("late {name}")
}

/// How it names one that the cell is not to put back even where it is left before the first move.
pub fn early(name: &str) -> String {
    format!("early {name}")
}

/// How `moved` names the variable a cell began with, as opposed to a new one of the same name.
pub fn old(name: &str) -> String {
    format!("old {name}")
}
