//! A module's parts and how many parameters each has.

use super::{escape, grouped};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use std::fmt::Write;

/// A part of a module: a field, an element of a list, or a parameter.
#[derive(Debug, Default)]
struct Part {
    name: String,
    /// The struct it is, or a list; known from what it contains.
    ty: String,
    /// A parameter's shape.
    shape: Option<Vec<usize>>,
    parameters: usize,
    parts: Vec<Part>,
}

/// A module as a tree.
#[derive(Debug)]
pub struct Tree(Part);

impl Tree {
    /// Nothing for what has no parameters.
    pub fn of<M: Module>(module: &M) -> Option<Self> {
        let mut reader = Reader { open: vec![Part::default()] };
        module.visit(&mut reader);
        let mut root = reader.open.pop().filter(|root| root.parameters > 0)?;
        if root.ty.is_empty() {
            // A parameter by itself.
            root.ty = "Param".into();
        }
        Some(Self(root))
    }

    pub fn show(&self) {
        cell_runtime::display_bundle(&[("text/html", &self.html()), ("text/plain", &self.text())]);
    }

    fn html(&self) -> String {
        let mut html = String::from("<div style=\"font-family:monospace;line-height:1.5\">");
        html_part(&self.0, 0, &mut html);
        html + "</div>"
    }

    fn text(&self) -> String {
        let mut text = String::new();
        text_part(&self.0, 0, &mut text);
        text
    }
}

/// Follows a module's visit.
struct Reader {
    /// From the root to the part that is being visited.
    open: Vec<Part>,
}

impl Reader {
    fn parameter(&mut self, shape: Vec<usize>) {
        let count: usize = shape.iter().product();
        let part = self.open.last_mut().expect("the root");
        part.shape = Some(shape);
        part.parameters += count;
    }
}

impl ModuleVisitor for Reader {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameter(param.lazy_shape().to_vec());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.parameter(param.lazy_shape().to_vec());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.parameter(param.lazy_shape().to_vec());
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        let parent = self.open.last_mut().expect("the root");
        parent.ty = container_type.rsplit(':').next().unwrap_or_default().into();
        self.open.push(Part { name: name.into(), ..Part::default() });
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        let part = self.open.pop().expect("what was entered");
        let parent = self.open.last_mut().expect("the root");
        parent.parameters += part.parameters;
        // Numbers and texts beside the parameters.
        if part.parameters > 0 {
            parent.parts.push(part);
        }
    }
}

/// `name: Type` or `name [shape]`.
fn label(part: &Part, depth: usize) -> String {
    let name = if part.name.is_empty() { String::new() } else { format!("{}: ", part.name) };
    match &part.shape {
        Some(shape) if part.parts.is_empty() && depth > 0 => format!("{}{shape:?}", name.replace(": ", " ")),
        Some(shape) if part.parts.is_empty() => format!("{}{shape:?}", part.ty),
        _ => match part.ty.as_str() {
            "Vec" | "Array" | "Tuple" => format!("{name}{} × ", part.parts.len()) + &common(part),
            ty => format!("{name}{ty}"),
        },
    }
}

/// What the elements of a list are, where all are the same.
fn common(list: &Part) -> String {
    let first = list.parts.first().map(|part| part.ty.as_str()).unwrap_or_default();
    if !first.is_empty() && list.parts.iter().all(|part| part.ty == first) { first.into() } else { "parts".into() }
}

fn html_part(part: &Part, depth: usize, html: &mut String) {
    let label = escape(&label(part, depth));
    let count = format!("<span style=\"opacity:.65\">{}</span>", grouped(part.parameters));
    if part.parts.is_empty() {
        let _ = write!(html, "<div style=\"margin-left:1.1em\">{label} {count}</div>");
        return;
    }
    // The first two levels tell what it is; more is a click away.
    let open = if depth < 2 { " open" } else { "" };
    let weight = if depth == 0 { "font-weight:bold" } else { "" };
    let count = if depth == 0 { format!("{count} <span style=\"opacity:.65\">parameters</span>") } else { count };
    let _ = write!(
        html,
        "<details{open} style=\"margin-left:{}em\"><summary style=\"cursor:pointer\"><span style=\"{weight}\">{label}</span> \
         {count}</summary>",
        if depth == 0 { 0.0 } else { 1.1 }
    );
    for part in &part.parts {
        html_part(part, depth + 1, html);
    }
    html.push_str("</details>");
}

fn text_part(part: &Part, depth: usize, text: &mut String) {
    let unit = if depth == 0 { " parameters" } else { "" };
    let _ = writeln!(text, "{}{}  {}{unit}", "  ".repeat(depth), label(part, depth), grouped(part.parameters));
    for part in &part.parts {
        text_part(part, depth + 1, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn every_part_counts_its_parameters_and_nothing_else_is_listed() {
        let model = zoo::preset("baseline", "nano").unwrap().init(0, &Device::flex()).unwrap();
        let tree = Tree::of(&model).unwrap();
        assert_eq!(tree.0.parameters, model.num_params());
        let text = tree.text();
        assert!(text.starts_with("Decoder  "), "{text}");
        let sums = |part: &Part| part.parts.iter().map(|p| p.parameters).sum::<usize>();
        assert_eq!(sums(&tree.0), tree.0.parameters);
        let html = tree.html();
        assert_eq!(html.matches("<details").count(), html.matches("</details>").count());
        assert!(html.contains("Decoder") && html.contains(&grouped(model.num_params())), "{html}");
    }

    #[test]
    fn what_has_no_parameters_is_no_tree() {
        assert!(Tree::of(&3usize).is_none() && Tree::of(&vec![1.0f32]).is_none());
        assert!(Tree::of(&Tensor::<1>::ones([3], &Device::flex())).is_none());
    }
}
