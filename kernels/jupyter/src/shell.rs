//! Runs the cells of the shell channel, one after the other.

use crate::cell::engine::{Engine, Shown};
use crate::cell::report::CellError;
use crate::child::{Sink, Stream};
use crate::outbox::Outbox;
use crate::output::Piece;
use crate::prompt::State;
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

/// The answer to every expression that a request asks for beside its code. To this kernel an expression is a cell: it
/// takes a compiler, and may print, fail and be stopped.
fn unevaluated(execute: &ExecuteRequest) -> Value {
    let answer = json!({
        "status": "error",
        "ename": "NotSupported",
        "evalue": "this kernel evaluates no `user_expressions`; an expression at the end of a cell is shown",
        "traceback": [],
    });
    let asked = execute.user_expressions.iter().flatten();
    Value::Object(asked.map(|(name, _)| (name.clone(), answer.clone())).collect())
}

pub struct Shell {
    pub engine: Engine,
    pub outbox: Outbox,
    pub parent: Parent,
    pub state: State,
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
            // When the kernel ends, a cell that still waits would only begin another session.
            if self.engine.interrupts.over() {
                return;
            }
            let Content::ExecuteRequest(execute) = &request.content else { continue };
            {
                let mut state = self.state.lock();
                state.running = Some(request.clone());
                self.outbox.status("busy", Some(&request));
            }
            let content = match abort {
                true => json!({ "status": "aborted", "execution_count": self.count }),
                false => self.execute(&request, execute),
            };
            self.outbox.reply(content, &request);
            let mut state = self.state.lock();
            state.running = None;
            state.scope = self.engine.scope.clone();
            state.crates = self.engine.crates();
            self.outbox.status("idle", Some(&request));
        }
    }

    fn execute(&mut self, request: &JupyterMessage, execute: &ExecuteRequest) -> Value {
        let counted = execute.store_history && !execute.silent;
        if counted {
            self.count += 1;
            self.state.lock().history.add(self.count, &execute.code);
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
                    "payload": [], "user_expressions": unevaluated(execute),
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
}
