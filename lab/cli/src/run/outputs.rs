//! What a kernel publishes, as a notebook file holds it.

use serde_json::{Value, json};
use std::collections::HashMap;

/// Files messages into the notebook's cells.
#[derive(Default)]
pub struct Outputs {
    cell: usize,
    /// Where the displays with a name are: cell and output.
    named: HashMap<String, Vec<(usize, usize)>>,
    /// The next output takes the place of all that the cell has.
    clear: bool,
}

fn list(notebook: &mut Value, cell: usize) -> &mut Vec<Value> {
    let outputs = &mut notebook["cells"][cell]["outputs"];
    if !outputs.is_array() {
        *outputs = json!([]);
    }
    outputs.as_array_mut().expect("a list")
}

impl Outputs {
    /// From now on outputs belong to this cell.
    pub fn begin(&mut self, notebook: &mut Value, cell: usize) {
        (self.cell, self.clear) = (cell, false);
        list(notebook, cell).clear();
    }

    /// Files a message of the kind `kind`; what is no output changes nothing.
    pub fn receive(&mut self, notebook: &mut Value, kind: &str, mut content: Value) {
        let mut named = content["transient"]["display_id"].as_str().map(String::from);
        let output = match kind {
            "stream" => {
                let (name, text) = (content["name"].take(), content["text"].take());
                json!({ "output_type": "stream", "name": name, "text": text })
            }
            "error" => json!({
                "output_type": "error", "ename": content["ename"].take(), "evalue": content["evalue"].take(),
                "traceback": content["traceback"].take(),
            }),
            "display_data" => {
                json!({ "output_type": kind, "data": content["data"].take(), "metadata": content["metadata"].take() })
            }
            "execute_result" => json!({
                "output_type": kind, "data": content["data"].take(), "metadata": content["metadata"].take(),
                "execution_count": content["execution_count"].take(),
            }),
            "update_display_data" => {
                for (cell, place) in named.take().and_then(|name| self.named.get(&name)).into_iter().flatten() {
                    let shown = &mut list(notebook, *cell)[*place];
                    shown["data"] = content["data"].clone();
                    shown["metadata"] = content["metadata"].clone();
                }
                return;
            }
            "clear_output" => {
                self.clear = true;
                if content["wait"] != true {
                    self.clear_now(notebook);
                }
                return;
            }
            _ => return,
        };
        if self.clear {
            self.clear_now(notebook);
        }
        let outputs = list(notebook, self.cell);
        let text = output["text"].as_str();
        match (outputs.last_mut(), text) {
            (Some(last), Some(text)) if last["output_type"] == "stream" && last["name"] == output["name"] => {
                if let Value::String(before) = &mut last["text"] {
                    append(before, text);
                }
            }
            (_, Some(text)) => {
                let mut settled = String::new();
                append(&mut settled, text);
                outputs.push(json!({ "output_type": "stream", "name": output["name"], "text": settled }));
            }
            _ => outputs.push(output),
        }
        if let Some(name) = named {
            let place = (self.cell, list(notebook, self.cell).len() - 1);
            self.named.entry(name).or_default().push(place);
        }
    }

    fn clear_now(&mut self, notebook: &mut Value) {
        self.clear = false;
        list(notebook, self.cell).clear();
        for places in self.named.values_mut() {
            places.retain(|(cell, _)| *cell != self.cell);
        }
    }
}

/// Appends as a terminal does: a carriage return writes the line anew.
fn append(before: &mut String, text: &str) {
    if !text.contains('\r') && !before.ends_with('\r') {
        before.push_str(text);
        return;
    }
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    let open = before.split_off(line) + text;
    for line in open.split_inclusive('\n') {
        let end = line.trim_end_matches(['\r', '\n']).len();
        let start = line[..end].rfind('\r').map_or(0, |at| at + 1);
        // A return at the very end may still be followed by a new text for the line.
        let ending = if line.ends_with('\n') { "\n" } else { &line[end..] };
        before.push_str(&line[start..end]);
        before.push_str(ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filed(messages: &[(&str, Value)]) -> Value {
        let mut notebook = json!({"cells": [{}, {}]});
        let mut outputs = Outputs::default();
        outputs.begin(&mut notebook, 0);
        for (kind, content) in messages {
            if *kind == "next" {
                outputs.begin(&mut notebook, 1);
            }
            outputs.receive(&mut notebook, kind, content.clone());
        }
        notebook
    }

    fn stream(text: &str) -> (&str, Value) {
        ("stream", json!({"name": "stdout", "text": text}))
    }

    fn shown(kind: &'static str, id: &str, text: &str) -> (&'static str, Value) {
        (kind, json!({"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": id}}))
    }

    #[test]
    fn lines_are_joined_and_a_carriage_return_writes_the_line_anew() {
        let pieces = ["a\n1", "0 %\r", "20 %", "\r30 %\r\nb\r", "\nc"].map(stream);
        let notebook = filed(&pieces);
        assert_eq!(notebook["cells"][0]["outputs"].as_array().unwrap().len(), 1);
        assert_eq!(notebook["cells"][0]["outputs"][0]["text"], "a\n30 %\nb\nc");
    }

    #[test]
    fn an_update_reaches_the_display_in_whichever_cell_it_is() {
        let messages =
            [shown("display_data", "d", "old"), ("next", json!({})), shown("update_display_data", "d", "new")];
        let notebook = filed(&messages);
        assert_eq!(notebook["cells"][0]["outputs"][0]["data"]["text/plain"], "new");
        assert_eq!(notebook["cells"][0]["outputs"][0].get("transient"), None, "no part of the format");
        assert_eq!(notebook["cells"][1]["outputs"], json!([]));
    }

    #[test]
    fn what_is_cleared_is_gone_at_once_or_when_the_next_output_comes() {
        let wait = ("clear_output", json!({"wait": true}));
        let kept = filed(&[stream("a"), wait.clone()]);
        assert_eq!(kept["cells"][0]["outputs"][0]["text"], "a");
        let replaced =
            filed(&[shown("display_data", "d", "old"), wait, stream("b"), shown("update_display_data", "d", "x")]);
        assert_eq!(replaced["cells"][0]["outputs"], json!([{"output_type": "stream", "name": "stdout", "text": "b"}]));
        let now = filed(&[stream("a"), ("clear_output", json!({"wait": false}))]);
        assert_eq!(now["cells"][0]["outputs"], json!([]));
    }
}
