//! What has been run, for consoles with an arrow-up key.

use jupyter_protocol::HistoryRequest;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// More than this nobody scrolls back.
const KEPT: usize = 1000;

#[derive(Debug, Default)]
pub struct History(VecDeque<(usize, String)>);

impl History {
    pub fn add(&mut self, count: usize, code: &str) {
        self.0.push_back((count, code.into()));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The content of a `history_reply`. Results are shown and not kept.
    pub fn reply(&self, asked: &HistoryRequest) -> Value {
        let newest = |n: i32, keep: &dyn Fn(&str) -> bool| {
            let kept: Vec<_> = self.0.iter().filter(|(_, code)| keep(code)).collect();
            kept[kept.len().saturating_sub(n.max(0) as usize)..].to_vec()
        };
        let (found, output) = match asked {
            HistoryRequest::Tail { n, output, .. } => (newest(*n, &|_| true), *output),
            HistoryRequest::Range { start, stop, output, .. } => {
                let range = *start.max(&0) as usize..*stop.max(&0) as usize;
                (self.0.iter().filter(|(count, _)| range.contains(count)).collect(), *output)
            }
            HistoryRequest::Search { pattern, n, output, .. } => {
                let parts: Vec<&str> = pattern.split('*').collect();
                (newest(*n, &|code| matches(code, &parts)), *output)
            }
        };
        let entry = |(count, code): &(usize, String)| match output {
            true => json!([0, count, [code, null]]),
            false => json!([0, count, code]),
        };
        json!({ "status": "ok", "history": found.into_iter().map(entry).collect::<Vec<_>>() })
    }
}

/// Whether the text is these parts with anything between them.
fn matches(text: &str, parts: &[&str]) -> bool {
    let [first, middle @ .., last] = parts else { return parts.first() == Some(&text) };
    let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    middle.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_a_range_and_a_pattern_are_found() {
        let mut history = History::default();
        for (count, code) in ["let a = 1;", "a + 1", "let b = 2;"].iter().enumerate() {
            history.add(count + 1, code);
        }
        let codes = |asked: HistoryRequest| {
            let reply = history.reply(&asked);
            let entries = reply["history"].as_array().unwrap().iter();
            entries.map(|entry| entry[2].as_str().unwrap().to_string()).collect::<Vec<_>>()
        };
        let (output, raw) = (false, true);
        assert_eq!(codes(HistoryRequest::Tail { n: 2, output, raw }), ["a + 1", "let b = 2;"]);
        let range = HistoryRequest::Range { session: None, start: 1, stop: 2, output, raw };
        assert_eq!(codes(range), ["let a = 1;"]);
        let search =
            |pattern: &str| HistoryRequest::Search { pattern: pattern.into(), unique: false, output, raw, n: 5 };
        assert_eq!(codes(search("let*=*;")), ["let a = 1;", "let b = 2;"]);
        assert_eq!(codes(search("a")), Vec::<String>::new());
    }
}
