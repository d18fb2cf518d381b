//! What is seen in the terminal while cells run.

use serde_json::Value;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Lines of a displayed value; streams are shown whole.
const RESULT_LINES: usize = 16;

pub struct Screen {
    total: usize,
    number: usize,
    begun: Instant,
    terminal: bool,
    colour: bool,
    /// A stream's line has begun and not ended.
    open: bool,
    /// The clock stands in the last line.
    clock: bool,
    /// The newest line of a display that changes while the cell runs.
    progress: String,
}

impl Screen {
    pub fn new(total: usize) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        let (open, clock) = (false, false);
        Self { total, number: 0, begun: Instant::now(), terminal, colour, open, clock, progress: String::new() }
    }

    pub fn begin(&mut self, code: &str) {
        self.number += 1;
        self.begun = Instant::now();
        self.progress.clear();
        let width = self.total.to_string().len();
        let (number, total) = (self.number, self.total);
        self.say("1", &format!("[{number:>width$}/{total}] {}", first_line(code)));
    }

    pub fn end(&mut self) {
        let took = format!("      {:.2} s", self.begun.elapsed().as_secs_f64());
        self.say("2", &took);
    }

    pub fn note(&mut self, text: impl Display) {
        self.say("", &format!("      {text}"));
    }

    /// The cell that failed, whole, and why.
    pub fn problem(&mut self, cell: Option<(usize, &str)>, why: &str) {
        self.say("", "");
        if let Some((number, code)) = cell {
            self.say("1;31", &format!("cell {number} of {} failed:", self.total));
            for line in code.lines() {
                self.say("", &format!("    {line}"));
            }
            self.say("", "");
        }
        self.say("", why.trim_end());
    }

    /// The time so far, where nobody but a person sees it.
    pub fn tick(&mut self, elapsed: Duration) {
        if self.terminal && !self.open && elapsed >= Duration::from_secs(1) {
            let progress: String = self.progress.chars().take(100).collect();
            print!("\r\x1b[K      {} s  {progress}", elapsed.as_secs());
            let _ = std::io::stdout().flush();
            self.clock = true;
        }
    }

    pub fn receive(&mut self, kind: &str, content: &Value) {
        let data = content["data"].as_object();
        let plain = data.and_then(|data| data.get("text/plain")).and_then(Value::as_str);
        match kind {
            "stream" => self.stream(content["text"].as_str().unwrap_or_default()),
            "update_display_data" => self.progress = plain.and_then(|text| text.lines().last()).unwrap_or("").into(),
            "display_data" | "execute_result" => {
                let mut lines: Vec<&str> = plain.unwrap_or_default().lines().collect();
                let more = lines.len().saturating_sub(RESULT_LINES);
                lines.truncate(RESULT_LINES);
                let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                if more > 0 {
                    text += &format!("… {more} more lines\n");
                }
                for (mime, content) in data.into_iter().flatten().filter(|(mime, _)| *mime != "text/plain") {
                    let bytes = content.as_str().map_or_else(|| content.to_string().len(), str::len);
                    text += &format!("[{mime}, {:.1} kB]\n", bytes as f64 / 1000.0);
                }
                self.close();
                self.stream(&text);
            }
            _ => {}
        }
    }

    /// A stream's text as it comes, every line behind a bar.
    fn stream(&mut self, text: &str) {
        self.wipe();
        let mut out = String::new();
        let text = if self.colour { text.into() } else { without_colours(text) };
        for piece in text.split_inclusive(['\n', '\r']) {
            let line = piece.trim_end_matches(['\n', '\r']);
            if !line.is_empty() {
                out += if self.open { "" } else { "      │ " };
                out += line;
                self.open = true;
            }
            if line.len() < piece.len() && self.open {
                out += "\n";
                self.open = false;
            }
        }
        print!("{out}");
        let _ = std::io::stdout().flush();
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.clock) {
            print!("\r\x1b[K");
        }
    }

    fn close(&mut self) {
        self.wipe();
        if std::mem::take(&mut self.open) {
            println!();
        }
    }

    fn say(&mut self, style: &str, text: &str) {
        self.close();
        match self.colour {
            true if !style.is_empty() => println!("\x1b[{style}m{text}\x1b[0m"),
            true => println!("{text}"),
            false => println!("{}", without_colours(text)),
        }
    }
}

fn first_line(code: &str) -> String {
    let mut lines = code.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let told =
        if first.starts_with("//") { lines.find(|line| !line.starts_with("//")).unwrap_or(first) } else { first };
    match told.char_indices().nth(88) {
        Some((at, _)) => format!("{}…", &told[..at]),
        None => told.into(),
    }
}

/// Text without escape sequences.
pub fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        plain += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(sequence) = rest.strip_prefix('[') {
            let end = sequence.find(|c: char| ('\x40'..='\x7e').contains(&c));
            rest = end.map_or("", |end| &sequence[end + 1..]);
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_told_by_its_first_line_that_is_code() {
        assert_eq!(first_line("\n// why\n\nlet a = 1;\nlet b = 2;"), "let a = 1;");
        assert_eq!(first_line("// only this"), "// only this");
        assert_eq!(first_line(&"é".repeat(90)).chars().count(), 89);
    }

    #[test]
    fn colours_are_taken_out_and_nothing_else() {
        assert_eq!(without_colours("a \x1b[1;31mred\x1b[0m [b] \x1b[K\x1b"), "a red [b] ");
    }
}
