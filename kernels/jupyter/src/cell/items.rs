//! Items of a cell: what they are called, and where a `pub` belongs so that later cells see them.

use std::ops::Range;
use syn::spanned::Spanned;
use syn::{Fields, GenericArgument, ImplItem, Item, PathArguments, Type, Visibility};

#[derive(Debug, Clone)]
pub struct ItemPart {
    pub range: Range<usize>,
    /// The name it defines; `None` for `impl` blocks and the like.
    pub name: Option<String>,
    /// What it is and for what: a later item with the same key replaces it.
    pub key: String,
    /// For an `impl`: names it is about, the type first, then the trait and their arguments.
    pub about: Vec<String>,
    /// An inherent impl may only stand in the crate of its type.
    pub inherent: bool,
    /// Methods of an impl, to tell a second block from a new version of the first.
    pub members: Vec<String>,
    /// Byte offsets at which `pub ` is inserted.
    pub publish: Vec<usize>,
}

pub fn item_part(source: &str, item: &Item, range: Range<usize>) -> ItemPart {
    let mut part = ItemPart {
        range,
        name: None,
        key: String::new(),
        about: Vec::new(),
        inherent: false,
        members: Vec::new(),
        publish: Vec::new(),
    };
    let named = match item {
        Item::Fn(i) => Some(("fn", &i.sig.ident, &i.vis, i.sig.span())),
        Item::Struct(i) => Some(("type", &i.ident, &i.vis, i.struct_token.span())),
        Item::Enum(i) => Some(("type", &i.ident, &i.vis, i.enum_token.span())),
        Item::Union(i) => Some(("type", &i.ident, &i.vis, i.union_token.span())),
        Item::Type(i) => Some(("type", &i.ident, &i.vis, i.type_token.span())),
        Item::Trait(i) => {
            let start = i.unsafety.as_ref().map_or(i.trait_token.span(), |u| u.span());
            Some(("type", &i.ident, &i.vis, start))
        }
        Item::TraitAlias(i) => Some(("type", &i.ident, &i.vis, i.trait_token.span())),
        Item::Const(i) => Some(("value", &i.ident, &i.vis, i.const_token.span())),
        Item::Static(i) => Some(("value", &i.ident, &i.vis, i.static_token.span())),
        Item::Mod(i) => Some(("mod", &i.ident, &i.vis, i.mod_token.span())),
        _ => None,
    };
    if let Some((kind, ident, vis, start)) = named {
        part.name = Some(ident.to_string()).filter(|name| name != "_");
        part.key = format!("{kind} {ident}");
        publish(vis, start, &mut part.publish);
    }
    match item {
        Item::Struct(item) => fields(&item.fields, &mut part.publish),
        Item::Union(item) => fields(&Fields::Named(item.fields.clone()), &mut part.publish),
        Item::Impl(item) => implementation(source, item, &mut part),
        _ => {}
    }
    part
}

fn publish(vis: &Visibility, start: proc_macro2::Span, into: &mut Vec<usize>) {
    if matches!(vis, Visibility::Inherited) {
        into.push(start.byte_range().start);
    }
}

fn fields(fields: &Fields, into: &mut Vec<usize>) {
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
        path_names(path, &mut part.about);
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
        _ => {}
    }
}

fn path_names(path: &syn::Path, into: &mut Vec<String>) {
    let Some(last) = path.segments.last() else { return };
    into.push(last.ident.to_string());
    if let PathArguments::AngleBracketed(arguments) = &last.arguments {
        for argument in &arguments.args {
            if let GenericArgument::Type(ty) = argument {
                names_in(ty, into);
            }
        }
    }
}
