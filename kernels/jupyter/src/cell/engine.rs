//! Executes one cell: split, compile, run, and keep what it leaves behind.

use super::compile::{Compiled, Compiler, Diagnostic, Kind};
use super::generate::{self, ENTRY, Run, Source, old};
use super::parse::{self, Cell};
use super::report::{CellError, compile_error};
use super::scope::{KeptItem, Scope, Variable, merged, to_merge};
use crate::child::{Answer, Session, Sink, obituary};
use crate::directives;
use crate::interrupts::Interrupts;
use crate::toolkit::Toolkit;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub struct Engine {
    toolkit: Toolkit,
    folder: PathBuf,
    pub scope: Scope,
    pub interrupts: Arc<Interrupts>,
    session: Session,
    /// Libraries of item crates, in the order in which a new session must load them.
    libraries: Vec<PathBuf>,
    sink: Sink,
    /// Counts generated crates; a cell that is run again gets a new number.
    crates: usize,
    /// Line maps of everything that may panic later.
    sources: BTreeMap<String, (usize, Source)>,
}

/// What a successful cell shows as its result.
#[derive(Debug, Default)]
pub struct Shown(pub Option<String>);

impl Engine {
    pub fn new(toolkit: Toolkit, folder: PathBuf, sink: Sink, interrupts: Arc<Interrupts>) -> Result<Self> {
        let session = Session::start(&toolkit, &sink)?;
        let scope = Scope::default();
        let (sources, libraries) = (BTreeMap::new(), Vec::new());
        Ok(Engine { toolkit, folder, scope, interrupts, session, libraries, sink, crates: 0, sources })
    }

    fn restart(&mut self) -> Result<()> {
        self.scope.variables.clear();
        self.session = Session::start(&self.toolkit, &self.sink)?;
        self.libraries.iter().try_for_each(|library| self.session.load(library))
    }

    /// Runs a cell; `number` is its execution count.
    pub fn execute(&mut self, code: &str, number: usize) -> Result<Shown, CellError> {
        self.interrupts.begin_cell();
        let result = self.try_execute(code, number);
        // Whatever a killed compiler complained about, the reason is the button.
        match result {
            Err(error) if error.ename == "CompileError" && self.interrupts.pressed() => {
                Err(CellError::new("Interrupted", "interrupted"))
            }
            result => result,
        }
    }

    fn try_execute(&mut self, code: &str, number: usize) -> Result<Shown, CellError> {
        let (cell, syntax) = match parse::parse(code) {
            Ok(cell) => (cell, None),
            Err(unparsed) => {
                let (cell, error) = *unparsed;
                (cell, Some(error))
            }
        };
        // Everything a cell changes is changed in a copy, and kept once the cell has compiled.
        let mut scope = self.scope.clone();
        let mut said = None;
        for (line, directive) in &cell.directives {
            let crates = &self.toolkit.crates;
            let effect = directives::apply(directive, &mut scope, crates)
                .map_err(|error| error.note(&format!("on line {line} of the cell")))?;
            if effect.clear {
                self.session.clear().map_err(internal)?;
                scope = Scope { deps: scope.deps, ..Scope::default() };
            }
            said = effect.text.or(said);
        }
        if let Some(error) = syntax {
            return Err(self.syntax_error(&cell, error, number));
        }
        let number_of_crate = self.crates + 1;
        self.crates = number_of_crate;
        self.define(&mut scope, &cell, number, number_of_crate)?;
        if !cell.runs() {
            keep_imports(&mut scope, &cell);
            self.scope = scope;
            return Ok(Shown(said));
        }
        let shown = self.run(scope, &cell, number, number_of_crate)?;
        Ok(Shown(shown.or(said)))
    }

    fn compiler(&self) -> Compiler<'_> {
        Compiler { toolkit: &self.toolkit, folder: &self.folder, interrupts: &self.interrupts }
    }

    fn syntax_error(&self, cell: &Cell, error: syn::Error, number: usize) -> CellError {
        let source = generate::verbatim(&cell.source);
        let compiled = self.compile("syntax", &source, Kind::Check, &BTreeSet::new());
        match compiled {
            Ok(compiled) if !compiled.success => compile_error(&compiled.errors, &source, number),
            _ => {
                let line = error.span().start().line;
                CellError::new("CompileError", format!("{error} (line {line})"))
            }
        }
    }

    fn compile(
        &self,
        name: &str,
        source: &Source,
        kind: Kind,
        externs: &BTreeSet<String>,
    ) -> Result<Compiled, CellError> {
        let job = self.compiler().start(name, &source.text, kind, externs).map_err(internal)?;
        job.finish().map_err(internal)
    }

    /// Compiles the cell's items, imports and macros, and enters them into `scope`.
    fn define(&mut self, scope: &mut Scope, cell: &Cell, number: usize, count: usize) -> Result<(), CellError> {
        let krate = format!("cell_{count}");
        if !cell.items.is_empty() {
            let merge = to_merge(scope, &cell.items);
            let older: Vec<KeptItem> = merge.iter().flat_map(|name| scope.crates[name].clone()).collect();
            let older = merged(older, &cell.items);
            let source = generate::items(scope, cell, &older);
            let externs = self.externs(scope, &source.text);
            let compiled = self.compile(&krate, &source, Kind::Items, &externs)?;
            if !compiled.success {
                return Err(self.explain(compile_error(&compiled.errors, &source, number), scope, cell));
            }
            let library = self.compiler().link(&krate).map_err(internal)?;
            self.session.load(&library).map_err(internal)?;
            self.libraries.push(library);
            let fresh = cell.items.iter().map(|part| KeptItem {
                part: part.clone(),
                text: generate::published(&cell.source, &part.range, &part.publish),
            });
            let items = older.into_iter().chain(fresh).collect();
            scope.define_crate(&krate, items);
            self.sources.insert(format!("{krate}.rs"), (number, source));
        } else if !cell.runs() && (!cell.uses.is_empty() || !cell.macros.is_empty()) {
            let source = generate::imports(scope, cell);
            let externs = self.externs(scope, &source.text);
            let compiled = self.compile("imports", &source, Kind::Check, &externs)?;
            if !compiled.success {
                return Err(compile_error(&compiled.errors, &source, number));
            }
        }
        Ok(())
    }

    /// Every crate a generated source may name: item crates and those of the dylib it mentions.
    fn externs(&self, scope: &Scope, text: &str) -> BTreeSet<String> {
        let mut externs = scope.deps.clone();
        externs.insert("burn".into());
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        externs.extend(words.filter(|word| scope.crates.contains_key(*word)).map(String::from));
        // Types of variables may live in crates the facade does not re-export.
        for variable in scope.variables.values() {
            let segments = variable.ty.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            externs.extend(segments.filter(|s| self.toolkit.crates.contains_key(*s)).map(String::from));
        }
        externs.retain(|name| name != "attention" && name != "std" && name != "core");
        externs.retain(|name| scope.crates.contains_key(name) || self.toolkit.crates.contains_key(name));
        externs
    }

    fn run(&mut self, mut scope: Scope, cell: &Cell, number: usize, count: usize) -> Result<Option<String>, CellError> {
        let name = format!("run_{count}");
        let mut moved = BTreeSet::new();
        let mut types = None;
        let kind = Kind::Run { optimise: cell.repeats() };
        // Each round learns of at least one more variable that the cell moves.
        let source = loop {
            let run = Run { moved: &moved, reveal: false };
            let source = generate::statements(&scope, cell, &run);
            let externs = self.externs(&scope, &source.text);
            let job = self.compiler().start(&name, &source.text, kind, &externs);
            let job = job.map_err(internal)?;
            if types.is_none() {
                types = Some(self.types(&scope, cell, &externs)?);
            }
            let compiled = job.finish().map_err(internal)?;
            if compiled.success {
                break source;
            }
            self.unkeepable(cell, types.as_ref().unwrap(), Some(&compiled.errors), &source)?;
            let gone = moved_by(&compiled.errors, &source);
            if gone.is_empty() || gone.is_subset(&moved) {
                let error = compile_error(&compiled.errors, &source, number);
                return Err(self.explain(error, &scope, cell));
            }
            moved.extend(gone);
        };
        let types = types.unwrap_or_default();
        self.unkeepable(cell, &types, None, &source)?;
        keep_imports(&mut scope, cell);
        self.sources.insert(format!("{name}.rs"), (number, source));
        self.scope = scope;
        if self.interrupts.pressed() {
            return Err(CellError::new("Interrupted", "interrupted"));
        }
        let library = self.compiler().link(&name).map_err(internal)?;
        let answer = self.session.run(&library, ENTRY, &self.interrupts).map_err(internal)?;
        // The loader has mapped it; a long session must not fill the disk.
        let _ = std::fs::remove_file(&library);
        self.settle(answer, cell, &types)
    }

    /// Brings the variable table up to date with what the session says.
    fn settle(
        &mut self,
        answer: Answer,
        cell: &Cell,
        types: &BTreeMap<String, String>,
    ) -> Result<Option<String>, CellError> {
        let ran = match answer {
            Answer::Ran(ran) => ran,
            Answer::Died(status) => {
                self.restart().map_err(internal)?;
                let lost = "All variables are lost; items and imports are kept. \
                            The session has been started again.";
                let name = if self.interrupts.pressed() { "Killed" } else { "SessionDied" };
                return Err(CellError::new(name, obituary(status)).note(lost));
            }
        };
        if ran.kind == "ok" {
            for bound in &cell.bound {
                if let Some(ty) = types.get(&bound.name) {
                    let variable = Variable { ty: ty.clone(), mutable: bound.mutable };
                    self.scope.variables.insert(bound.name.clone(), variable);
                }
            }
        }
        let kept: BTreeSet<&String> = ran.names.iter().collect();
        self.scope.variables.retain(|name, _| kept.contains(name));
        match ran.kind.as_str() {
            "ok" => Ok(ran.shown),
            "interrupted" => Err(CellError::new("Interrupted", ran.message)),
            "error" => Err(CellError::new("Error", ran.message)),
            "panic" => Err(self.panic(&ran.message, &ran.place)),
            _ => Err(CellError::new("InternalError", ran.message)),
        }
    }

    fn panic(&self, message: &str, place: &str) -> CellError {
        let mut parts = place.rsplitn(3, ':');
        let _column = parts.next();
        let line: Option<usize> = parts.next().and_then(|line| line.parse().ok());
        let file = parts.next().unwrap_or_default();
        let place = match self.sources.get(file) {
            Some((cell, source)) => match line.and_then(|line| source.user_line(line)) {
                Some(line) => format!("cell [{cell}], line {line}"),
                None => format!("cell [{cell}]"),
            },
            None => place.to_string(),
        };
        CellError::new("Panic", message).note(&format!("at {place}"))
    }

    /// Asks rustc for the types of the new variables.
    fn types(
        &self,
        scope: &Scope,
        cell: &Cell,
        externs: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, String>, CellError> {
        let mut types = BTreeMap::new();
        if cell.bound.is_empty() {
            return Ok(types);
        }
        let run = Run { moved: &BTreeSet::new(), reveal: true };
        let source = generate::statements(scope, cell, &run);
        let compiled = self.compile("types", &source, Kind::Check, externs)?;
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
    fn unkeepable(
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
            } else if ty.contains('{') || ty.contains("impl ") || ty.contains("cell::") {
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

    /// Adds a word where a variable still has a type that has been redefined since.
    fn explain(&self, mut error: CellError, scope: &Scope, cell: &Cell) -> CellError {
        let current = scope.current_crates();
        for (name, variable) in &scope.variables {
            let stale = scope
                .crates
                .keys()
                .find(|krate| variable.ty.contains(&format!("{krate}::")) && !current.contains(krate.as_str()));
            if let (Some(_), true) = (stale, cell.mentioned.contains(name)) {
                error = error.note(&format!(
                    "\x1b[1mnote\x1b[0m: `{name}` was made before its type was redefined and still \
                     has the old one ({}). Run the cell that makes it again.",
                    variable.ty
                ));
            }
        }
        error
    }
}

/// Imports and macros of a cell that has compiled.
fn keep_imports(scope: &mut Scope, cell: &Cell) {
    for (_, imports) in &cell.uses {
        imports.iter().for_each(|import| scope.import(import));
    }
    for (name, range) in &cell.macros {
        scope.define_macro(name, &cell.source[range.clone()]);
    }
}

fn internal(error: impl Into<anyhow::Error>) -> CellError {
    CellError::new("InternalError", format!("{:#}", error.into()))
}

/// Variables whose put-back rustc refuses because the cell has moved them or left them unset.
fn moved_by(errors: &[Diagnostic], source: &Source) -> BTreeSet<String> {
    let ours = errors.iter().filter(|e| e.has_code("E0382") || e.has_code("E0381"));
    ours.filter_map(|error| error.primary()).filter_map(|span| source.puts.get(&span.line_start).cloned()).collect()
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
