//! The type of an expression, as far as signatures tell. A guess: what it cannot follow it gives up.

use super::context::{Step, expression};
use super::index::{Entry, Index, Kind, head, words};
use crate::cell::scope::Scope;
use syn::{GenericArgument, PathArguments, Type};

/// What is known: the project's names, the notebook's, and the cell as far as it is written.
pub struct Known<'a> {
    pub index: &'a Index,
    pub own: &'a Index,
    pub scope: &'a Scope,
    pub code: &'a [char],
}

/// A `let` whose right side mentions a `let` whose … ends somewhere.
const DEPTH: usize = 8;

impl<'a> Known<'a> {
    /// The name of the type that the steps lead to, without path and arguments.
    pub fn owner(&self, steps: &[Step]) -> Option<String> {
        head(&peeled(self.ty(steps, DEPTH)?))
    }

    /// Those of a type of the notebook's hide those of libraries' types of the same name.
    pub fn members<'o>(&self, owner: &'o str) -> impl Iterator<Item = &'a Entry> + use<'a, 'o> {
        let of_libraries = self.index.of_traits(self.own.implements.get(owner));
        let own = self.own.free().any(|entry| entry.kind == Kind::Type && entry.name == owner);
        let others = (!own).then(|| self.index.members(owner));
        self.own.members(owner).chain(others.into_iter().flatten()).chain(of_libraries)
    }

    /// Whether it is written by a macro of a crate.
    pub fn derived(&self, owner: &str, entry: &Entry) -> bool {
        let by = |name: &str| {
            let mut indices = [self.own, self.index].into_iter();
            indices.any(|index| index.derived.get(owner).is_some_and(|derived| derived.contains(name)))
        };
        let of = entry.owner.as_deref().unwrap_or_default();
        by(of) || of == owner && by("Config") && (entry.name == "new" || entry.name.starts_with("with_"))
    }

    pub fn free(&self) -> impl Iterator<Item = &'a Entry> {
        self.own.free().chain(self.index.free())
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        self.local(name, DEPTH).map(|(text, _)| text).or_else(|| Some(self.scope.variables.get(name)?.ty.clone()))
    }

    fn ty(&self, steps: &[Step], depth: usize) -> Option<Type> {
        let depth = depth.checked_sub(1)?;
        let (first, rest) = steps.split_first()?;
        let called = rest.first() == Some(&Step::Call);
        let text = match first {
            Step::Name(name) => match self.local(name, depth) {
                Some((_, ty)) => return self.follow(ty, rest),
                None => self.scope.variables.get(name)?.ty.clone(),
            },
            Step::Path(path) => match path.as_slice() {
                [.., owner, name] if self.member(owner, name).is_some() => self.member(owner, name)?.ty.clone()?,
                [.., name] => {
                    let found = self.free().find(|entry| entry.name == *name)?;
                    found.ty.clone().or(called.then(|| name.clone()))?
                }
                [] => return None,
            },
            _ => return None,
        };
        let rest = if called { &rest[1..] } else { rest };
        self.follow(syn::parse_str(&text).ok()?, rest)
    }

    fn follow(&self, mut ty: Type, steps: &[Step]) -> Option<Type> {
        for step in steps {
            ty = peeled(ty);
            let owner = head(&ty)?;
            ty = match step {
                Step::Try => argument(&ty)?,
                Step::Element => argument(&ty)?,
                Step::Member(name) => match name.as_str() {
                    "clone" | "to_owned" => ty,
                    "unwrap" | "expect" | "unwrap_or_default" if ["Result", "Option"].contains(&owner.as_str()) => {
                        argument(&ty)?
                    }
                    name => {
                        let entry = self.member(&owner, name)?;
                        // `Self` of a trait's method is the type it is called on.
                        let of = entry.owner.clone().unwrap_or_default();
                        let text = words(entry.ty.as_deref()?, |word| {
                            if word == of && of != owner { owner.clone() } else { word.into() }
                        });
                        syn::parse_str(&text).ok()?
                    }
                },
                _ => return None,
            };
        }
        Some(ty)
    }

    fn member(&self, owner: &str, name: &str) -> Option<&'a Entry> {
        self.members(owner).find(|entry| entry.name == name)
    }

    /// The type of the cell's own `let name`, as text and parsed.
    fn local(&self, name: &str, depth: usize) -> Option<(String, Type)> {
        let text: String = self.code.iter().collect();
        let mut found = None;
        for (at, _) in text.match_indices("let ") {
            let rest = text[at + 4..].trim_start();
            let rest = rest.strip_prefix("mut ").unwrap_or(rest).trim_start();
            let Some(after) = rest.strip_prefix(name).map(str::trim_start) else { continue };
            if let Some(typed) = after.strip_prefix(':') {
                let ty = typed.split(['=', ';']).next().unwrap_or_default().trim();
                found = syn::parse_str(ty).ok().map(|parsed| (ty.to_string(), parsed)).or(found);
            } else if let Some(value) = after.strip_prefix('=') {
                let Some((value, _)) = value.split_once(';') else { continue };
                let value = value.trim().trim_start_matches('&');
                let literal = value.strip_suffix('}').and_then(|value| syn::parse_str(value.split('{').next()?).ok());
                let value: Vec<char> = value.chars().collect();
                let ty = literal.or_else(|| expression(&value).and_then(|steps| self.ty(&steps, depth)));
                found = ty.map(|ty| (head(&ty).unwrap_or_default(), ty)).or(found);
            }
        }
        found
    }
}

/// What is behind references and smart pointers.
fn peeled(ty: Type) -> Type {
    match &ty {
        Type::Reference(reference) => peeled((*reference.elem).clone()),
        _ if head(&ty).is_some_and(|name| ["Box", "Arc", "Rc"].contains(&name.as_str())) => {
            argument(&ty).map_or(ty, peeled)
        }
        _ => ty,
    }
}

/// `T` of `Result<T, E>`, `Option<T>`, `Vec<T>`.
fn argument(ty: &Type) -> Option<Type> {
    match ty {
        Type::Path(path) => match &path.path.segments.last()?.arguments {
            PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty.clone()),
                _ => None,
            }),
            _ => None,
        },
        Type::Slice(slice) => Some((*slice.elem).clone()),
        Type::Array(array) => Some((*array.elem).clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_of_the_notebook_hides_one_of_a_library_and_an_impl_adds_to_it() {
        let (mut index, mut own) = (Index::default(), Index::default());
        index.source("library", "pub struct Gate { pub open: bool } pub struct Door { pub open: bool }");
        own.source("cell_1", "pub struct Gate { pub width: u8 } impl Door { pub fn close(&self) {} }");
        let known = Known { index: &index, own: &own, scope: &Scope::default(), code: &[] };
        let names = |owner| known.members(owner).map(|entry| entry.name.as_str()).collect::<Vec<_>>();
        assert_eq!((names("Gate"), names("Door")), (vec!["width"], vec!["close", "open"]));
    }
}
