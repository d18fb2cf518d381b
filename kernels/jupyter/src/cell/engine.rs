//! Executes one cell: split, compile, run, and keep what it leaves behind.

use super::compile::{Compiled, Compilers, Job, Kind};
use super::generate::{self, ENTRY, Run, Source};
use super::keep::{first_moves, moved_by};
use super::moves;
use super::parse::{self, Cell, Unparsed};
use super::report::{CellError, compile_error, outdated};
use super::scope::{KeptItem, Scope, Variable, merged, to_merge};
use super::sources::Sources;
use super::stale::explain;
use crate::assist::analyzer::Analyzer;
use crate::child::{Answer, Ran, Session, Sink, Stream};
use crate::directives::{self, Directive};
use crate::interrupts::Interrupts;
use crate::memory::Limit;
use crate::output::Piece;
use crate::toolkit::Toolkit;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Items whose code is being made.
struct Items {
    job: Job,
    source: Source,
}

pub struct Engine {
    pub(super) toolkit: Toolkit,
    /// Answers elsewhere; what it holds is counted here, and it ends with a project that is no longer so.
    pub(super) analyzer: Analyzer,
    pub(super) compilers: Compilers,
    pub scope: Scope,
    pub interrupts: Arc<Interrupts>,
    pub(super) session: Session,
    /// When the library was linked that the scope's types are of.
    linked: Option<SystemTime>,
    pub(super) limit: Limit,
    /// What `%device` has chosen, for sessions to come.
    pub(super) device: Option<String>,
    /// Libraries of item crates, in the order in which a new session must load them.
    pub(super) libraries: Vec<PathBuf>,
    pub(super) sink: Sink,
    sources: Sources,
    /// How long the last cell ran, compilation apart.
    ran: Duration,
}

/// What a successful cell shows as its result.
#[derive(Debug, Default)]
pub struct Shown(pub Option<String>);

impl Engine {
    pub fn new(
        toolkit: Toolkit,
        analyzer: Analyzer,
        folder: PathBuf,
        sink: Sink,
        interrupts: Arc<Interrupts>,
    ) -> Result<Self> {
        let limit = Limit::from_environment().map_err(anyhow::Error::msg)?;
        let sources = Sources::default();
        let sink = placing(sink, sources.clone());
        let session = Session::start(&toolkit, &sink, &limit, None, &interrupts)?;
        let linked = modified(&toolkit);
        let (device, scope, libraries) = (None, Scope::default(), Vec::new());
        let ran = Duration::ZERO;
        let compilers = Compilers::new(folder, interrupts.clone());
        let mut engine = Engine {
            toolkit,
            analyzer,
            compilers,
            scope,
            interrupts,
            session,
            linked,
            limit,
            device,
            libraries,
            sink,
            sources,
            ran,
        };
        engine.prepare();
        Ok(engine)
    }

    /// The names of the crates inside the session.
    pub fn crates(&self) -> BTreeSet<String> {
        self.toolkit.crates.keys().cloned().collect()
    }

    /// A new session process of the library as it is now, with nothing of the old one.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.analyzer.dismiss();
        self.libraries.clear();
        let linked = modified(&self.toolkit);
        self.restart()?;
        // While the old process lives, so does its library, and the next cell is told so.
        self.linked = linked;
        Ok(())
    }

    /// A new session process with the items of the old one.
    fn restart(&mut self) -> Result<()> {
        self.scope.variables.clear();
        // They know the library that the old session had.
        self.compilers.dismiss();
        let device = self.device.as_deref();
        self.session = Session::start(&self.toolkit, &self.sink, &self.limit, device, &self.interrupts)?;
        // What was made for another library stays out of it; the next cell is told.
        if self.linked != modified(&self.toolkit) {
            return Ok(());
        }
        self.libraries.iter().try_for_each(|library| self.session.load(library))
    }

    /// Runs a cell; `number` is its execution count.
    pub fn execute(&mut self, code: &str, number: usize) -> Result<Shown, CellError> {
        self.interrupts.begin_cell();
        let result = self.try_execute(code, number);
        self.prepare();
        // Whatever a killed compiler complained about, the reason is the button.
        match result {
            Err(error) if error.ename == "CompileError" && self.interrupts.pressed() => {
                Err(CellError::new("Interrupted", "interrupted"))
            }
            result => result,
        }
    }

    pub(super) fn try_execute(&mut self, code: &str, number: usize) -> Result<Shown, CellError> {
        let (mut cell, syntax) = match parse::parse(code) {
            Ok(cell) => (cell, None),
            Err(unparsed) => {
                let Unparsed { cell, message, line } = *unparsed;
                (cell, Some((message, line)))
            }
        };
        let mut timing = false;
        let mut said = Vec::new();
        for (line, directive) in std::mem::take(&mut cell.directives) {
            let directive = directives::parse(&directive, &self.toolkit.crates);
            let done = directive.and_then(|directive| match directive {
                Directive::Time => {
                    timing = true;
                    Ok(None)
                }
                Directive::TimeIt => {
                    cell.time_it();
                    Ok(None)
                }
                Directive::Parameters => cell.only_lets().map(|()| None),
                other => self.direct(other, number),
            });
            said.extend(done.map_err(|error| error.note(&format!("on line {line} of the cell")))?);
        }
        let said = (!said.is_empty()).then(|| said.join("\n"));
        self.alive()?;
        if let Some((message, line)) = syntax {
            return Err(self.syntax_error(&cell, &message, line, number));
        }
        if self.linked != modified(&self.toolkit) {
            return Err(outdated(
                "the session's library has been linked anew since this session began",
                "`%restart` begins a session with the new one. What this one holds is lost then: the two may differ \
                 in the layout of every type.",
            ));
        }
        // Everything a cell changes is changed in a copy, and kept once the cell has compiled.
        let mut scope = self.scope.clone();
        let began = Instant::now();
        self.ran = Duration::ZERO;
        let items = self.define(&mut scope, &cell, number)?;
        if !cell.runs() {
            self.load(items, &scope, &cell, number)?;
            keep_imports(&mut scope, &cell);
            self.scope = scope;
            return Ok(Shown(said));
        }
        let shown = self.run(scope, &cell, items, number);
        if timing {
            let compiled = began.elapsed().saturating_sub(self.ran);
            let text = format!("ran in {:.3?}, compiled in {compiled:.2?}\n", self.ran);
            (self.sink)(Stream::Stdout, Piece::Text(text));
        }
        Ok(Shown(shown?.or(said)))
    }

    /// Has compilers wait for the next cell. One that cannot be begun now will be when the cell comes, which then says why.
    fn prepare(&mut self) {
        let externs = self.externs(&self.scope);
        let _ = self.compilers.prepare(&self.toolkit, &externs);
    }

    fn syntax_error(&mut self, cell: &Cell, message: &str, line: usize, number: usize) -> CellError {
        let first = cell.source.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("//"));
        if let Some(attribute) = first.filter(|first| first.starts_with("#![")) {
            let say = format!("`{attribute}` belongs at the top of a crate, which a cell is not; leave it out");
            return CellError::new("CompileError", say);
        }
        let source = generate::verbatim(&cell.source);
        let compiled = self.compile(&source, Kind::Check, &BTreeSet::new());
        match compiled {
            Ok(compiled) if !compiled.success => self.compile_error(&compiled, &source, number),
            _ => CellError::new("CompileError", format!("{message} (line {line})")),
        }
    }

    fn compile_error(&self, compiled: &Compiled, source: &Source, number: usize) -> CellError {
        compile_error(&compiled.errors, source, number, &self.sources)
    }

    pub(super) fn compile(
        &mut self,
        source: &Source,
        kind: Kind,
        externs: &BTreeSet<String>,
    ) -> Result<Compiled, CellError> {
        let job = self.compilers.start(&self.toolkit, kind, &source.text, externs).map_err(internal)?;
        job.finish().map_err(internal)
    }

    /// Compiles the cell's items, imports and macros, and enters them into `scope`. Of items the code is still to come,
    /// by [`Self::load`].
    fn define(&mut self, scope: &mut Scope, cell: &Cell, number: usize) -> Result<Option<Items>, CellError> {
        if !cell.items.is_empty() {
            let parts = scope.items_of(cell);
            scope.forget_imports(&parts);
            let older = merged(to_merge(scope, &parts), &parts);
            let source = generate::items(scope, cell, &older);
            let externs = self.externs(scope);
            let mut job = self.compilers.start(&self.toolkit, Kind::Items, &source.text, &externs).map_err(internal)?;
            if !job.described().map_err(internal)? {
                return Err(self.load(Some(Items { job, source }), scope, cell, number).expect_err("no description"));
            }
            let krate = job.name().to_string();
            self.sources.remember(&krate, number, &source);
            let fresh = parts.into_iter().map(|part| {
                let text = generate::published(&cell.source, &part.range, &part.publish);
                KeptItem { part, text }
            });
            let items = older.into_iter().chain(fresh).collect();
            scope.define_crate(&krate, items);
            return Ok(Some(Items { job, source }));
        } else if !cell.runs() && (!cell.uses.is_empty() || !cell.macros.is_empty()) {
            let source = generate::imports(scope, cell);
            let externs = self.externs(scope);
            let compiled = self.compile(&source, Kind::Check, &externs)?;
            if !compiled.success {
                return Err(self.compile_error(&compiled, &source, number));
            }
        }
        Ok(None)
    }

    /// Waits for the code of items and loads it into the session.
    fn load(&mut self, items: Option<Items>, scope: &Scope, cell: &Cell, number: usize) -> Result<(), CellError> {
        let Some(Items { job, source }) = items else { return Ok(()) };
        let krate = job.name().to_string();
        let compiled = job.finish().map_err(internal)?;
        if !compiled.success {
            return Err(explain(self.compile_error(&compiled, &source, number), scope, cell));
        }
        let library = self.compilers.link(&self.toolkit, &krate).map_err(internal)?;
        self.session.load(&library).map_err(internal)?;
        self.libraries.push(library);
        Ok(())
    }

    /// Every crate a generated source may name. rustc reads those that it does name.
    fn externs(&self, scope: &Scope) -> BTreeSet<String> {
        let mut externs = scope.deps.clone();
        externs.insert("burn".into());
        let preloaded = self.toolkit.crates.iter().filter(|(_, inside)| inside.preloaded);
        externs.extend(scope.crates.keys().chain(preloaded.map(|(name, _)| name)).cloned());
        // Types of variables may live in crates the facade does not re-export.
        for variable in scope.variables.values() {
            let segments = variable.ty.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            externs.extend(segments.filter(|s| self.toolkit.crates.contains_key(*s)).map(String::from));
        }
        externs.retain(|name| name != "attention" && name != "std" && name != "core");
        externs.retain(|name| scope.crates.contains_key(name) || self.toolkit.crates.contains_key(name));
        externs
    }

    fn run(
        &mut self,
        mut scope: Scope,
        cell: &Cell,
        items: Option<Items>,
        number: usize,
    ) -> Result<Option<String>, CellError> {
        let (guessed, said) = moves::guess(&scope, cell);
        let mut moved: BTreeSet<String> = guessed.union(&said).cloned().collect();
        let mut since = cell.moves.given.clone();
        let mut types = None;
        let kind = Kind::Run { optimise: cell.repeats(), items: !cell.items.is_empty() };
        // Each round learns of at least one more variable that the cell moves.
        let (name, source) = loop {
            let run = Run { moved: &moved, since: &since, reveal: false };
            let source = generate::statements(&scope, cell, &run);
            let externs = self.externs(&scope);
            let job = self.compilers.start(&self.toolkit, kind, &source.text, &externs).map_err(internal)?;
            let name = job.name().to_string();
            let first = types.is_none();
            if first {
                types = Some(self.types(&scope, cell, &externs)?);
            }
            // Is it right? What is not moved could be put back.
            if first && !guessed.is_empty() {
                let source = generate::statements(&scope, cell, &Run { moved: &said, since: &since, reveal: false });
                if moved_by(&self.compile(&source, Kind::Check, &externs)?.errors, &source) != guessed {
                    moved.clear();
                    continue;
                }
            }
            let compiled = job.finish().map_err(internal)?;
            if compiled.success {
                break (name, source);
            }
            self.unkeepable(cell, types.as_ref().unwrap(), Some(&compiled.errors), &source)?;
            let gone = moved_by(&compiled.errors, &source);
            if gone.is_empty() || gone.is_subset(&moved) {
                let error = self.compile_error(&compiled, &source, number);
                return Err(explain(error, &scope, cell));
            }
            since.extend(first_moves(&compiled.errors, &source));
            moved.extend(gone);
        };
        let types = types.unwrap_or_default();
        self.unkeepable(cell, &types, None, &source)?;
        self.load(items, &scope, cell, number)?;
        keep_imports(&mut scope, cell);
        self.sources.remember(&name, number, &source);
        self.scope = scope;
        if self.interrupts.pressed() {
            return Err(CellError::new("Interrupted", "interrupted"));
        }
        let library = self.compilers.link(&self.toolkit, &name).map_err(internal)?;
        let began = Instant::now();
        let answer = self.session.run(&library, ENTRY).map_err(internal)?;
        self.ran = began.elapsed();
        // The loader has mapped it; a long session must not fill the disk.
        let _ = std::fs::remove_file(&library);
        self.settle(answer, cell, &types, number)
    }

    /// Brings the variable table up to date with what the session says.
    fn settle(
        &mut self,
        answer: Answer,
        cell: &Cell,
        types: &BTreeMap<String, String>,
        number: usize,
    ) -> Result<Option<String>, CellError> {
        let ran = match answer {
            Answer::Ran(ran) => ran,
            Answer::Died(how) => return Err(self.died(how)),
        };
        if ran.kind == "ok" {
            for bound in &cell.bound {
                if let Some(ty) = types.get(&bound.name) {
                    let variable = Variable { ty: ty.clone(), mutable: bound.mutable };
                    self.scope.variables.insert(bound.name.clone(), variable);
                }
            }
        }
        let mut lost = Vec::new();
        self.scope.variables.retain(|name, _| {
            let kept = ran.names.contains(name);
            lost.extend((!kept).then(|| format!("`{name}`")));
            kept
        });
        let failed = match ran.kind.as_str() {
            "ok" | "returned" => return Ok(ran.shown),
            "interrupted" => CellError::new("Interrupted", ran.message),
            "error" => CellError::new("Error", &ran.message).note(&here(number, &ran)),
            "panic" => self.panic(&ran, number),
            _ => CellError::new("InternalError", ran.message),
        };
        Err(match lost.is_empty() {
            true => failed,
            false => failed.note(&format!("what the cell moves is lost: {}", lost.join(", "))),
        })
    }

    /// A thread that a cell left behind may have ended the session since.
    pub(super) fn alive(&mut self) -> Result<(), CellError> {
        match self.session.ended().map_err(internal)? {
            Some(how) => Err(self.died(how)),
            None => Ok(()),
        }
    }

    /// Begins a new session in the place of one that has died.
    fn died(&mut self, how: String) -> CellError {
        if let Err(error) = self.restart() {
            return internal(error);
        }
        let lost = "All variables are lost; items and imports are kept. The session has been started again.";
        let name = if self.interrupts.pressed() { "Killed" } else { "SessionDied" };
        CellError::new(name, how).note(lost)
    }

    fn panic(&self, ran: &Ran, number: usize) -> CellError {
        let place = match self.sources.place(&ran.place) {
            Some(place) => format!("at {place}"),
            // Of another thread, which has said where.
            None if ran.place.is_empty() => here(number, ran),
            // Somewhere in a library; where crates are kept on this machine says nothing.
            None => {
                let within = ran.place.split("/registry/src/").nth(1).and_then(|path| path.split_once('/'));
                format!("{} (in {})", here(number, ran), within.map_or(ran.place.as_str(), |(_, path)| path))
            }
        };
        CellError::new("Panic", &ran.message).note(&place)
    }
}

/// Says of what is printed to stderr at which line of which cell it was: a thread that panics, `dbg!()`.
fn placing(sink: Sink, sources: Sources) -> Sink {
    Arc::new(move |stream, piece| match piece {
        Piece::Stderr(text) => sink(stream, Piece::Stderr(sources.told(&text))),
        piece => sink(stream, piece),
    })
}

fn here(number: usize, ran: &Ran) -> String {
    format!("at cell [{number}], line {}", ran.line)
}

fn modified(toolkit: &Toolkit) -> Option<SystemTime> {
    toolkit.dylib.metadata().ok()?.modified().ok()
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

pub(super) fn internal(error: impl Into<anyhow::Error>) -> CellError {
    CellError::new("InternalError", format!("{:#}", error.into()))
}
