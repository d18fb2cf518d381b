//! User text on its way into a figure: made visible, measured, shortened, wrapped and escaped.

/// Advance widths of DejaVu Sans for ASCII 32..=126, in hundredths of the font size. It is the
/// widest font of our font list, so what fits by this table fits in the others too.
#[rustfmt::skip]
const ADVANCE: [u8; 95] = [
    32, 40, 46, 84, 64, 95, 78, 27, 39, 39, 50, 84, 32, 36, 32, 34, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 34, 34, 84, 84, 84, 53, 100, 68, 69, 70, 77, 63, 58, 77, 75, 29, 29, 66, 56, 86, 75, 79,
    60, 79, 69, 63, 61, 73, 68, 99, 69, 61, 69, 39, 34, 39, 84, 50, 50, 61, 63, 55, 63, 62, 35, 63,
    63, 28, 28, 58, 28, 97, 63, 61, 63, 63, 41, 52, 39, 63, 59, 82, 59, 59, 52, 64, 34, 64, 84,
];

/// Width of `text` in pixels at font size `size` (an upper estimate).
pub(super) fn width(text: &str, size: f64) -> f64 {
    let hundredths: f64 = text
        .chars()
        .map(|c| match c as u32 {
            n @ 32..=126 => f64::from(ADVANCE[(n - 32) as usize]),
            0x2070..=0x209f | 0xb2 | 0xb3 | 0xb9 => 40.0, // superscripts
            0x1100..=0x115f | 0x2e80..=0xd7af | 0xf900..=0xfaff | 0xff00..=0xff60 => 100.0,
            0x1f000.. => 130.0,
            _ => 70.0,
        })
        .sum();
    hundredths / 100.0 * size
}

/// A token as a label: spaces, line breaks and everything else that has no ink gets a symbol.
pub(super) fn visible(token: &str) -> String {
    if token.is_empty() {
        return "∅".into();
    }
    token.chars().map(|c| if c == ' ' { '␣' } else { ink(c) }).collect()
}

/// Bytes as token labels: ASCII as it is, other bytes in hexadecimal.
pub fn byte_tokens(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|b| if b.is_ascii() { (*b as char).to_string() } else { format!("{b:02X}") }).collect()
}

/// Running text (titles, names): spaces stay, control characters get a symbol.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(ink).collect()
}

fn ink(c: char) -> char {
    match c as u32 {
        0x0a => '⏎',
        0x09 => '⇥',
        0x0d => '␍',
        n @ 0..=0x1f => char::from_u32(0x2400 + n).unwrap_or('�'),
        0x7f => '␡',
        0xa0 => '␣',
        // C1 controls, invisible and direction-changing characters, and what XML forbids.
        0x80..=0x9f | 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f => '�',
        0xfeff | 0xfff0..=0xffff | 0xe0000..=0xe0fff => '�',
        _ => c,
    }
}

/// `text` cut to at most `max` characters, the cut marked by an ellipsis.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_string();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// `text` broken into lines no wider than `room` pixels; a longer word is broken inside.
pub(super) fn wrap(text: &str, size: f64, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let joined = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
        if width(&joined, size) <= room {
            line = joined;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for c in word.chars() {
            if !line.is_empty() && width(&format!("{line}{c}"), size) > room {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// A label with its unit: `time` and `ms` give `time (ms)`.
pub(super) fn with_unit(label: &str, unit: &str) -> String {
    match (label.is_empty(), unit.is_empty()) {
        (_, true) => label.to_string(),
        (true, false) => format!("({unit})"),
        (false, false) => format!("{label} ({unit})"),
    }
}

/// XML-escaped text. Everything in a figure that a user wrote passes through here.
pub(super) fn escape(text: &str) -> String {
    crate::show::escape(&plain(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_ink_becomes_a_symbol() {
        assert_eq!(visible(" the\n\t"), "␣the⏎⇥");
        assert_eq!(visible("\0\u{1b}\u{202e}\u{ffff}"), "␀␛��");
        assert_eq!(visible(""), "∅");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("</text><a b=\"'&\">"), "&lt;/text&gt;&lt;a b=&quot;&#39;&amp;&quot;&gt;");
    }

    #[test]
    fn wrapping_loses_no_word_and_keeps_within_the_room() {
        let title = "Validation loss of four attention variants on Rust sources, five seeds each";
        let lines = wrap(title, 14.0, 200.0);
        assert!(lines.len() > 1 && lines.iter().all(|l| width(l, 14.0) <= 200.0), "{lines:?}");
        assert_eq!(lines.join(" "), title);
        assert_eq!(wrap(&"x".repeat(100), 14.0, 50.0).concat(), "x".repeat(100));
    }
}
