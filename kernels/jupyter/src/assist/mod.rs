//! Completion, hover and signature help, from an index of our own: no compiler, no waiting, and
//! while a cell runs.

mod context;
pub mod index;
mod read;
mod resolve;

use crate::cell::scope::{Binding, Scope};
use crate::directives;
use context::{Asked, Context, Step, open_call};
use index::{Entry, Index, Kind};
use resolve::Known;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// More than this nobody reads.
const MOST: usize = 300;

/// One possible word.
struct Match {
    text: String,
    kind: &'static str,
    signature: String,
}

/// The notebook's own items.
fn own(scope: &Scope) -> Index {
    let mut own = Index::default();
    let current = scope.current_crates();
    for (krate, items) in scope.crates.iter().filter(|(krate, _)| current.contains(krate.as_str())) {
        for item in items {
            own.source(krate, &item.text);
        }
    }
    own
}

/// The content of a `complete_reply`; `cursor` counts characters.
pub fn complete(index: &Index, scope: &Scope, crates: &BTreeSet<String>, code: &str, cursor: usize) -> Value {
    let all: Vec<char> = code.chars().collect();
    let cursor = cursor.min(all.len());
    let context = Context::before(&all[..cursor]);
    let own = own(scope);
    let known = Known { index, own: &own, scope, code: &all };
    let mut matches = match &context.asked {
        Asked::Directive(line) => directive(line, crates),
        Asked::Member(steps) => known.owner(steps).map_or_else(Vec::new, |owner| {
            known.members(&owner).filter(|e| !e.associated && e.kind != Kind::Variant).map(Match::of).collect()
        }),
        Asked::Path(path) => path.last().map_or_else(Vec::new, |last| inside(&known, last)),
        Asked::Name if context.word.is_empty() => Vec::new(),
        Asked::Name => names(&known, &all[..context.start]),
    };
    matches.retain(|found| found.text.starts_with(&context.word));
    matches.sort_by(|a, b| (a.kind != "property", &a.text).cmp(&(b.kind != "property", &b.text)));
    matches.dedup_by(|a, b| a.text == b.text);
    matches.truncate(MOST);
    let typed: Vec<Value> = matches
        .iter()
        .map(|found| {
            json!({
                "text": found.text, "type": found.kind, "signature": found.signature,
                "start": context.start, "end": cursor,
            })
        })
        .collect();
    json!({
        "status": "ok",
        "matches": matches.iter().map(|found| &found.text).collect::<Vec<_>>(),
        "cursor_start": context.start,
        "cursor_end": cursor,
        "metadata": { "_jupyter_types_experimental": typed },
    })
}

impl Match {
    fn new(text: impl Into<String>, kind: &'static str) -> Self {
        Match { text: text.into(), kind, signature: String::new() }
    }

    fn of(entry: &Entry) -> Self {
        let signature = entry.signature.split_once('(').map(|(_, rest)| format!("({rest}"));
        Match { text: entry.name.clone(), kind: entry.kind.word(), signature: signature.unwrap_or_default() }
    }
}

fn directive(line: &str, crates: &BTreeSet<String>) -> Vec<Match> {
    match line.split_once(' ') {
        Some((":dep" | "%dep", _)) => crates.iter().map(|name| Match::new(name, "module")).collect(),
        Some(_) => Vec::new(),
        None => directives::words().map(|word| Match::new(word, "magic")).collect(),
    }
}

/// What `last::` can be followed by: members of a type, or what is in a module or crate.
fn inside(known: &Known<'_>, last: &str) -> Vec<Match> {
    let members: Vec<Match> = known.members(last).filter(|entry| entry.kind != Kind::Field).map(Match::of).collect();
    if !members.is_empty() {
        return members;
    }
    // The facade's modules are burn's crates, re-exported: `burn::nn` is `burn_nn`.
    let crates = [last.to_string(), format!("burn_{last}")];
    let mut found = Vec::new();
    for entry in known.free() {
        let mut segments = entry.path.split("::").skip_while(|segment| !crates.iter().any(|name| name == segment));
        if segments.next().is_some() {
            found.push(Match::of(entry));
            found.extend(segments.next().map(|module| Match::new(module, "module")));
        }
    }
    found
}

fn names(known: &Known<'_>, before: &[char]) -> Vec<Match> {
    let scope = known.scope;
    let mut found: Vec<Match> = scope.variables.keys().map(|name| Match::new(name, "instance")).collect();
    found.extend(scope.macros.iter().map(|(name, _)| Match::new(name, "keyword")));
    for (name, binding) in &scope.names {
        let entry = known.free().find(|entry| entry.name == *name);
        let kind = if matches!(binding, Binding::Item(_)) { "class" } else { "module" };
        found.push(entry.map_or(Match::new(name, kind), Match::of));
    }
    // What the cell itself has bound so far.
    let text: String = before.iter().collect();
    for (at, _) in text.match_indices("let ") {
        let rest = text[at + 4..].trim_start();
        let rest = rest.strip_prefix("mut ").unwrap_or(rest);
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        found.push(Match::new(name, "instance"));
    }
    let prelude = |text: &str| text.contains("attention::prelude::*");
    if scope.globs.iter().any(|glob| prelude(glob)) || prelude(&text) {
        found.extend(known.index.free().filter(|entry| !entry.path.starts_with("burn")).map(Match::of));
        let burn = ["Module", "Bool", "Device", "Distribution", "Int", "Tensor", "TensorData", "activation", "burn"];
        found.extend(burn.map(|name| Match::new(name, "class")));
    }
    found.retain(|found| !found.text.is_empty());
    found
}

/// The content of an `inspect_reply`: the word under the cursor, or the function whose arguments
/// are being written.
pub fn inspect(index: &Index, scope: &Scope, code: &str, cursor: usize) -> Value {
    let all: Vec<char> = code.chars().collect();
    let cursor = cursor.min(all.len());
    let own = own(scope);
    let known = Known { index, own: &own, scope, code: &all };
    let texts = describe(&known, &all, cursor).or_else(|| {
        let call = open_call(&all[..cursor])?;
        describe(&known, &all, call)
    });
    match texts {
        Some((plain, markdown)) => json!({
            "status": "ok", "found": true, "metadata": {},
            "data": { "text/plain": plain, "text/markdown": markdown },
        }),
        None => json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
    }
}

fn describe(known: &Known<'_>, code: &[char], cursor: usize) -> Option<(String, String)> {
    let word = |c: &&char| c.is_alphanumeric() || **c == '_';
    let end = cursor + code[cursor..].iter().take_while(word).count();
    let context = Context::before(&code[..end]);
    let name = context.word.clone();
    if name.is_empty() {
        return None;
    }
    let named = |entry: &&Entry| entry.name == name;
    let owner = match &context.asked {
        Asked::Member(steps) => Some(known.owner(steps)?),
        Asked::Path(path) => path.last().cloned(),
        _ => None,
    };
    let mut entries: Vec<&Entry> = match &owner {
        Some(owner) => known.members(owner).filter(named).collect(),
        None => Vec::new(),
    };
    let mut head = String::new();
    if context.asked == Asked::Name
        && let Some(ty) = known.variable(&name)
    {
        head = format!("let {name}: {}", directives::short(&ty));
        let owner = known.owner(&[Step::Name(name.clone())]);
        entries = known.free().filter(|entry| Some(&entry.name) == owner.as_ref()).collect();
    }
    if entries.is_empty() && head.is_empty() && !matches!(context.asked, Asked::Member(_)) {
        entries = known.free().filter(named).collect();
    }
    entries.truncate(3);
    if entries.is_empty() && head.is_empty() {
        return None;
    }
    let (mut plain, mut markdown) = (head.clone(), String::new());
    if !head.is_empty() {
        markdown = format!("```rust\n{head}\n```\n");
    }
    for entry in entries {
        let place = match &entry.owner {
            Some(owner) => format!("{}::{owner}", entry.path),
            None => entry.path.clone(),
        };
        let gap = if plain.is_empty() { "" } else { "\n\n" };
        plain += &format!("{gap}{}\n{place}\n{}", entry.signature, entry.doc);
        markdown += &format!("\n```rust\n{}\n```\n*{place}*\n\n{}\n", entry.signature, entry.doc);
    }
    Some((plain.trim_end().to_string(), markdown.trim().to_string()))
}
