//! The lines of a cell that begin with a colon.

use crate::cell::report::CellError;
use crate::cell::scope::Scope;
use std::collections::BTreeMap;
use std::path::PathBuf;

const HELP: &str = "\
:dep NAME = …   name a crate that is inside the session (use NAME::…)
:vars           the variables and their types
:clear          forget variables, items and imports
:help           this list";

#[derive(Debug, Default)]
pub struct Effect {
    pub text: Option<String>,
    pub clear: bool,
}

pub fn apply(line: &str, scope: &mut Scope, crates: &BTreeMap<String, PathBuf>) -> Result<Effect, CellError> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        ":dep" => dep(rest, scope, crates),
        ":vars" => Ok(Effect { text: Some(variables(scope)), clear: false }),
        ":clear" => Ok(Effect { text: None, clear: true }),
        ":help" => Ok(Effect { text: Some(HELP.into()), clear: false }),
        other => Err(CellError::new(
            "UnknownCommand",
            format!("`{other}` is not a command of this kernel; there are :dep, :vars, :clear, :help"),
        )),
    }
}

fn dep(rest: &str, scope: &mut Scope, crates: &BTreeMap<String, PathBuf>) -> Result<Effect, CellError> {
    let name = rest.split('=').next().unwrap_or_default().trim().trim_matches('"');
    let name = name.split('@').next().unwrap_or_default().replace('-', "_");
    // A path to the facade itself, as a notebook for stock evcxr has it, is what we already are.
    if name == "attention" {
        return Ok(Effect::default());
    }
    if crates.contains_key(&name) {
        scope.deps.insert(name);
        return Ok(Effect::default());
    }
    let mut inside: Vec<&str> = crates.keys().map(String::as_str).collect();
    inside.retain(|other| !other.starts_with('_') && !other.contains("_sys"));
    let say = format!("`{name}` is not inside this session, and a cell cannot add a crate to it");
    Err(CellError::new("UnknownCrate", say).note(&format!(
        "Add it to the workspace's Cargo.toml and install the kernel again. Inside are: {}.",
        inside.join(", ")
    )))
}

fn variables(scope: &Scope) -> String {
    if scope.variables.is_empty() {
        return "no variables".into();
    }
    let width = scope.variables.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let lines = scope.variables.iter().map(|(name, variable)| format!("{name:<width$}  {}", variable.ty));
    lines.collect::<Vec<_>>().join("\n")
}
