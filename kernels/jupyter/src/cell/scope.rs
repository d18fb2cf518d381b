//! What earlier cells have left behind: names, imports, macros, item crates and variables.

use super::items::{ItemPart, UNKNOWN};
use super::parse::Import;
use std::collections::{BTreeMap, BTreeSet};

/// An item as later cells may need it again: its text, already made public.
#[derive(Debug, Clone)]
pub struct KeptItem {
    pub part: ItemPart,
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct Variable {
    /// As rustc writes it, lifetimes made `'static`.
    pub ty: String,
    pub mutable: bool,
}

#[derive(Debug, Clone)]
pub enum Binding {
    Import(String),
    /// The crate of the item.
    Item(String),
}

#[derive(Debug, Clone, Default)]
pub struct Scope {
    pub names: BTreeMap<String, Binding>,
    /// `use x::*;` and `use x::Y as _;`.
    pub globs: BTreeSet<String>,
    /// In order of definition; textual scope is what `macro_rules!` has anyway.
    pub macros: Vec<(String, String)>,
    /// Every item crate, by name, with its items: a later `impl` compiles them again together.
    pub crates: BTreeMap<String, Vec<KeptItem>>,
    pub variables: BTreeMap<String, Variable>,
    /// Crates named by `:dep`.
    pub deps: BTreeSet<String>,
}

impl Scope {
    pub fn import(&mut self, import: &Import) {
        match &import.name {
            Some(name) => {
                self.names.insert(name.clone(), Binding::Import(import.text.clone()));
            }
            None => {
                self.globs.insert(import.text.clone());
            }
        }
    }

    pub fn define_macro(&mut self, name: &str, text: &str) {
        self.macros.retain(|(old, _)| old != name);
        self.macros.push((name.to_string(), text.to_string()));
    }

    /// The crate that a name stands for now, if it is an item of an earlier cell.
    pub fn crate_of(&self, name: &str) -> Option<&str> {
        match self.names.get(name) {
            Some(Binding::Item(krate)) => Some(krate),
            _ => None,
        }
    }

    pub fn define_crate(&mut self, krate: &str, items: Vec<KeptItem>) {
        for item in &items {
            for name in &item.part.names {
                self.names.insert(name.clone(), Binding::Item(krate.to_string()));
                if item.part.value {
                    self.variables.remove(name);
                }
            }
        }
        self.crates.insert(krate.to_string(), items);
    }

    /// An item whose name still means it; an `impl` whose type (or trait) does.
    pub fn is_current(&self, krate: &str, item: &ItemPart) -> bool {
        if !item.names.is_empty() {
            return item.names.iter().any(|name| self.crate_of(name) == Some(krate));
        }
        let own = |name: &&String| self.crates[krate].iter().any(|i| i.part.names.contains(name));
        item.about.iter().filter(own).all(|name| self.crate_of(name) == Some(krate))
    }

    /// Forgets what was imported from earlier versions of these items and is not inside the new ones.
    pub fn forget_imports(&mut self, items: &[ItemPart]) {
        let holds = |import: &str| {
            let mut segments = segments(import).skip_while(|segment| matches!(*segment, "self" | "crate"));
            let (Some(first), Some(second)) = (segments.next(), segments.next()) else { return true };
            let second = second.split(' ').next().unwrap_or_default();
            let Some(item) = items.iter().find(|item| item.names.iter().any(|name| name == first)) else { return true };
            let members = &item.members;
            members.iter().any(|member| member == second || member == UNKNOWN) || second == "*" && !members.is_empty()
        };
        self.names.retain(|_, binding| !matches!(binding, Binding::Import(import) if !holds(import)));
        self.globs.retain(|glob| holds(glob));
    }

    /// Item crates that still own a name.
    pub fn current_crates(&self) -> BTreeSet<&str> {
        self.names
            .values()
            .filter_map(|binding| match binding {
                Binding::Item(krate) => Some(krate.as_str()),
                Binding::Import(_) => None,
            })
            .collect()
    }

    /// The imports every generated crate begins with, without the names it defines itself.
    pub fn imports(&self, except: &BTreeSet<String>) -> String {
        let mut text = String::new();
        for glob in &self.globs {
            text.push_str(glob);
            text.push('\n');
        }
        // Names that derives made (records of modules) come in through the crate's glob.
        for krate in self.current_crates() {
            text.push_str(&format!("use {krate}::*;\n"));
        }
        for (name, binding) in &self.names {
            if except.contains(name) {
                continue;
            }
            match binding {
                Binding::Import(import) => text.push_str(&rooted(import, except)),
                Binding::Item(krate) => text.push_str(&format!("use {krate}::{name};")),
            }
            text.push('\n');
        }
        text
    }
}

/// The earlier items that must be compiled again with these new ones, because the orphan rule wants an `impl` in the
/// crate of its type (or trait): that type, and what of its crate speaks of it. Everything else stays what it is.
pub fn to_merge(scope: &Scope, items: &[ItemPart]) -> Vec<KeptItem> {
    let own: BTreeSet<&str> = items.iter().flat_map(|item| &item.names).map(String::as_str).collect();
    let mut homes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for item in items.iter().filter(|item| !item.about.is_empty()) {
        let home = match item.inherent {
            true => &item.about[..1],
            false => &item.about[..],
        };
        if home.iter().any(|name| own.contains(name.as_str())) {
            continue;
        }
        if let Some((krate, name)) = home.iter().find_map(|name| Some((scope.crate_of(name)?, name))) {
            homes.entry(krate).or_default().insert(name);
        }
    }
    homes.into_iter().flat_map(|(krate, names)| speaking_of(scope, krate, names)).collect()
}

/// The items of a crate that have one of these names or speak of one that has, in their order.
fn speaking_of<'a>(scope: &'a Scope, krate: &str, mut names: BTreeSet<&'a str>) -> Vec<KeptItem> {
    let items: Vec<&KeptItem> = scope.crates[krate].iter().filter(|item| scope.is_current(krate, &item.part)).collect();
    let mut taken = vec![false; items.len()];
    loop {
        let before = names.len();
        for (item, taken) in items.iter().zip(&mut taken) {
            if !*taken && words(&item.text).iter().any(|word| names.contains(word)) {
                *taken = true;
                names.extend(item.part.names.iter().map(String::as_str));
            }
        }
        if names.len() == before {
            break;
        }
    }
    items.into_iter().zip(taken).filter(|(_, taken)| *taken).map(|(item, _)| item.clone()).collect()
}

/// An import whose path begins with one of the names a crate defines itself, beginning with that crate: an older item
/// of the name may come through a glob, which rustc weighs as much as an item with a `derive`.
pub fn rooted(import: &str, own: &BTreeSet<String>) -> String {
    let mut segments = segments(import);
    match segments.next().is_some_and(|first| own.contains(first)) && segments.next().is_some() {
        true => import.replacen("use ", "use crate::", 1),
        false => import.into(),
    }
}

/// Of an import's path.
fn segments(import: &str) -> impl Iterator<Item = &str> {
    let path = import.split_once("use ").map_or("", |(_, path)| path.trim_start());
    path.trim_end_matches(';').split("::")
}

/// What could be names in a text of Rust.
pub fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect()
}

/// Old items with the new ones in their place: same name or same impl means a new version.
pub fn merged(old: Vec<KeptItem>, new: &[ItemPart]) -> Vec<KeptItem> {
    let replaced = |item: &ItemPart| {
        new.iter().any(|fresh| {
            fresh.key == item.key
                && !item.key.is_empty()
                && (!item.inherent || fresh.members.iter().any(|m| item.members.contains(m)))
        })
    };
    old.into_iter().filter(|item| !replaced(&item.part)).collect()
}
