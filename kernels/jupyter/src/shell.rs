//! Answers the requests of the shell channel, one after the other.

use crate::cell::engine::{Engine, Shown};
use crate::cell::parse::is_unfinished;
use crate::cell::report::CellError;
use crate::child::{Sink, Stream};
use crate::outbox::{Channel, Outbox};
use crate::output::Piece;
use jupyter_protocol::{ExecuteRequest, JupyterMessage, JupyterMessageContent as Content};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::UnboundedReceiver;

/// The request whose output is coming in; kept after its end for what background threads print.
pub type Parent = Arc<Mutex<Option<JupyterMessage>>>;

pub fn kernel_info() -> Value {
    json!({
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "attention-kernel",
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "language_info": {
            "name": "rust",
            "version": env!("CARGO_PKG_RUST_VERSION"),
            "mimetype": "text/rust",
            "file_extension": ".rs",
            "pygments_lexer": "rust",
            "codemirror_mode": "rust",
        },
        "banner": "Attention Zoo (Rust)",
        "help_links": [],
        "debugger": false,
    })
}

/// Forwards a session's output under the request it belongs to.
pub fn sink(outbox: Outbox, parent: Parent) -> Sink {
    Arc::new(move |stream, piece| {
        let parent = parent.lock().unwrap().clone();
        let parent = parent.as_ref();
        match piece {
            Piece::Text(text) => {
                let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                outbox.publish("stream", json!({ "name": name, "text": text }), parent);
            }
            Piece::Stderr(text) => outbox.publish("stream", json!({ "name": "stderr", "text": text }), parent),
            Piece::Display(display) => {
                let mut content = json!({ "data": {}, "metadata": {}, "transient": {} });
                for (mime, text) in display.types {
                    let text = media(&mime, text);
                    content["data"][mime] = text;
                }
                if let Some(id) = display.id {
                    content["transient"]["display_id"] = id.into();
                }
                let kind = if display.update { "update_display_data" } else { "display_data" };
                outbox.publish(kind, content, parent);
            }
            Piece::Clear { wait } => outbox.publish("clear_output", json!({ "wait": wait }), parent),
            Piece::End(_) => {}
        }
    })
}

/// JSON types travel as JSON, all others as text.
fn media(mime: &str, content: String) -> Value {
    if mime.ends_with("json") {
        return serde_json::from_str(&content).unwrap_or(Value::String(content));
    }
    Value::String(content)
}

pub struct Shell {
    pub engine: Engine,
    pub outbox: Outbox,
    pub parent: Parent,
    pub count: usize,
    pub requests: UnboundedReceiver<JupyterMessage>,
    /// Requests to be answered before those still in the channel.
    pub waiting: VecDeque<(JupyterMessage, bool)>,
}

impl Shell {
    pub fn serve(mut self) {
        loop {
            let (request, abort) = match self.waiting.pop_front() {
                Some(next) => next,
                None => match self.requests.blocking_recv() {
                    Some(request) => (request, false),
                    None => return,
                },
            };
            self.outbox.status("busy", Some(&request));
            self.answer(&request, abort);
            self.outbox.status("idle", Some(&request));
        }
    }

    fn answer(&mut self, request: &JupyterMessage, abort: bool) {
        let (kind, content) = match &request.content {
            Content::ExecuteRequest(_) if abort => {
                ("execute_reply", json!({ "status": "aborted", "execution_count": self.count }))
            }
            Content::ExecuteRequest(execute) => ("execute_reply", self.execute(request, execute)),
            Content::KernelInfoRequest(_) => ("kernel_info_reply", kernel_info()),
            Content::IsCompleteRequest(asked) => {
                let unfinished = is_unfinished(&asked.code);
                let status = if unfinished { "incomplete" } else { "complete" };
                let indent = if unfinished { "    " } else { "" };
                ("is_complete_reply", json!({ "status": status, "indent": indent }))
            }
            Content::CompleteRequest(asked) => ("complete_reply", self.complete(&asked.code, asked.cursor_pos)),
            Content::InspectRequest(_) => {
                ("inspect_reply", json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }))
            }
            Content::HistoryRequest(_) => ("history_reply", json!({ "status": "ok", "history": [] })),
            Content::CommInfoRequest(_) => ("comm_info_reply", json!({ "status": "ok", "comms": {} })),
            // Comm messages have no reply; the kernel has no comms.
            _ => return,
        };
        self.outbox.reply(Channel::Shell, kind, content, request);
    }

    fn execute(&mut self, request: &JupyterMessage, execute: &ExecuteRequest) -> Value {
        let counted = execute.store_history && !execute.silent;
        if counted {
            self.count += 1;
        }
        let count = self.count;
        *self.parent.lock().unwrap() = Some(request.clone());
        if !execute.silent {
            let input = json!({ "code": execute.code, "execution_count": count });
            self.outbox.publish("execute_input", input, Some(request));
        }
        match self.engine.execute(&execute.code, count) {
            Ok(shown) => {
                // A cell may take the stop button as a wish and end well, as training does. "Run all"
                // was stopped nevertheless.
                if self.engine.interrupts.pressed() {
                    self.abort_queued();
                }
                if let (Shown(Some(text)), false) = (shown, execute.silent) {
                    let result = json!({
                        "execution_count": count, "data": { "text/plain": text }, "metadata": {},
                    });
                    self.outbox.publish("execute_result", result, Some(request));
                }
                json!({
                    "status": "ok", "execution_count": count,
                    "payload": [], "user_expressions": {},
                })
            }
            Err(error) => self.failed(request, execute, error, count),
        }
    }

    fn failed(&mut self, request: &JupyterMessage, execute: &ExecuteRequest, error: CellError, count: usize) -> Value {
        let CellError { ename, evalue, traceback } = error;
        let mut content = json!({ "ename": ename, "evalue": evalue, "traceback": traceback });
        self.outbox.publish("error", content.clone(), Some(request));
        if execute.stop_on_error {
            self.abort_queued();
        }
        content["status"] = "error".into();
        content["execution_count"] = count.into();
        content["user_expressions"] = json!({});
        content
    }

    /// What was sent before the end could be seen was meant to follow a success.
    fn abort_queued(&mut self) {
        while let Ok(next) = self.requests.try_recv() {
            self.waiting.push_back((next, true));
        }
    }

    /// Completes variables, items and imported names.
    fn complete(&self, code: &str, cursor: usize) -> Value {
        let before: Vec<char> = code.chars().take(cursor).collect();
        let word = |c: &char| c.is_alphanumeric() || *c == '_';
        let length = before.iter().rev().take_while(|c| word(c)).count();
        let start = before.len() - length;
        let prefix: String = before[start..].iter().collect();
        let scope = &self.engine.scope;
        let mut matches: Vec<&String> = scope.variables.keys().chain(scope.names.keys()).collect();
        matches.extend(scope.macros.iter().map(|(name, _)| name));
        // After a dot or a path only the compiler would know.
        let follows = start > 0 && matches!(before[start - 1], '.' | ':');
        matches.retain(|name| !follows && !prefix.is_empty() && name.starts_with(&prefix));
        matches.sort();
        matches.dedup();
        json!({
            "status": "ok", "matches": matches, "metadata": {},
            "cursor_start": start, "cursor_end": before.len(),
        })
    }
}
