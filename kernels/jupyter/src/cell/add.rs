//! `:dep` with a crate that is not inside the session: says what that takes and what it costs, then does it.

use super::engine::{Engine, internal};
use super::report::CellError;
use crate::child::{Sink, Stream};
use crate::install::{Addition, Progress, Proposal, Watch, propose, readable};
use crate::interrupts::Interrupts;
use crate::output::{Display, Piece};
use std::sync::Arc;
use std::time::Duration;

impl Engine {
    pub(super) fn add(&mut self, addition: &Addition) -> Result<(), CellError> {
        let mut watch = Watcher::new(&self.sink, &self.interrupts);
        let proposal =
            propose(&self.toolkit, addition, &mut watch).map_err(|error| match self.interrupts.pressed() {
                // Whatever a killed cargo complained about, the reason is the button.
                true => CellError::new("Interrupted", "interrupted"),
                false => CellError::new("UnknownCrate", format!("{error:#}")),
            })?;
        if proposal.inside {
            self.scope.deps.insert(addition.name.clone());
            return Ok(());
        }
        let cost = cost(&proposal);
        if let Some(lost) = self.held() {
            let evalue = format!("{cost} {lost} would be lost, so nothing has been done.");
            let note = "`%restart` first and run this line again, or put it into the notebook's first cell.";
            return Err(CellError::new("SessionInUse", evalue).note(note));
        }
        (self.sink)(Stream::Stdout, Piece::Text(format!("{cost}\n")));
        let made = proposal.carry_out(&self.toolkit, &mut watch);
        self.toolkit = made.map_err(|error| {
            let said = watch.lines.join("\n");
            CellError::new("CompileError", format!("{error:#}; notebooks/Cargo.toml is as it was")).note(&said)
        })?;
        watch.show("linked".into());
        self.renew().map_err(internal)?;
        self.scope.deps.insert(addition.name.clone());
        Ok(())
    }

    /// What a new session would not have.
    fn held(&self) -> Option<String> {
        let several = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let variables = several(self.scope.variables.len(), "variable");
        let items = several(self.scope.crates.values().map(Vec::len).sum(), "item");
        let held: Vec<_> = variables.into_iter().chain(items).collect();
        (!held.is_empty()).then(|| format!("This session's {}", held.join(" and ")))
    }
}

fn cost(proposal: &Proposal) -> String {
    let Proposal { name, new, compiled, time, .. } = proposal;
    let few = match new.len() {
        0..=6 => new.join(", "),
        more => format!("{} and {} more", new[..5].join(", "), more - 5),
    };
    format!(
        "`{name}` is not inside the session as it is asked for. It is added to notebooks/Cargo.toml, {compiled} crates \
         are compiled ({few}, and what links them), and the session is linked anew: about {}.",
        readable(*time)
    )
}

/// Shows a build below its cell, and lets the stop button end it.
struct Watcher<'a> {
    sink: &'a Sink,
    interrupts: &'a Arc<Interrupts>,
    /// The last words of cargo or the compiler, for the case that they fail.
    lines: Vec<String>,
    id: String,
    shown: bool,
}

impl<'a> Watcher<'a> {
    fn new(sink: &'a Sink, interrupts: &'a Arc<Interrupts>) -> Self {
        Self { sink, interrupts, lines: Vec::new(), id: uuid::Uuid::new_v4().to_string(), shown: false }
    }

    fn show(&mut self, text: String) {
        let types = vec![("text/plain".to_string(), text)];
        let display = Display { id: Some(self.id.clone()), update: self.shown, types };
        self.shown = true;
        (self.sink)(Stream::Stdout, Piece::Display(display));
    }
}

/// More of their output than this explains nothing.
const LINES: usize = 40;

impl Watch for Watcher<'_> {
    fn began(&mut self, group: i32) {
        self.interrupts.compiler_started(group);
    }

    fn ended(&mut self, group: i32) {
        self.interrupts.compiler_ended(group);
    }

    fn said(&mut self, line: &str) {
        self.lines.push(line.to_string());
        if self.lines.len() > LINES {
            self.lines.remove(0);
        }
    }

    fn progress(&mut self, progress: Progress) {
        if progress.left.is_some() {
            self.show(format!("compiled {progress}"));
        }
    }

    fn linking(&mut self, _time: Option<Duration>) {
        self.show("compiled; linking".into());
    }
}
