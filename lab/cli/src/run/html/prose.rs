//! Markdown, with its pictures inside and its mathematics as MathML.

use super::{BASE64, escape};
use base64::Engine;
use math_core::{LatexToMathML, MathCoreConfig, MathDisplay};
use percent_encoding::percent_decode_str;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, html::push_html};
use serde_json::Value;
use std::path::Path;
use std::sync::LazyLock;

pub fn html(source: &str, folder: &Path, attachments: &Value) -> String {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_MATH;
    let events = Parser::new_ext(source, options).map(|event| match event {
        Event::InlineMath(formula) => Event::InlineHtml(latex(&formula, false).into()),
        Event::DisplayMath(formula) => Event::InlineHtml(latex(&formula, true).into()),
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            let dest_url = inside(&dest_url, folder, attachments).map_or(dest_url, CowStr::from);
            Event::Start(Tag::Image { link_type, dest_url, title, id })
        }
        event => event,
    });
    let mut html = String::new();
    push_html(&mut html, events);
    html
}

/// A formula as MathML, which browsers draw themselves; one that is not understood, as it is written.
pub fn latex(formula: &str, display: bool) -> String {
    static CONVERTER: LazyLock<LatexToMathML> =
        LazyLock::new(|| LatexToMathML::new(MathCoreConfig::default()).expect("no macros, so none is wrong"));
    let display = if display { MathDisplay::Block } else { MathDisplay::Inline };
    match CONVERTER.convert_with_local_state(formula, display) {
        Ok(converted) => converted.mathml,
        Err(_) => format!("<code>{}</code>", escape(formula)),
    }
}

/// A picture of the notebook's folder or of the cell, as an address that holds it.
fn inside(address: &str, folder: &Path, attachments: &Value) -> Option<String> {
    let address = &*percent_decode_str(address).decode_utf8().ok()?;
    if let Some(name) = address.strip_prefix("attachment:") {
        let (mime, content) = attachments[name].as_object()?.iter().next()?;
        return Some(format!("data:{mime};base64,{}", content.as_str()?));
    }
    let mime = match Path::new(address).extension()?.to_str()?.to_lowercase().as_str() {
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        _ => return None,
    };
    let bytes = std::fs::read(folder.join(address)).ok()?;
    Some(format!("data:{mime};base64,{}", BASE64.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(source: &str) -> String {
        html(source, Path::new("."), &Value::Null)
    }

    #[test]
    fn tables_and_formulas_are_drawn() {
        let html = made("# A\n\n| a | $\\lambda$ |\n|---|---|\n| 1 | 2 |\n\n$$ \\frac{QK^\\top}{\\sqrt d} $$\n");
        assert!(html.contains("<h1>A</h1>") && html.contains("<td>1</td>"), "{html}");
        assert!(html.contains("<mfrac>") && html.contains('λ') && html.contains("display=\"block\""), "{html}");
    }

    #[test]
    fn a_picture_is_held_whatever_its_name_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mein Bild ä.PNG"), "abc").unwrap();
        let html = html("![x](mein%20Bild%20%C3%A4.PNG)", folder.path(), &Value::Null);
        assert!(html.contains("data:image/png;base64,YWJj"), "{html}");
    }

    #[test]
    fn a_formula_that_is_not_understood_stays_as_it_is_written() {
        assert!(made("$\\frac{<a}$").contains("<code>\\frac{&lt;a}</code>"), "{}", made("$\\frac{<a}$"));
    }
}
