//! Does what a cell's directives ask for.

use super::engine::{Engine, internal};
use super::export;
use super::report::CellError;
use super::scope::Scope;
use crate::directives::{self, Directive};
use crate::memory::{own, readable, resident};
use crate::toolkit::Toolkit;
use std::path::Path;

impl Engine {
    /// What it returns is shown as the cell's result, unless the cell has one of its own.
    pub(super) fn direct(&mut self, directive: Directive, number: usize) -> Result<Option<String>, CellError> {
        if directive != Directive::Restart {
            self.alive()?;
        }
        match directive {
            Directive::Nothing | Directive::Time | Directive::TimeIt | Directive::Parameters => {}
            Directive::Dep(name) => drop(self.scope.deps.insert(name)),
            Directive::Add(addition) => self.add(&addition)?,
            Directive::Clear => {
                self.session.clear().map_err(internal)?;
                self.libraries.clear();
                self.scope = Scope { deps: std::mem::take(&mut self.scope.deps), ..Scope::default() };
            }
            Directive::Restart => {
                self.scope = Scope::default();
                // It may have been made again, with other crates inside.
                self.toolkit = Toolkit::load(self.toolkit.session()).map_err(internal)?;
                self.renew().map_err(internal)?;
            }
            Directive::Variables => {
                let code = directives::variables(&self.scope);
                self.try_execute(&code, number)?;
            }
            Directive::Device(choice) => {
                self.try_execute(&directives::device(choice.as_deref()), number)?;
                self.device = choice.or(self.device.take());
            }
            Directive::Memory(limit) => return Ok(Some(self.memory(limit))),
            Directive::Export(file) => return self.export(&file).map(Some),
            Directive::Say(text) => return Ok(Some(text)),
        }
        Ok(None)
    }

    fn memory(&self, limit: Option<u64>) -> String {
        if let Some(bytes) = limit {
            self.limit.set(bytes);
        }
        let amount = |bytes: Option<u64>| bytes.map_or("unknown".into(), readable);
        let analyzer = self.analyzer.process().map(|process| format!("rust-analyzer {}, ", amount(own(process))));
        format!(
            "session {}, kernel {}, compilers {}, {}limit {}",
            amount(resident(self.session.pid())),
            amount(resident(std::process::id())),
            amount(self.compilers.waiting().map(own).sum()),
            analyzer.unwrap_or_default(),
            self.limit.get().map_or("none".into(), readable)
        )
    }

    fn export(&self, file: &Path) -> Result<String, CellError> {
        let text = export::module(&self.scope);
        let failed = |error| CellError::new("CommandError", format!("cannot write {}: {error}", file.display()));
        std::fs::write(file, &text).map_err(failed)?;
        Ok(format!("wrote {} ({} lines)", file.display(), text.lines().count()))
    }
}
