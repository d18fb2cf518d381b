//! What has been run, for consoles with an arrow-up key.

use jupyter_protocol::HistoryRequest;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};

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
        let newest = |n: i32, keep: &mut dyn FnMut(&str) -> bool| {
            let kept = self.0.iter().rev().filter(|(_, code)| keep(code)).take(n.max(0) as usize);
            let mut kept: Vec<_> = kept.collect();
            kept.reverse();
            kept
        };
        let (found, output) = match asked {
            HistoryRequest::Tail { n, output, .. } => (newest(*n, &mut |_| true), *output),
            HistoryRequest::Range { start, stop, output, .. } => {
                let range = *start.max(&0) as usize..*stop.max(&0) as usize;
                (self.0.iter().filter(|(count, _)| range.contains(count)).collect(), *output)
            }
            HistoryRequest::Search { pattern, unique, n, output, .. } => {
                let parts: Vec<&str> = pattern.split('*').collect();
                let mut seen = BTreeSet::new();
                let mut keep = |code: &str| matches(code, &parts) && (!unique || seen.insert(code.to_string()));
                (newest(*n, &mut keep), *output)
            }
        };
        let entry = |(count, code): &(usize, String)| match output {
            true => json!([0, count, [code, null]]),
            false => json!([0, count, code]),
        };
        json!({ "status": "ok", "history": found.into_iter().map(entry).collect::<Vec<_>>() })
    }
}

/// Fills in what the protocol lets a front end leave out of the content of a `history_request`, and the protocol
/// library does not.
pub fn complete(content: &mut Value) {
    let Some(content) = content.as_object_mut() else { return };
    let defaults = [
        ("output", json!(false)),
        ("raw", json!(true)),
        ("unique", json!(false)),
        ("n", json!(KEPT)),
        ("start", json!(0)),
        ("stop", json!(i32::MAX)),
    ];
    for (name, value) in defaults {
        let given = content.entry(name).or_insert(Value::Null);
        if given.is_null() {
            *given = value;
        }
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
        // Of what was run twice the last is found, where each is asked for once.
        history.add(4, "let a = 1;");
        let HistoryRequest::Search { pattern, output, raw, n, .. } = search("let*") else { unreachable!() };
        let found = history.reply(&HistoryRequest::Search { pattern, unique: true, output, raw, n });
        assert_eq!(found["history"], json!([[0, 3, "let b = 2;"], [0, 4, "let a = 1;"]]));
    }

    #[test]
    fn a_request_may_leave_out_what_the_protocol_lets_it() {
        let mut history = History::default();
        (1..4).for_each(|count| history.add(count, "x"));
        let found = |mut content: Value| {
            complete(&mut content);
            let asked: HistoryRequest = serde_json::from_value(content).unwrap();
            history.reply(&asked)["history"].as_array().unwrap().len()
        };
        assert_eq!(found(json!({ "hist_access_type": "range", "start": 2 })), 2);
        assert_eq!(found(json!({ "hist_access_type": "range", "session": 0, "start": 2, "stop": null })), 2);
        assert_eq!(found(json!({ "hist_access_type": "tail", "n": 1 })), 1);
        assert_eq!(found(json!({ "hist_access_type": "search", "pattern": "x" })), 3);
    }
}
