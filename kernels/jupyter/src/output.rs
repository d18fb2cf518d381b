//! Finds display blocks and marks in the bytes a session prints.

use cell_runtime::wire::{CLEAR_MARK, END_MARK, STDERR_MARK};

const BEGIN: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END: &[u8] = b"EVCXR_END_CONTENT";
const MARKS: [&[u8]; 4] = [BEGIN, END_MARK, CLEAR_MARK, STDERR_MARK];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// Printed to stderr, but kept in its place on stdout.
    Stderr(String),
    Display(Display),
    Clear {
        wait: bool,
    },
    /// The output of the run with this nonce is complete.
    End(String),
}

/// One thing to show, in one or several types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Display {
    pub id: Option<String>,
    /// Replaces what was shown under `id`.
    pub update: bool,
    pub types: Vec<(String, String)>,
}

/// Takes bytes as they come and gives pieces as soon as they are certain.
#[derive(Debug, Default)]
pub struct Scanner {
    held: Vec<u8>,
    /// How far the content of the block in front has been searched for its end.
    searched: usize,
    /// Blocks of a display of which more are to come.
    begun: Display,
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Where the first mark begins, or could begin once more bytes are there.
fn mark(text: &[u8]) -> Option<usize> {
    let begins = |at: usize| {
        let rest = &text[at..];
        MARKS.iter().any(|mark| rest.starts_with(&mark[..mark.len().min(rest.len())]))
    };
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| matches!(byte, 0 | b'E')) {
        if begins(from + at) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Bytes at the end that are an unfinished UTF-8 character.
fn unfinished_character(text: &[u8]) -> usize {
    let tail = &text[text.len().saturating_sub(3)..];
    let first = tail.iter().rposition(|byte| *byte >= 0xc0);
    let Some(first) = first else { return 0 };
    match std::str::from_utf8(&tail[first..]) {
        Err(error) if error.error_len().is_none() => tail.len() - first,
        _ => 0,
    }
}

impl Scanner {
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        loop {
            let at = mark(&self.held).unwrap_or(self.held.len());
            let whole = at == self.held.len();
            let certain = if whole { at - unfinished_character(&self.held) } else { at };
            let text: Vec<u8> = self.held.drain(..certain).collect();
            push_text(&mut pieces, &text);
            if whole {
                return pieces;
            }
            let Some((piece, length)) = self.block() else { return pieces };
            self.held.drain(..length);
            self.searched = 0;
            pieces.extend(piece);
        }
    }

    /// What is left when the process has ended.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        push_text(&mut pieces, &std::mem::take(&mut self.held));
        pieces
    }

    /// The complete block or mark at the front, with its length.
    fn block(&mut self) -> Option<(Option<Piece>, usize)> {
        let word = |mark: &[u8]| {
            let rest = self.held.strip_prefix(mark)?;
            let end = rest.iter().position(|byte| *byte == 0)?;
            Some((String::from_utf8_lossy(&rest[..end]).into_owned(), mark.len() + end + 1))
        };
        if let Some((nonce, length)) = word(END_MARK) {
            self.begun = Display::default();
            return Some((Some(Piece::End(nonce)), length));
        }
        if let Some((how, length)) = word(CLEAR_MARK) {
            return Some((Some(Piece::Clear { wait: how == "wait" }), length));
        }
        if let Some((bytes, at)) = word(STDERR_MARK) {
            // No number: somebody else wrote our mark, and nothing follows it.
            let end = at + bytes.parse::<usize>().unwrap_or(0);
            let text = String::from_utf8_lossy(self.held.get(at..end)?).into_owned();
            return Some((Some(Piece::Stderr(text)), end));
        }
        let rest = self.held.strip_prefix(BEGIN)?;
        let line = rest.iter().position(|byte| *byte == b'\n');
        let start = line.map(|line| BEGIN.len() + line + 1);
        let from = self.searched.max(BEGIN.len());
        let end = start.map(|start| start.max(from)).and_then(|at| Some(at + find(&self.held[at..], END)?));
        // A block that its cell has not ended, or not even begun, is text.
        let over = find(&self.held[from..end.unwrap_or(self.held.len())], END_MARK).map(|at| from + at);
        if let Some(at) = over {
            return Some((Some(Piece::Text(String::from_utf8_lossy(&self.held[..at]).into_owned())), at));
        }
        let (Some(start), Some(end)) = (start, end) else {
            self.searched = self.held.len().saturating_sub(END.len().max(END_MARK.len()));
            return None;
        };
        let head = String::from_utf8_lossy(&self.held[BEGIN.len()..start - 1]).into_owned();
        let mut length = end + END.len();
        // The newline of the closing line belongs to the block; wait for it.
        if *self.held.get(length)? == b'\n' {
            length += 1;
        }
        let content = String::from_utf8_lossy(&self.held[start..end]);
        let content = content.strip_suffix('\n').unwrap_or(&content).to_string();
        Some((self.display(&head, content), length))
    }

    /// Adds a block to the display it belongs to, and gives that when it is whole.
    fn display(&mut self, head: &str, content: String) -> Option<Piece> {
        let mut words = head.split_whitespace();
        self.begun.types.push((words.next().unwrap_or("text/plain").to_string(), content));
        let mut more = false;
        for word in words {
            match word.split_once('=') {
                Some(("id", id)) => self.begun.id = Some(id.into()),
                Some(("update", id)) => (self.begun.id, self.begun.update) = (Some(id.into()), true),
                _ => more |= word == "more",
            }
        }
        (!more).then(|| Piece::Display(std::mem::take(&mut self.begun)))
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &[u8]) {
    if !text.is_empty() {
        pieces.push(Piece::Text(String::from_utf8_lossy(text).into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_steps(text: &[u8], step: usize) -> Vec<Piece> {
        let mut scanner = Scanner::default();
        let mut pieces: Vec<Piece> = Vec::new();
        for chunk in text.chunks(step) {
            for piece in scanner.push(chunk) {
                match (pieces.last_mut(), piece) {
                    (Some(Piece::Text(old)), Piece::Text(new)) => old.push_str(&new),
                    (_, piece) => pieces.push(piece),
                }
            }
        }
        pieces
    }

    #[test]
    fn blocks_are_found_wherever_the_bytes_are_cut() {
        let text = "a\rb é\nEVCXR_BEGIN_CONTENT text/html\n<b>\nx</b>\nEVCXR_END_CONTENT\n\0attention-stderr 3\0e!\nEV\0\
                    EVCXR_BEGIN_CONTENT text/html id=7 more\n<i>\nEVCXR_END_CONTENT\n\
                    EVCXR_BEGIN_CONTENT text/plain id=7\ni\nEVCXR_END_CONTENT\n\0attention-clear wait\0\
                    EVCXR_BEGIN_CONTENT text/plain update=7\nj\nEVCXR_END_CONTENT\nafter\0attention-cell-end 7\0";
        let text = text.as_bytes();
        let display = |id: Option<&str>, update, types: &[(&str, &str)]| {
            let types = types.iter().map(|(mime, content)| (mime.to_string(), content.to_string())).collect();
            Piece::Display(Display { id: id.map(String::from), update, types })
        };
        let whole = in_steps(text, 1000);
        assert_eq!(
            whole,
            [
                Piece::Text("a\rb é\n".into()),
                display(None, false, &[("text/html", "<b>\nx</b>")]),
                Piece::Stderr("e!\n".into()),
                Piece::Text("EV\0".into()),
                display(Some("7"), false, &[("text/html", "<i>"), ("text/plain", "i")]),
                Piece::Clear { wait: true },
                display(Some("7"), true, &[("text/plain", "j")]),
                Piece::Text("after".into()),
                Piece::End("7".into()),
            ]
        );
        for step in 1..20 {
            assert_eq!(in_steps(text, step), whole, "in steps of {step}");
        }
    }

    #[test]
    fn a_block_that_its_cell_does_not_end_is_text() {
        for block in ["EVCXR_BEGIN_CONTENT text/html\n<b>", "EVCXR_BEGIN_CONTENT text/html", "EVCXR_BEGIN_CONTENT "] {
            let text = format!("{block}\0attention-cell-end 7\0EVCXR_BEGIN_CONTENT a/b\nc\nEVCXR_END_CONTENT\nafter\n");
            let display = Display { types: vec![("a/b".into(), "c".into())], ..Display::default() };
            let expected = [
                Piece::Text(block.into()),
                Piece::End("7".into()),
                Piece::Display(display),
                Piece::Text("after\n".into()),
            ];
            for step in 1..60 {
                assert_eq!(in_steps(text.as_bytes(), step), expected, "{block} in steps of {step}");
            }
        }
    }

    #[test]
    fn text_without_a_newline_is_given_at_once() {
        let pieces = Scanner::default().push(b"50 %\r");
        assert_eq!(pieces, [Piece::Text("50 %\r".into())]);
    }
}
