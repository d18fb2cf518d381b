//! What a rust-analyzer has answered, in the words that a front end is given.

use super::Match;
use serde_json::Value;

/// The words it offers, without keywords and what is deprecated.
pub fn matches(answer: &Value) -> Vec<Match> {
    let items = answer.get("items").unwrap_or(answer).as_array();
    items.into_iter().flatten().filter_map(read).collect()
}

fn read(item: &Value) -> Option<Match> {
    // LSP's `CompletionItemKind`.
    let kind = match item["kind"].as_u64()? {
        2 | 3 => "function",
        5 => "property",
        6 => "instance",
        7 | 13 | 22 | 25 => "class",
        8 => "interface",
        9 => "module",
        20 => "enum",
        21 => "constant",
        _ => return None,
    };
    let label = item["label"].as_str()?;
    let text = item["textEdit"]["newText"].as_str().unwrap_or(label).trim_end_matches('!');
    if item["deprecated"] == true || text.is_empty() || text.starts_with("__") {
        return None;
    }
    let detail = item["detail"].as_str().unwrap_or_default().replace(", Global>", ">");
    let signature = match detail.split_once('(') {
        _ if has_gaps(&detail) => String::new(),
        Some((_, rest)) if kind == "function" => format!("({rest}"),
        _ if kind == "property" || kind == "instance" => detail,
        _ => String::new(),
    };
    // What every type has (`into`, `borrow`, …) is ranked below the rest.
    let common = item["sortText"].as_str().is_some_and(|rank| rank >= "8");
    Some(Match { text: text.into(), kind, signature, common, derived: false })
}

/// A hover as plain text and as Markdown.
pub fn hover(answer: &Value) -> Option<(String, String)> {
    texts(answer["contents"]["value"].as_str()?)
}

/// The call around the cursor, likewise.
pub fn signature(answer: &Value) -> Option<(String, String)> {
    let signature = answer["signatures"].get(answer["activeSignature"].as_u64().unwrap_or(0) as usize)?;
    let label = signature["label"].as_str()?;
    let doc = &signature["documentation"];
    let doc = doc["value"].as_str().or(doc.as_str()).unwrap_or_default();
    texts(&format!("```rust\n{label}\n```\n\n{doc}"))
}

/// It does not write out everything it knows, nor know everything that is written.
pub fn has_gaps(plain: &str) -> bool {
    ["{unknown}", "<expr>"].iter().any(|gap| plain.contains(gap))
}

/// Up to the doc's first heading: examples and panics are read elsewhere.
fn texts(markdown: &str) -> Option<(String, String)> {
    let mut code = false;
    let (mut plain, mut kept) = (String::new(), String::new());
    for line in markdown.trim().lines() {
        let fence = line.starts_with("```");
        code ^= fence;
        if !code && line.starts_with('#') {
            break;
        }
        kept += &format!("{line}\n");
        let gap = line.is_empty() && plain.ends_with("\n\n");
        if !fence && line != "---" && !gap {
            plain += &format!("{line}\n");
        }
    }
    let kept = kept.trim().trim_end_matches("---").trim_end();
    (!kept.is_empty()).then(|| (plain.trim().to_string(), kept.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn offers_become_words() {
        let item = |label: &str, kind: u64, detail: &str| json!({ "label": label, "kind": kind, "detail": detail });
        let mut raw = item("type", 5, "Vec<u8, Global>");
        raw["textEdit"] = json!({ "newText": "r#type" });
        let mut old = item("trim_left", 2, "fn(&self) -> &str");
        old["deprecated"] = true.into();
        let mut common = item("into", 2, "fn(self) -> T");
        common["sortText"] = "80000004".into();
        let items = json!({ "items": [
            raw, old, common, item("gap", 5, "Vec<{unknown}>"), item("vec!", 3, "macro_rules! vec"), item("match", 14, ""), item("__cell", 3, "fn()"),
        ] });
        let read: Vec<_> = matches(&items).into_iter().map(|m| (m.text, m.kind, m.signature, m.common)).collect();
        let expected = [
            ("r#type", "property", "Vec<u8>", false),
            ("into", "function", "(self) -> T", true),
            ("gap", "property", "", false),
            ("vec", "function", "", false),
        ];
        let expected = expected.map(|(text, kind, signature, common)| (text.into(), kind, signature.into(), common));
        assert_eq!(read, expected);
        assert!(matches(&Value::Null).is_empty());
    }

    #[test]
    fn a_doc_ends_at_its_first_heading() {
        let value = "\n```rust\nalloc::vec::Vec\n```\n\n```rust\nfn push(&mut self)\n```\n\n---\n\nAppends.\n\n```rust\n# hidden\n```\n\n# Panics\n\nNever.";
        let (plain, markdown) = hover(&json!({ "contents": { "value": value } })).unwrap();
        assert_eq!(plain, "alloc::vec::Vec\n\nfn push(&mut self)\n\nAppends.\n\n# hidden");
        assert!(markdown.starts_with("```rust\nalloc") && markdown.ends_with("# hidden\n```"), "{markdown}");
        assert_eq!(hover(&Value::Null), None);
        let call = json!({ "signatures": [{ "label": "fn f(a: u8)", "documentation": { "value": "Twice.\n" } }] });
        assert_eq!(signature(&call).unwrap().0, "fn f(a: u8)\n\nTwice.");
    }
}
