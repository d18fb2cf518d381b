//! Rich output, in evcxr's convention: marked blocks on stdout.
//!
//! What evcxr does not know stands behind the mime type, where it does not look: `more` (the next block
//! is the same content in another type), `id=NAME`, `update=NAME`. There a display that changes
//! shows its last state when the cell ends.

use crate::in_notebook;
use crate::wire::{CLEAR_MARK, STDERR_MARK};
use std::fmt::Arguments;
use std::io::Write;

/// Shows `content` of type `mime` in the notebook at once (`image/svg+xml`, `text/html`, …).
pub fn display(mime: &str, content: &str) {
    show("", &[(mime, content)]);
}

/// Shows one thing in several types, of which the front end takes the richest it knows:
/// `text/html` with a `text/plain` twin, `image/svg+xml` with an `image/png` (base64) beside it.
pub fn display_bundle(types: &[(&str, &str)]) {
    show("", types);
}

/// [`display_bundle`] under a name (without spaces), by which [`update_display`] replaces it.
pub fn display_with_id(id: &str, types: &[(&str, &str)]) {
    show(&format!(" id={id}"), types);
}

/// Replaces what [`display_with_id`] has shown, in whichever cell that was.
pub fn update_display(id: &str, types: &[(&str, &str)]) {
    // A terminal cannot take back what it has printed, and needs no second copy.
    if in_notebook() || in_evcxr() {
        show(&format!(" update={id}"), types);
    }
}

/// Clears what the cell has shown so far; with `wait`, when the next output is there to take its
/// place. Does nothing outside the project's own kernel.
pub fn clear_output(wait: bool) {
    if in_notebook() {
        let how: &[u8] = if wait { b"wait" } else { b"now" };
        write(&[CLEAR_MARK, how, b"\0"].concat());
    }
}

/// A cell's `eprint!`: it goes the way of stdout, marked, since two pipes would lose the order.
pub fn eprint(text: Arguments<'_>) {
    if !in_notebook() {
        std::eprint!("{text}");
        return;
    }
    let text = text.to_string();
    write(&[STDERR_MARK, text.len().to_string().as_bytes(), b"\0", text.as_bytes()].concat());
}

fn in_evcxr() -> bool {
    std::env::var_os("EVCXR_IS_RUNTIME").is_some()
}

fn show(attributes: &str, types: &[(&str, &str)]) {
    if !in_notebook() && !in_evcxr() {
        write(outside(types).as_bytes());
        return;
    }
    let mut blocks = String::new();
    for (index, (mime, content)) in types.iter().enumerate() {
        let more = if index + 1 < types.len() { " more" } else { "" };
        let newline = if content.ends_with('\n') { "" } else { "\n" };
        blocks += &format!("EVCXR_BEGIN_CONTENT {mime}{attributes}{more}\n{content}{newline}EVCXR_END_CONTENT\n");
    }
    write(blocks.as_bytes());
}

/// In a terminal: the plain text, or what it is that cannot be shown there.
fn outside(types: &[(&str, &str)]) -> String {
    match types.iter().find(|(mime, _)| mime.starts_with("text/plain")) {
        Some((_, text)) if text.ends_with('\n') => (*text).to_string(),
        Some((_, text)) => format!("{text}\n"),
        None => types.first().map_or(String::new(), |(mime, _)| format!("[{mime}, shown in a notebook]\n")),
    }
}

/// One lock for the whole of it: another thread's println cannot land inside.
fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_the_plain_text_or_a_word() {
        assert_eq!(outside(&[("text/html", "<b>1</b>"), ("text/plain", "1")]), "1\n");
        assert_eq!(outside(&[("image/svg+xml", "<svg/>")]), "[image/svg+xml, shown in a notebook]\n");
    }
}
