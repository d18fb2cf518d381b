//! Reads one module into the index.

use super::index::{Entry, Index, Kind, head, words};
use syn::spanned::Spanned;
use syn::{Attribute, Fields, ImplItem, Item, ReturnType, TraitItem, Visibility};

pub(super) struct Reader<'a> {
    pub(super) index: &'a mut Index,
    pub(super) text: &'a str,
    /// The standard library marks what everybody may use, and has much besides.
    pub(super) stable_only: bool,
}

/// What the compiler itself derives.
const STANDARD: [&str; 9] = ["Clone", "Copy", "Debug", "Default", "Eq", "Hash", "Ord", "PartialEq", "PartialOrd"];

impl Reader<'_> {
    pub(super) fn items(&mut self, module: &str, items: &[Item]) {
        items.iter().for_each(|item| self.item(module, item));
    }

    fn item(&mut self, module: &str, item: &Item) {
        match item {
            Item::Mod(i) if (public(&i.vis) || self.stable_only) && !hidden(&i.attrs) => {
                if let Some((_, items)) = &i.content {
                    self.items(&format!("{module}::{}", i.ident), items);
                }
            }
            Item::Fn(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Function, &i.sig.ident, i.sig.span(), &i.attrs);
                self.returns(&i.sig.output, false);
            }
            Item::Struct(i) if self.open(&i.vis, &i.attrs) => {
                let span = i.struct_token.span.join(i.generics.span()).unwrap_or(i.ident.span());
                self.add(module, None, Kind::Type, &i.ident, span, &i.attrs);
                let owner = i.ident.to_string();
                self.fields(module, &owner, &i.fields);
                self.derives(module, &owner, &i.attrs, &i.fields);
            }
            Item::Enum(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Type, &i.ident, i.enum_token.span, &i.attrs);
                let owner = i.ident.to_string();
                for variant in &i.variants {
                    self.add(module, Some(&owner), Kind::Variant, &variant.ident, variant.span(), &variant.attrs);
                    self.last().ty = Some(owner.clone());
                }
                self.derives(module, &owner, &i.attrs, &Fields::Unit);
            }
            Item::Type(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Type, &i.ident, i.span(), &i.attrs);
            }
            Item::Const(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Constant, &i.ident, i.span(), &i.attrs);
                self.last().ty = Some(self.slice(i.ty.span()));
            }
            Item::Static(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Constant, &i.ident, i.span(), &i.attrs);
                self.last().ty = Some(self.slice(i.ty.span()));
            }
            Item::Macro(i) if i.attrs.iter().any(|a| a.path().is_ident("macro_export")) => {
                if let Some(ident) = &i.ident {
                    self.add(module, None, Kind::Macro, ident, ident.span(), &i.attrs);
                }
            }
            Item::Trait(i) if self.open(&i.vis, &i.attrs) => {
                self.add(module, None, Kind::Trait, &i.ident, i.trait_token.span, &i.attrs);
                let owner = i.ident.to_string();
                for member in &i.items {
                    if let TraitItem::Fn(f) = member
                        && self.stable(&f.attrs)
                    {
                        self.method(module, &owner, &f.sig, &f.attrs);
                    }
                }
            }
            Item::Impl(i) => self.implementation(module, i),
            _ => {}
        }
    }

    fn implementation(&mut self, module: &str, item: &syn::ItemImpl) {
        let Some(owner) = head(&item.self_ty) else { return };
        if let Some((path, _)) = &item.trait_ {
            let name = path.segments.last().map(|segment| segment.ident.to_string());
            self.index.implements.entry(owner).or_default().extend(name);
            return;
        }
        for member in &item.items {
            match member {
                ImplItem::Fn(f) if self.open(&f.vis, &f.attrs) => self.method(module, &owner, &f.sig, &f.attrs),
                ImplItem::Const(c) if self.open(&c.vis, &c.attrs) => {
                    self.add(module, Some(&owner), Kind::Constant, &c.ident, c.span(), &c.attrs);
                }
                _ => {}
            }
        }
    }

    fn method(&mut self, module: &str, owner: &str, sig: &syn::Signature, attrs: &[Attribute]) {
        if hidden(attrs) {
            return;
        }
        self.add(module, Some(owner), Kind::Method, &sig.ident, sig.span(), attrs);
        self.returns(&sig.output, sig.receiver().is_none());
    }

    fn fields(&mut self, module: &str, owner: &str, fields: &Fields) {
        for field in fields.iter().filter(|field| public(&field.vis)) {
            if let Some(ident) = &field.ident {
                let span = ident.span().join(field.ty.span()).unwrap_or(ident.span());
                self.add(module, Some(owner), Kind::Field, ident, span, &field.attrs);
                self.last().ty = Some(self.slice(field.ty.span()));
            }
        }
    }

    /// A derive is an implementation, and burn's `Config` writes a `new` and a `with_…` per default.
    fn derives(&mut self, module: &str, owner: &str, attrs: &[Attribute], fields: &Fields) {
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("derive")) {
            let _ = attr.parse_nested_meta(|meta| {
                let name = meta.path.segments.last().map(|segment| segment.ident.to_string());
                let foreign = name.clone().filter(|name| !STANDARD.contains(&name.as_str()));
                self.index.implements.entry(owner.into()).or_default().extend(name);
                self.index.derived.entry(owner.into()).or_default().extend(foreign);
                Ok(())
            });
        }
        if !self.index.implements.get(owner).is_some_and(|traits| traits.contains("Config")) {
            return;
        }
        let mut needed = Vec::new();
        for field in fields {
            let Some(ident) = &field.ident else { continue };
            let written = self.slice(ident.span().join(field.ty.span()).unwrap_or(ident.span()));
            if !field.attrs.iter().any(|attr| attr.path().is_ident("config")) {
                needed.push(written);
                continue;
            }
            let ty = self.slice(field.ty.span());
            let signature = format!("fn with_{ident}(self, {ident}: {ty}) -> {owner}");
            self.generated(module, owner, &format!("with_{ident}"), signature, doc(&field.attrs), false);
        }
        let signature = format!("fn new({}) -> {owner}", needed.join(", "));
        self.generated(module, owner, "new", signature, String::new(), true);
    }

    fn generated(&mut self, module: &str, owner: &str, name: &str, signature: String, doc: String, associated: bool) {
        self.index.entries.push(Entry {
            name: name.into(),
            kind: Kind::Method,
            owner: Some(owner.into()),
            path: module.into(),
            signature,
            doc,
            ty: Some(owner.into()),
            associated,
        });
    }

    /// Whether an item is for everybody.
    fn open(&self, vis: &Visibility, attrs: &[Attribute]) -> bool {
        public(vis) && self.stable(attrs)
    }

    fn stable(&self, attrs: &[Attribute]) -> bool {
        !self.stable_only || attrs.iter().any(|attr| attr.path().is_ident("stable"))
    }

    fn add(
        &mut self,
        module: &str,
        owner: Option<&str>,
        kind: Kind,
        name: &syn::Ident,
        span: proc_macro2::Span,
        attrs: &[Attribute],
    ) {
        let signature = match kind {
            Kind::Type | Kind::Trait => {
                let word = if kind == Kind::Trait { "trait" } else { "type" };
                format!("{word} {name}")
            }
            Kind::Macro => format!("{name}!"),
            _ => self.slice(span),
        };
        self.index.entries.push(Entry {
            name: name.to_string(),
            kind,
            owner: owner.map(String::from),
            path: module.into(),
            signature,
            doc: doc(attrs),
            ty: None,
            associated: false,
        });
    }

    fn returns(&mut self, output: &ReturnType, associated: bool) {
        let ty = match output {
            ReturnType::Type(_, ty) => self.slice(ty.span()),
            ReturnType::Default => "()".into(),
        };
        let entry = self.last();
        let owner = entry.owner.clone();
        entry.ty = Some(match owner {
            Some(owner) => words(&ty, |word| if word == "Self" { owner.clone() } else { word.into() }),
            None => ty,
        });
        entry.associated = associated;
    }

    fn last(&mut self) -> &mut Entry {
        self.index.entries.last_mut().expect("an entry was just added")
    }

    /// The text as written, on one line.
    fn slice(&self, span: proc_macro2::Span) -> String {
        let text = self.text.get(span.byte_range()).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(", )", ")")
    }
}

fn public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

fn hidden(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| match &attr.meta {
        syn::Meta::List(list) => {
            let text = list.tokens.to_string();
            attr.path().is_ident("doc") && text == "hidden" || attr.path().is_ident("cfg") && text == "test"
        }
        _ => false,
    })
}

fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        syn::Meta::NameValue(pair) if attr.path().is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value().trim().to_string()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.skip_while(String::is_empty).take_while(|line| !line.is_empty()).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
/// A gate.
///
/// More.
#[derive(Module, Debug)]
pub struct Gate<const D: usize> { pub inner: Tensor<D>, hidden: u8 }
impl<const D: usize> Gate<D> {
    /// Opens it.
    pub fn open(&self,
        x: Tensor<D>,
    ) -> Result<Self, String> { todo!() }
    pub fn new() -> Self { todo!() }
    fn private(&self) {}
}
#[derive(Config)]
pub struct GateConfig { d_model: usize, /// Whether.
    #[config(default = true)] bias: bool }
pub trait Twice { fn twice(&self) -> usize; }
impl Twice for Gate<1> { fn twice(&self) -> usize { 2 } }
pub enum Side { Left, Right(u8) }
#[cfg(test)]
pub mod tests { pub fn not_there() {} }
";

    #[test]
    fn a_source_is_read_with_signatures_docs_and_what_derives_write() {
        let mut index = Index::default();
        index.source("krate::gate", SOURCE);
        let names = |owner| index.members(owner).map(|entry| entry.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("Gate"), ["inner", "open", "new", "twice"]);
        assert_eq!(names("GateConfig"), ["with_bias", "new"]);
        assert_eq!(names("Side"), ["Left", "Right"]);
        let open = index.members("Gate").find(|entry| entry.name == "open").unwrap();
        assert_eq!(open.signature, "fn open(&self, x: Tensor<D>) -> Result<Self, String>");
        assert_eq!((open.ty.as_deref(), open.doc.as_str()), (Some("Result<Gate, String>"), "Opens it."));
        let gate = index.free().find(|entry| entry.name == "Gate").unwrap();
        assert_eq!((gate.doc.as_str(), gate.path.as_str()), ("A gate.", "krate::gate"));
        assert!(index.implements["Gate"].contains("Module"));
        assert_eq!(index.derived["Gate"].iter().collect::<Vec<_>>(), ["Module"]);
        assert!(!index.entries.iter().any(|entry| entry.name == "not_there" || entry.name == "private"));
        let new = index.members("GateConfig").find(|entry| entry.name == "new").unwrap();
        assert_eq!(new.signature, "fn new(d_model: usize) -> GateConfig");
    }
}
