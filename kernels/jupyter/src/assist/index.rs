//! What can be named: types, functions, methods, fields, with their signatures and docs, read from the
//! sources of the project, of burn and of the standard library by `install`, and from a notebook's own items
//! as they come.

use super::read::Reader;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::Type;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Function,
    Method,
    Field,
    Variant,
    Type,
    Trait,
    Constant,
    Macro,
}

impl Kind {
    /// The word by which JupyterLab chooses an icon.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Function | Kind::Method => "function",
            Kind::Field => "property",
            Kind::Variant => "enum",
            Kind::Type => "class",
            Kind::Trait => "interface",
            Kind::Constant => "constant",
            Kind::Macro => "keyword",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    /// The type or trait it belongs to.
    pub owner: Option<String>,
    /// The modules it is defined in, crate first.
    pub path: String,
    /// As written, on one line.
    pub signature: String,
    /// Its doc comment's first paragraph.
    pub doc: String,
    /// What a field is and what a function returns.
    pub ty: Option<String>,
    /// A function of the owner that takes no `self`.
    pub associated: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Index {
    pub entries: Vec<Entry>,
    /// Traits by the type that implements them.
    pub implements: BTreeMap<String, BTreeSet<String>>,
    /// Those among them that a macro of a crate writes.
    pub derived: BTreeMap<String, BTreeSet<String>>,
}

impl Index {
    /// Reads all modules of a crate. What does not parse is left out: an index has no say in whether
    /// code is right.
    pub fn read(&mut self, krate: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_string();
            if name == "tests" || name == "bin" {
                continue;
            }
            if path.is_dir() {
                self.read(&format!("{krate}::{name}"), &path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let module = match name.as_str() {
                    "lib" | "mod" => krate.to_string(),
                    name => format!("{krate}::{name}"),
                };
                self.source(&module, &std::fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }

    /// Reads the text of a module.
    pub fn source(&mut self, module: &str, text: &str) {
        let std = ["core", "alloc", "std"].contains(&module.split("::").next().unwrap_or_default());
        let text = if std { stable_syntax(text) } else { text.into() };
        if let Ok(file) = syn::parse_file(&text) {
            Reader { index: self, text: &text, stable_only: std }.items(module, &file.items);
        }
        proc_macro2::extra::invalidate_current_thread_spans();
    }

    /// Everything of that owner: of the type itself, of what it lends out, and of its traits.
    pub fn members<'a, 'o>(&'a self, owner: &'o str) -> impl Iterator<Item = &'a Entry> + use<'a, 'o> {
        let traits = self.implements.get(owner);
        let lent = LENDS.iter().find(|(name, _)| *name == owner).map(|(_, lent)| *lent);
        self.entries.iter().filter(move |entry| {
            let own = entry.owner.as_deref();
            let of_trait = || own.is_some_and(|own| traits.is_some_and(|traits| traits.contains(own)));
            own.is_some() && (own == Some(owner) || own == lent || of_trait())
        })
    }

    /// Everything of those traits.
    pub fn of_traits<'a>(&'a self, traits: Option<&'a BTreeSet<String>>) -> impl Iterator<Item = &'a Entry> {
        let own = move |entry: &&Entry| entry.owner.as_ref().is_some_and(|own| traits.is_some_and(|t| t.contains(own)));
        self.entries.iter().filter(own)
    }

    /// What stands by itself in a module.
    pub fn free(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.owner.is_none())
    }
}

/// The standard library's own syntax, which no parser of stable Rust reads, without what it adds.
fn stable_syntax(text: &str) -> String {
    let replaced = [
        ("[const] ", ""),
        ("const unsafe trait", "unsafe trait"),
        ("const trait", "trait"),
        ("const impl", "impl"),
        ("const unsafe impl", "unsafe impl"),
        ("> const ", "> "),
        ("impl const ", "impl "),
        ("auto trait", "trait"),
        ("default fn", "fn"),
        ("default const fn", "fn"),
    ];
    replaced.iter().fold(text.to_string(), |text, (own, plain)| text.replace(own, plain))
}

/// Types that act as another one.
const LENDS: [(&str, &str); 3] = [("Vec", SLICE), ("String", "str"), ("PathBuf", "Path")];

/// What `[T]` and `[T; N]` are called.
const SLICE: &str = "slice";

/// The text with every identifier replaced.
pub fn words(text: &str, replace: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            out += &replace(&std::mem::take(&mut word));
        }
        out.push(c);
    }
    if word.is_empty() { out } else { out + &replace(&word) }
}

/// The name of a type without its path and arguments.
pub fn head(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        Type::Reference(reference) => head(&reference.elem),
        Type::Paren(paren) => head(&paren.elem),
        Type::Slice(_) | Type::Array(_) => Some(SLICE.into()),
        _ => None,
    }
}
