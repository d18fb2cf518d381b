//! Rust with its kinds of words marked, for reading and not for compiling: also what is no Rust comes out
//! whole.

use super::marked;

const KEYWORDS: [&str; 39] = [
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false", "fn",
    "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self", "Self",
    "static", "struct", "super", "trait", "true", "type", "unsafe", "use", "where", "while", "yield",
];

pub fn html(source: &str) -> String {
    let mut html = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (class, length) = token(rest, first);
        let (token, after) = rest.split_at(length);
        marked(&mut html, class, token);
        rest = after;
    }
    html
}

/// The class and the bytes of what stands first.
fn token(text: &str, first: char) -> (&'static str, usize) {
    let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with("//") {
        return ("comment", text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return ("comment", block_comment(text));
    }
    if text.starts_with("#[") || text.starts_with("#![") {
        return ("attribute", text.find(']').map_or(text.len(), |end| end + 1));
    }
    if let Some(length) = string(text) {
        return ("string", length);
    }
    if first.is_ascii_digit() {
        let number = |c: char| c.is_alphanumeric() || c == '_';
        let mut length = text.find(|c: char| !number(c)).unwrap_or(text.len());
        // `1.5` and `1e-3`, but not the first of `1..5` or `1.max(2)`.
        if text[length..].starts_with('.') && text[length + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            length += 1 + text[length + 1..].find(|c: char| !number(c)).unwrap_or(text.len() - length - 1);
        }
        if text[..length].ends_with(['e', 'E']) && text[length..].starts_with(['-', '+']) {
            length += 1 + text[length + 1..].find(|c: char| !number(c)).unwrap_or(text.len() - length - 1);
        }
        return ("number", length);
    }
    if first.is_alphabetic() || first == '_' {
        let length = word(text);
        let after = &text[length..];
        return match &text[..length] {
            name if KEYWORDS.contains(&name) => ("keyword", length),
            _ if after.starts_with('!') && !after.starts_with("!=") => ("macro", length + 1),
            _ if after.starts_with('(') => ("function", length),
            _ if first.is_uppercase() => ("type", length),
            _ => ("", length),
        };
    }
    if first == '\'' && text[1..].starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return ("type", 1 + word(&text[1..]));
    }
    ("", first.len_utf8())
}

/// The bytes of the string or character that `text` begins with.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let before = text.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.find(|c| c != '#').unwrap_or(raw.len());
        let inside = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", &raw[..hashes]);
        return Some(inside.find(&end).map_or(text.len(), |at| text.len() - inside.len() + at + end.len()));
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => {
                // A character is one, or it was a lifetime and the quote is another's.
                let one = quote == '"' || body[1..at].starts_with('\\') || body[1..at].chars().count() == 1;
                return one.then_some(before + at + 1);
            }
            '\n' if quote == '\'' => return None,
            _ => {}
        }
    }
    (quote == '"').then_some(text.len())
}

/// They nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(source: &str) -> Vec<(&'static str, &str)> {
        let mut found = Vec::new();
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let (class, length) = token(rest, first);
            if !class.is_empty() {
                found.push((class, &rest[..length]));
            }
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn words_are_of_the_kinds_they_are() {
        let expected = [
            ("keyword", "let"),
            ("type", "'a"),
            ("type", "Tensor"),
            ("number", "1e-3"),
            ("number", "1"),
            ("number", "5"),
            ("string", "'\\''"),
            ("string", "r#\"a\"b\"#"),
            ("macro", "println!"),
            ("string", "\"{x}\\\"\""),
            ("comment", "// é"),
        ];
        assert_eq!(classes("let &'a Tensor 1e-3 1..5 '\\'' r#\"a\"b\"# println!(\"{x}\\\"\") // é"), expected);
        assert_eq!(classes("#[derive(Debug)] /* a /* b */ */ f(a != b)").len(), 3);
    }

    #[test]
    fn what_is_no_rust_comes_out_whole() {
        for text in ["\"open", "'", "r###", "/* /*", "%time x\n", "1.", "é'é", "#[", "b"] {
            let plain = html(text).replace("</span>", "");
            let plain = plain.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
            let plain: String = plain.collect();
            assert_eq!(plain.replace("&quot;", "\"").replace("&#39;", "'"), text);
        }
    }
}
