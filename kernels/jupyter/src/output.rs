//! Finds display blocks and end-of-cell markers in the bytes a session prints.

const BEGIN: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END: &[u8] = b"EVCXR_END_CONTENT";
const MARK: &[u8] = b"\0attention-cell-end ";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Display {
        mime: String,
        content: String,
    },
    /// The output of the run with this nonce is complete.
    End(String),
}

/// Takes bytes as they come and gives pieces as soon as they are certain.
#[derive(Debug, Default)]
pub struct Scanner {
    held: Vec<u8>,
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// How many bytes at the end of `text` could be the beginning of `of`.
fn begun(text: &[u8], of: &[u8]) -> usize {
    (1..of.len().min(text.len() + 1)).rev().find(|&n| text.ends_with(&of[..n])).unwrap_or(0)
}

/// Bytes at the end that are an unfinished UTF-8 character.
fn unfinished_character(text: &[u8]) -> usize {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => text.len() - error.valid_up_to(),
        _ => 0,
    }
}

impl Scanner {
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        loop {
            let begin = find(&self.held, BEGIN);
            let mark = find(&self.held, MARK);
            let next = match (begin, mark) {
                (Some(b), Some(m)) => b.min(m),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => break,
            };
            let text: Vec<u8> = self.held.drain(..next).collect();
            push_text(&mut pieces, &text);
            let Some((piece, length)) = self.block() else { return pieces };
            self.held.drain(..length);
            pieces.push(piece);
        }
        let keep = begun(&self.held, BEGIN).max(begun(&self.held, MARK)).max(unfinished_character(&self.held));
        let text: Vec<u8> = self.held.drain(..self.held.len() - keep).collect();
        push_text(&mut pieces, &text);
        pieces
    }

    /// What is left when the process has ended.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        push_text(&mut pieces, &std::mem::take(&mut self.held));
        pieces
    }

    /// The complete block or marker at the front, with its length.
    fn block(&self) -> Option<(Piece, usize)> {
        if let Some(rest) = self.held.strip_prefix(MARK) {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let nonce = String::from_utf8_lossy(&rest[..end]).into_owned();
            return Some((Piece::End(nonce), MARK.len() + end + 1));
        }
        let rest = self.held.strip_prefix(BEGIN)?;
        let line = rest.iter().position(|byte| *byte == b'\n')?;
        let mime = String::from_utf8_lossy(&rest[..line]).trim().to_string();
        let body = &rest[line + 1..];
        let end = find(body, END)?;
        let mut length = BEGIN.len() + line + 1 + end + END.len();
        // The newline of the closing line belongs to the block; wait for it.
        if *self.held.get(length)? == b'\n' {
            length += 1;
        }
        let content = String::from_utf8_lossy(&body[..end]);
        let content = content.strip_suffix('\n').unwrap_or(&content).to_string();
        Some((Piece::Display { mime, content }, length))
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
        let text =
            "a\rb é\nEVCXR_BEGIN_CONTENT text/html\n<b>\nx</b>\nEVCXR_END_CONTENT\nafter\0attention-cell-end 7\0";
        let whole = in_steps(text.as_bytes(), 1000);
        assert_eq!(
            whole,
            [
                Piece::Text("a\rb é\n".into()),
                Piece::Display { mime: "text/html".into(), content: "<b>\nx</b>".into() },
                Piece::Text("after".into()),
                Piece::End("7".into()),
            ]
        );
        for step in 1..20 {
            assert_eq!(in_steps(text.as_bytes(), step), whole, "in steps of {step}");
        }
    }

    #[test]
    fn text_without_a_newline_is_given_at_once() {
        let pieces = Scanner::default().push(b"50 %\r");
        assert_eq!(pieces, [Piece::Text("50 %\r".into())]);
    }
}
