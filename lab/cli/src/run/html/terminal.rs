//! Printed text with its colours: bold, dim, italic, underlined, and the sixteen colours, which the page's
//! style sheet chooses to suit it.

use super::marked;

#[derive(Debug, Default, Clone, Copy)]
struct Pen {
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    /// 1 to 16; 0 is none.
    colour: u32,
}

impl Pen {
    fn class(self) -> String {
        let mut names: Vec<String> = Vec::new();
        for (set, name) in
            [(self.bold, "bold"), (self.dim, "dim"), (self.italic, "italic"), (self.underline, "underline")]
        {
            names.extend(set.then(|| name.to_string()));
        }
        names.extend((self.colour > 0).then(|| format!("ansi{}", self.colour - 1)));
        names.join(" ")
    }

    fn set(&mut self, code: u32) {
        match code {
            0 => *self = Self::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            3 => self.italic = true,
            4 => self.underline = true,
            22 => (self.bold, self.dim) = (false, false),
            23 => self.italic = false,
            24 => self.underline = false,
            30..=37 => self.colour = code - 29,
            39 => self.colour = 0,
            90..=97 => self.colour = code - 81,
            _ => {}
        }
    }
}

pub fn html(text: &str) -> String {
    let mut html = String::new();
    let mut pen = Pen::default();
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        marked(&mut html, &pen.class(), &rest[..at]);
        rest = &rest[at + 1..];
        let Some(sequence) = rest.strip_prefix('[') else { continue };
        let Some(end) = sequence.find(|c: char| ('\x40'..='\x7e').contains(&c)) else { break };
        if sequence[end..].starts_with('m') {
            let mut codes = sequence[..end].split(';').map(|code| code.parse().unwrap_or(0));
            while let Some(code) = codes.next() {
                match (code, codes.clone().next()) {
                    // Of 256 colours the first sixteen are the sixteen; others keep the text's own.
                    (38, Some(5)) => pen.colour = codes.nth(1).filter(|c| *c < 16).map_or(0, |c| c + 1),
                    (38 | 48, _) => break,
                    _ => pen.set(code),
                }
            }
        }
        rest = &sequence[end + 1..];
    }
    marked(&mut html, &pen.class(), rest);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_classes_and_text_stays_text() {
        assert_eq!(html("a<b"), "a&lt;b");
        assert_eq!(html("\x1b[1;31mred\x1b[0m x"), "<span class=\"bold ansi1\">red</span> x");
        assert_eq!(html("\x1b[38;5;9mred\x1b[39m\x1b[Kx"), "<span class=\"ansi9\">red</span>x");
        assert_eq!(html("\x1b[38;5;200mown\x1b[38;2;1;2;3mown"), "ownown");
    }
}
