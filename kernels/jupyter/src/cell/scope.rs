//! What earlier cells have left behind: names, imports, macros, item crates and variables.

use super::items::{ItemPart, UNKNOWN};
use super::parse::{Cell, Import};
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

/// What a crate defines itself.
#[derive(Debug, Default)]
pub struct Own {
    pub names: BTreeSet<String>,
    /// Those that paths can lead through.
    pub roots: BTreeSet<String>,
}

impl Own {
    pub fn of<'a>(items: impl IntoIterator<Item = &'a ItemPart>) -> Self {
        let mut own = Own::default();
        for item in items {
            own.names.extend(item.names.iter().cloned());
            own.roots.extend(item.names.iter().filter(|_| item.is_root()).cloned());
        }
        own
    }
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
                if item.part.value && item.part.conditions.is_empty() {
                    self.variables.remove(name);
                }
            }
        }
        // An `impl` that has moved is in one place only.
        for older in self.crates.values_mut() {
            older.retain(|old| !old.part.names.is_empty() || items.iter().all(|item| item.text != old.text));
        }
        self.crates.insert(krate.to_string(), items);
    }

    /// The item by whose name another is reached: the module `shapes` for `Square`, where that is imported from it.
    fn reached_by<'a>(&'a self, name: &'a str, cell: &'a Cell) -> &'a str {
        let defines = |item: &ItemPart, name: &str| item.names.iter().any(|own| own == name);
        if cell.items.iter().any(|item| defines(item, name)) {
            return name;
        }
        let mut fresh = cell.uses.iter().flat_map(|(_, imports)| imports);
        let import = match (fresh.find(|import| import.name.as_deref() == Some(name)), self.names.get(name)) {
            (Some(Import { text, .. }), _) | (None, Some(Binding::Import(text))) => text,
            _ => return name,
        };
        let Some(first) = inner(import).next() else { return name };
        let older = self.crate_of(first).and_then(|krate| self.crates.get(krate)).into_iter().flatten();
        let mut items = cell.items.iter().chain(older.map(|item| &item.part));
        if items.any(|item| item.is_root() && defines(item, first)) { first } else { name }
    }

    /// A cell's items, with what they are about by the names of items.
    pub fn items_of(&self, cell: &Cell) -> Vec<ItemPart> {
        let mut items = cell.items.clone();
        for name in items.iter_mut().flat_map(|item| item.about.iter_mut().chain(&mut item.of)) {
            *name = self.reached_by(name, cell).to_string();
        }
        items
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
            let mut path = inner(import);
            let (first, path) = (path.next().unwrap_or_default(), path.collect::<Vec<_>>().join("::"));
            let redefined = |item: &&ItemPart| item.is_root() && item.names.iter().any(|name| name == first);
            let Some(item) = items.iter().find(redefined) else { return true };
            // A glob asks for whatever there is.
            let all = path.strip_suffix(UNKNOWN);
            path.is_empty()
                || item.members.iter().any(|member| match (all, member.strip_suffix(UNKNOWN)) {
                    (Some(all), Some(unknown)) => all.starts_with(unknown) || unknown.starts_with(all),
                    (Some(all), None) => member.starts_with(all),
                    (None, Some(unknown)) => path.starts_with(unknown),
                    (None, None) => path == *member,
                })
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

    /// The imports every generated crate begins with, without the names it has itself.
    pub fn imports(&self, own: &Own) -> String {
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
            if own.names.contains(name) {
                continue;
            }
            match binding {
                Binding::Import(import) => {
                    text.push_str(&rooted(import, &own.roots));
                    text.push('\n');
                }
                Binding::Item(krate) => {
                    for conditions in self.conditions(krate, name) {
                        text.push_str(&format!("{conditions}use {krate}::{name};\n"));
                    }
                }
            }
        }
        text
    }

    /// Those under which a crate has an item of the name, each once: there may be one for every case.
    fn conditions(&self, krate: &str, name: &str) -> BTreeSet<&str> {
        let items = self.crates.get(krate).into_iter().flatten().map(|item| &item.part);
        let named = items.filter(|item| item.names.iter().any(|own| own == name));
        named.map(|item| item.conditions.as_str()).collect()
    }
}

/// Item crates are numbered in the order in which their cells ran.
pub fn number(krate: &str) -> usize {
    krate.trim_start_matches("cell_").parse().unwrap_or(0)
}

/// The earlier items that must be compiled again with these new ones, because the orphan rule wants an `impl` in the
/// crate of its type (or trait): that type, what of its crate speaks of it, and what later cells have implemented for
/// it. Everything else stays what it is.
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
    let mut older: Vec<KeptItem> = Vec::new();
    for (krate, names) in homes {
        let speaking = speaking_of(scope, krate, names);
        for item in speaking.iter().chain(implemented_later(scope, krate, &speaking)) {
            if older.iter().all(|taken| taken.text != item.text) {
                older.push(item.clone());
            }
        }
    }
    older
}

/// The present `impl`s of other crates for types and of traits among these items of a crate.
fn implemented_later<'a>(scope: &'a Scope, home: &str, items: &[KeptItem]) -> Vec<&'a KeptItem> {
    let among = |name: Option<&String>| {
        name.is_some_and(|name| items.iter().any(|item| item.part.is_root() && item.part.names.contains(name)))
    };
    let later = scope.crates.iter().filter(|(krate, _)| number(krate) > number(home));
    let all = later.flat_map(|(krate, items)| items.iter().filter(move |item| scope.is_current(krate, &item.part)));
    all.filter(|item| among(item.part.of.as_ref()) || among(item.part.about.first())).collect()
}

/// The items of a crate that have one of these names or speak of one that has, in their order.
fn speaking_of<'a>(scope: &'a Scope, krate: &str, mut names: BTreeSet<&'a str>) -> Vec<KeptItem> {
    let items: Vec<&KeptItem> = scope.crates[krate].iter().filter(|item| scope.is_current(krate, &item.part)).collect();
    let mut taken = vec![false; items.len()];
    loop {
        let before = names.len();
        for (item, taken) in items.iter().zip(&mut taken) {
            let about = item.part.about.iter().map(String::as_str);
            if !*taken && words(&item.text).into_iter().chain(about).any(|word| names.contains(word)) {
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
pub fn rooted(import: &str, roots: &BTreeSet<String>) -> String {
    let mut segments = segments(import);
    match segments.next().is_some_and(|first| roots.contains(first)) && segments.next().is_some() {
        true => import.replacen("use ", "use crate::", 1),
        false => import.into(),
    }
}

/// Of an import's path.
fn segments(import: &str) -> impl Iterator<Item = &str> {
    let path = import.split_once("use ").map_or("", |(_, path)| path.trim_start());
    path.trim_end_matches(';').split(" as ").next().unwrap_or_default().split("::")
}

/// Less what leads to the top of the notebook.
fn inner(import: &str) -> impl Iterator<Item = &str> {
    segments(import).skip_while(|segment| matches!(*segment, "self" | "crate"))
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
