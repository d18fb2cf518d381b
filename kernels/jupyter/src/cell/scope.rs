//! What earlier cells have left behind: names, imports, macros, item crates and variables.

use super::items::ItemPart;
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
            if let Some(name) = &item.part.name {
                self.names.insert(name.clone(), Binding::Item(krate.to_string()));
            }
        }
        self.crates.insert(krate.to_string(), items);
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
                Binding::Import(import) => text.push_str(import),
                Binding::Item(krate) => text.push_str(&format!("use {krate}::{name};")),
            }
            text.push('\n');
        }
        text
    }
}

/// The earlier crates whose items must be compiled again with these new ones, because the orphan
/// rule wants an `impl` in the crate of its type (or trait).
pub fn to_merge(scope: &Scope, items: &[ItemPart]) -> BTreeSet<String> {
    let own: BTreeSet<&str> = items.iter().filter_map(|item| item.name.as_deref()).collect();
    let mut merge = BTreeSet::new();
    for item in items.iter().filter(|item| !item.about.is_empty()) {
        let home = match item.inherent {
            true => &item.about[..1],
            false => &item.about[..],
        };
        if home.iter().any(|name| own.contains(name.as_str())) {
            continue;
        }
        if let Some(krate) = home.iter().find_map(|name| scope.crate_of(name)) {
            merge.insert(krate.to_string());
        }
    }
    merge
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
