//! Completion, hover and signature help: no compiler, no waiting, and while a cell runs. From an index of our own, and
//! from a rust-analyzer where one is installed and has its answer in time.

pub mod analyzer;
mod context;
mod document;
pub mod index;
mod inferred;
mod read;
mod resolve;

use crate::cell::scope::{Binding, Scope};
use crate::directives;
use analyzer::{Analyzer, COMPLETION, HOVER, Question, SIGNATURE};
use context::{Asked, Context, Step, open_call};
use document::Document;
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
    /// Of every type, and seldom what is looked for.
    common: bool,
    /// Written by a macro that a rust-analyzer does not run here.
    derived: bool,
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

/// What is known besides the cell.
pub struct Sources<'a> {
    pub index: &'a Index,
    pub analyzer: &'a Analyzer,
    pub scope: &'a Scope,
}

impl Sources<'_> {
    fn ask(&self, method: &'static str, code: &[char], cursor: usize) -> Option<Value> {
        self.analyzer.ask(Question { method, document: Document::new(self.scope, code, cursor) })
    }
}

/// The content of a `complete_reply`; `cursor` counts characters.
pub fn complete(sources: &Sources<'_>, crates: &BTreeSet<String>, code: &str, cursor: usize) -> Value {
    let all: Vec<char> = code.chars().collect();
    let cursor = cursor.min(all.len());
    let context = Context::before(&all[..cursor]);
    let own = own(sources.scope);
    let known = Known { index: sources.index, own: &own, scope: sources.scope, code: &all };
    let matches = match &context.asked {
        Asked::Directive(line) => directive(line, crates),
        Asked::Member(steps) => known.owner(steps).map_or_else(Vec::new, |owner| {
            members(&known, &owner).filter(|(e, _)| !e.associated && e.kind != Kind::Variant).map(|(_, m)| m).collect()
        }),
        Asked::Path(path) => path.last().map_or_else(Vec::new, |last| inside(&known, last)),
        Asked::Name if context.word.is_empty() => Vec::new(),
        Asked::Name => names(&known, &all[..context.start]),
    };
    let written = |found: &Match| found.text.trim_start_matches("r#").starts_with(&context.word);
    let mut inferred = match &context.asked {
        Asked::Directive(_) => Vec::new(),
        Asked::Name if context.word.is_empty() => Vec::new(),
        _ => sources.ask(COMPLETION, &all, cursor).map_or_else(Vec::new, |answer| inferred::matches(&answer)),
    };
    if context.asked == Asked::Name {
        // Always many; those that are none of the word say nothing.
        inferred.retain(written);
    }
    let mut matches = merged(inferred, matches);
    matches.retain(written);
    matches.sort_by(|a, b| {
        let rank = |found: &Match| (found.kind != "property", found.common);
        rank(a).cmp(&rank(b)).then_with(|| a.text.cmp(&b.text))
    });
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

/// What a rust-analyzer has inferred, and what the index has found, which knows less of types and scopes.
fn merged(mut inferred: Vec<Match>, mut indexed: Vec<Match>) -> Vec<Match> {
    if inferred.is_empty() {
        return indexed;
    }
    let special: BTreeSet<&str> = inferred.iter().filter(|found| !found.common).map(|f| f.text.as_str()).collect();
    let known: BTreeSet<&str> = indexed.iter().map(|found| found.text.as_str()).collect();
    // Where it has guessed another type, nothing of that belongs here.
    if 2 * special.intersection(&known).count() >= special.len() {
        let texts: BTreeSet<String> = inferred.iter().map(|found| found.text.clone()).collect();
        indexed.retain(|found| found.derived && !texts.contains(&found.text));
        inferred.append(&mut indexed);
    }
    inferred
}

impl Match {
    fn new(text: impl Into<String>, kind: &'static str) -> Self {
        Match { text: text.into(), kind, signature: String::new(), common: false, derived: false }
    }

    fn of(entry: &Entry) -> Self {
        let signature = entry.signature.split_once('(').map(|(_, rest)| format!("({rest}"));
        let signature = signature.unwrap_or_default();
        Match { text: entry.name.clone(), kind: entry.kind.word(), signature, common: false, derived: false }
    }
}

fn directive(line: &str, crates: &BTreeSet<String>) -> Vec<Match> {
    match line.split_once(' ') {
        Some((":dep" | "%dep", _)) => crates.iter().map(|name| Match::new(name, "module")).collect(),
        Some(_) => Vec::new(),
        None => directives::words().map(|word| Match::new(word, "magic")).collect(),
    }
}

fn members<'a>(known: &Known<'a>, owner: &str) -> impl Iterator<Item = (&'a Entry, Match)> {
    known.members(owner).map(|entry| (entry, Match { derived: known.derived(owner, entry), ..Match::of(entry) }))
}

/// What `last::` can be followed by: members of a type, or what is in a module or crate.
fn inside(known: &Known<'_>, last: &str) -> Vec<Match> {
    let members: Vec<Match> = members(known, last).filter(|(e, _)| e.kind != Kind::Field).map(|(_, m)| m).collect();
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
pub fn inspect(sources: &Sources<'_>, code: &str, cursor: usize) -> Value {
    let all: Vec<char> = code.chars().collect();
    let cursor = cursor.min(all.len());
    let own = own(sources.scope);
    let known = Known { index: sources.index, own: &own, scope: sources.scope, code: &all };
    let indexed = || {
        describe(&known, &all, cursor).or_else(|| {
            let call = open_call(&all[..cursor])?;
            describe(&known, &all, call)
        })
    };
    let texts = match infer(sources, &all, cursor) {
        // The index has signatures as they are written.
        Some(texts) if inferred::has_gaps(&texts.0) => indexed().or(Some(texts)),
        texts => texts.or_else(indexed),
    };
    match texts {
        Some((plain, markdown)) => json!({
            "status": "ok", "found": true, "metadata": {},
            "data": { "text/plain": plain, "text/markdown": markdown },
        }),
        None => json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
    }
}

/// The context of the word that the cursor is in.
fn around(code: &[char], cursor: usize) -> Context {
    let word = |c: &&char| c.is_alphanumeric() || **c == '_';
    let end = cursor + code[cursor..].iter().take_while(word).count();
    Context::before(&code[..end])
}

fn infer(sources: &Sources<'_>, code: &[char], cursor: usize) -> Option<(String, String)> {
    let context = around(code, cursor);
    if matches!(context.asked, Asked::Directive(_)) {
        None
    } else if !context.word.is_empty() {
        inferred::hover(&sources.ask(HOVER, code, cursor)?)
    } else {
        open_call(&code[..cursor])?;
        inferred::signature(&sources.ask(SIGNATURE, code, cursor)?)
    }
}

fn describe(known: &Known<'_>, code: &[char], cursor: usize) -> Option<(String, String)> {
    let context = around(code, cursor);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_adds_what_macros_write_to_a_type_it_has_guessed_right() {
        let inferred = |texts: &[&str]| {
            let common = Match { common: true, ..Match::new("into", "function") };
            texts.iter().map(|text| Match::new(*text, "function")).chain([common]).collect::<Vec<_>>()
        };
        let indexed = |texts: &[&str]| {
            let valid = Match { derived: true, ..Match::new("valid", "function") };
            texts.iter().map(|text| Match::new(*text, "function")).chain([valid]).collect::<Vec<_>>()
        };
        let texts = |found: Vec<Match>| found.into_iter().map(|found| found.text).collect::<Vec<_>>();
        let both = merged(inferred(&["width", "clone"]), indexed(&["width", "of_another"]));
        assert_eq!(texts(both), ["width", "clone", "into", "valid"]);
        let other = merged(inferred(&["pow", "abs", "clone"]), indexed(&["abs", "matmul"]));
        assert_eq!(texts(other), ["pow", "abs", "clone", "into"]);
        assert_eq!(texts(merged(Vec::new(), indexed(&["matmul"]))), ["matmul", "valid"]);
    }
}
