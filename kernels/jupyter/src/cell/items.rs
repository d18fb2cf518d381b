//! Items of a cell: what they are called, and where a `pub` belongs so that later cells see them.

use proc_macro2::TokenTree;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::{
    Attribute, Fields, ForeignItem, GenericArgument, ImplItem, Item, PathArguments, Safety, Stmt, StmtMacro, Type,
    TypeParamBound, Visibility,
};

#[derive(Debug, Clone, Default)]
pub struct ItemPart {
    pub range: Range<usize>,
    /// The names it defines: none for `impl` blocks and tests, several for `extern` blocks.
    pub names: Vec<String>,
    /// Its `cfg` attributes: where one does not hold, the names are not there.
    pub conditions: String,
    /// Whether a name of it stands where a variable could.
    pub value: bool,
    /// What it is and for what: a later item with the same key replaces it.
    pub key: String,
    /// For an `impl`: names it is about, the type first, then the trait and their arguments; of a path the first.
    pub about: Vec<String>,
    /// Which of them is the trait.
    pub of: Option<String>,
    /// An inherent impl may only stand in the crate of its type.
    pub inherent: bool,
    /// Methods of an impl, to tell a second block from a new version of the first; variants of an enum; paths inside a
    /// module, ending in [`UNKNOWN`] where not all can be seen.
    pub members: Vec<String>,
    /// What `pub` takes the place of: nothing, or a narrower visibility.
    pub publish: Vec<Range<usize>>,
}

/// Stands for members that only rustc sees: those of a glob, of a macro.
pub const UNKNOWN: &str = "*";

/// The statics of a `thread_local!`, which is no item to syn.
pub fn thread_locals(statement: &Stmt, range: Range<usize>) -> Option<ItemPart> {
    let Stmt::Macro(StmtMacro { mac, .. }) = statement else { return None };
    if mac.path.segments.last()?.ident != "thread_local" {
        return None;
    }
    let mut part = ItemPart { range, value: true, ..ItemPart::default() };
    let tokens: Vec<TokenTree> = mac.tokens.clone().into_iter().collect();
    let word = |at: Option<usize>, word: &str| {
        at.and_then(|at| tokens.get(at)).is_some_and(|token| matches!(token, TokenTree::Ident(ident) if ident == word))
    };
    for (at, token) in tokens.iter().enumerate().filter(|(at, _)| word(Some(*at), "static")) {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else { continue };
        part.names.push(name.to_string());
        if !word(at.checked_sub(1), "pub") {
            let start = token.span().byte_range().start;
            part.publish.push(start..start);
        }
    }
    part.key = format!("value {}", part.names.join(" "));
    Some(part)
}

impl ItemPart {
    /// Whether paths can lead through a name of it; a function leaves those through a crate of its name alone.
    pub fn is_root(&self) -> bool {
        self.key.starts_with("type ") || self.key.starts_with("mod ")
    }
}

/// Whether it is there for `cargo test` alone, by the standard library's attribute or by another's, as `#[tokio::test]`.
fn is_test(attributes: &[Attribute]) -> bool {
    let last = |attribute: &Attribute| attribute.path().segments.last().map(|segment| segment.ident.to_string());
    attributes.iter().filter_map(last).any(|name| name == "test" || name == "bench")
}

/// The `cfg` attributes as they are written, one a line.
pub fn conditions(source: &str, attributes: &[Attribute]) -> String {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.map(|attribute| format!("{}\n", &source[attribute.span().byte_range()])).collect()
}

pub fn item_part(source: &str, item: &Item, range: Range<usize>) -> ItemPart {
    let mut part = ItemPart { range, ..ItemPart::default() };
    let named = match item {
        Item::Fn(i) => Some(("fn", &i.sig.ident, &i.vis, i.sig.span(), &i.attrs)),
        Item::Struct(i) => Some(("type", &i.ident, &i.vis, i.struct_token.span(), &i.attrs)),
        Item::Enum(i) => Some(("type", &i.ident, &i.vis, i.enum_token.span(), &i.attrs)),
        Item::Union(i) => Some(("type", &i.ident, &i.vis, i.union_token.span(), &i.attrs)),
        Item::Type(i) => Some(("type", &i.ident, &i.vis, i.type_token.span(), &i.attrs)),
        Item::Trait(i) => {
            let start = i.unsafety.as_ref().map_or(i.trait_token.span(), |u| u.span());
            Some(("type", &i.ident, &i.vis, start, &i.attrs))
        }
        Item::TraitAlias(i) => Some(("type", &i.ident, &i.vis, i.trait_token.span(), &i.attrs)),
        Item::Const(i) => Some(("value", &i.ident, &i.vis, i.const_token.span(), &i.attrs)),
        Item::Static(i) => Some(("value", &i.ident, &i.vis, i.static_token.span(), &i.attrs)),
        Item::Mod(i) => Some(("mod", &i.ident, &i.vis, i.mod_token.span(), &i.attrs)),
        _ => None,
    };
    if let Some((kind, ident, vis, start, attributes)) = named {
        part.names.extend((ident != "_" && !is_test(attributes)).then(|| ident.to_string()));
        part.conditions = conditions(source, attributes);
        part.value = matches!(kind, "fn" | "value");
        part.key = format!("{kind} {ident}");
        publish(vis, start, &mut part.publish);
    }
    match item {
        Item::Struct(item) => {
            part.value = !matches!(item.fields, Fields::Named(_));
            fields(&item.fields, &mut part.publish);
        }
        Item::Enum(item) => part.members = item.variants.iter().map(|variant| variant.ident.to_string()).collect(),
        Item::Mod(item) => {
            let inside = item.content.iter().flat_map(|(_, items)| items);
            part.members = inside.flat_map(|item| members(source, item)).collect();
        }
        Item::ForeignMod(item) => foreign(source, item, &mut part),
        Item::Union(item) => fields(&Fields::Named(item.fields.clone()), &mut part.publish),
        Item::Impl(item) => implementation(source, item, &mut part),
        _ => {}
    }
    part
}

/// What can be imported from the module that an item stands in.
fn members(source: &str, item: &Item) -> Vec<String> {
    if let Item::Use(_) | Item::Macro(_) = item {
        return vec![UNKNOWN.into()];
    }
    let ItemPart { names, members, .. } = item_part(source, item, 0..0);
    let inside = |name: &String| members.iter().map(|member| format!("{name}::{member}")).collect::<Vec<_>>();
    names.iter().flat_map(inside).chain(names.iter().cloned()).collect()
}

/// Functions and statics of another language.
fn foreign(source: &str, item: &syn::ItemForeignMod, part: &mut ItemPart) {
    part.value = true;
    part.conditions = conditions(source, &item.attrs);
    for item in &item.items {
        let (ident, vis, start) = match item {
            ForeignItem::Fn(i) => (&i.sig.ident, &i.vis, i.sig.span()),
            ForeignItem::Static(i) => {
                let plain = matches!(i.safety, Safety::Default);
                (&i.ident, &i.vis, if plain { i.static_token.span() } else { i.safety.span() })
            }
            ForeignItem::Type(i) => (&i.ident, &i.vis, i.type_token.span()),
            _ => continue,
        };
        part.names.push(ident.to_string());
        publish(vis, start, &mut part.publish);
    }
}

fn publish(vis: &Visibility, start: proc_macro2::Span, into: &mut Vec<Range<usize>>) {
    match vis {
        Visibility::Public(_) => {}
        Visibility::Restricted(narrow) => into.push(narrow.span().byte_range()),
        Visibility::Inherited => {
            let start = start.byte_range().start;
            into.push(start..start);
        }
    }
}

fn fields(fields: &Fields, into: &mut Vec<Range<usize>>) {
    for field in fields {
        let start = field.ident.as_ref().map_or_else(|| field.ty.span(), |ident| ident.span());
        publish(&field.vis, start, into);
    }
}

fn implementation(source: &str, item: &syn::ItemImpl, part: &mut ItemPart) {
    names_in(&item.self_ty, &mut part.about);
    part.inherent = item.trait_.is_none();
    // The header as written, less its spacing, tells which impl this is.
    let header = source[item.impl_token.span().byte_range().start..item.self_ty.span().byte_range().end]
        .split_whitespace()
        .collect::<String>();
    part.key = header;
    if let Some((path, _)) = &item.trait_ {
        let first = part.about.len();
        path_names(path, &mut part.about);
        part.of = part.about.get(first).cloned();
        return;
    }
    for member in &item.items {
        match member {
            ImplItem::Fn(f) => {
                part.members.push(f.sig.ident.to_string());
                publish(&f.vis, f.sig.span(), &mut part.publish);
            }
            ImplItem::Const(c) => {
                part.members.push(c.ident.to_string());
                publish(&c.vis, c.const_token.span(), &mut part.publish);
            }
            ImplItem::Type(t) => publish(&t.vis, t.type_token.span(), &mut part.publish),
            _ => {}
        }
    }
}

fn names_in(ty: &Type, into: &mut Vec<String>) {
    match ty {
        Type::Path(path) => path_names(&path.path, into),
        Type::Reference(reference) => names_in(&reference.elem, into),
        Type::Paren(paren) => names_in(&paren.elem, into),
        Type::Slice(slice) => names_in(&slice.elem, into),
        Type::Array(array) => names_in(&array.elem, into),
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|ty| names_in(ty, into)),
        Type::TraitObject(object) => object.bounds.iter().for_each(|bound| {
            if let TypeParamBound::Trait(bound) = bound {
                path_names(&bound.path, into);
            }
        }),
        _ => {}
    }
}

/// The name that a path begins with, and those in its arguments.
fn path_names(path: &syn::Path, into: &mut Vec<String>) {
    let mut names = path.segments.iter().map(|segment| segment.ident.to_string());
    into.extend(names.find(|name| !matches!(name.as_str(), "self" | "crate" | "super")));
    if let Some(PathArguments::AngleBracketed(arguments)) = path.segments.last().map(|last| &last.arguments) {
        for argument in &arguments.args {
            if let GenericArgument::Type(ty) = argument {
                names_in(ty, into);
            }
        }
    }
}
