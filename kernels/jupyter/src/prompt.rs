//! Answers what a front end asks while it is being typed into: completion, hover, is this complete.
//! On a thread of its own, so that none of it waits for a cell.

use crate::assist::analyzer::Analyzer;
use crate::assist::index::Index;
use crate::assist::{Sources, complete, inspect};
use crate::cell::parse::is_unfinished;
use crate::cell::scope::Scope;
use crate::history::History;
use crate::outbox::Outbox;
use jupyter_protocol::{JupyterMessage, JupyterMessageContent as Content, UnknownMessage};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::mpsc::UnboundedReceiver;

/// What the notebook holds after the last cell, and which request runs now.
#[derive(Debug, Clone, Default)]
pub struct State(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
pub struct Inner {
    pub scope: Scope,
    /// Crates inside the session.
    pub crates: BTreeSet<String>,
    pub running: Option<JupyterMessage>,
    pub history: History,
}

impl State {
    /// Also the right to say busy or idle: a front end believes whoever spoke last.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

pub struct Prompt {
    pub outbox: Outbox,
    pub state: State,
    /// Read in the background.
    pub index: Arc<OnceLock<Index>>,
    pub analyzer: Analyzer,
    pub requests: UnboundedReceiver<JupyterMessage>,
}

impl Prompt {
    pub fn serve(mut self) {
        while let Some(request) = self.requests.blocking_recv() {
            {
                let _state = self.state.lock();
                self.outbox.status("busy", Some(&request));
            }
            if let Some(content) = self.answer(&request) {
                self.outbox.reply(content, &request);
            }
            let state = self.state.lock();
            self.outbox.status("idle", Some(&request));
            if state.running.is_some() {
                self.outbox.status("busy", state.running.as_ref());
            }
        }
    }

    fn answer(&self, request: &JupyterMessage) -> Option<Value> {
        let nothing = Index::default();
        let index = self.index.get().unwrap_or(&nothing);
        Some(match &request.content {
            Content::KernelInfoRequest(_) => crate::shell::kernel_info(),
            Content::IsCompleteRequest(asked) => {
                let unfinished = is_unfinished(&asked.code);
                let status = if unfinished { "incomplete" } else { "complete" };
                let indent = if unfinished { "    " } else { "" };
                json!({ "status": status, "indent": indent })
            }
            Content::CompleteRequest(asked) => {
                let (scope, crates) = {
                    let state = self.state.lock();
                    (state.scope.clone(), state.crates.clone())
                };
                let sources = Sources { index, analyzer: &self.analyzer, scope: &scope };
                complete(&sources, &crates, &asked.code, asked.cursor_pos)
            }
            Content::InspectRequest(asked) => {
                let scope = self.state.lock().scope.clone();
                let sources = Sources { index, analyzer: &self.analyzer, scope: &scope };
                inspect(&sources, &asked.code, asked.cursor_pos)
            }
            Content::HistoryRequest(asked) => self.state.lock().history.reply(asked),
            Content::CommInfoRequest(_) => json!({ "status": "ok", "comms": {} }),
            // The kernel has no comms; without this the front end would take this one for open.
            Content::CommOpen(open) => {
                self.outbox.publish("comm_close", json!({ "comm_id": open.comm_id, "data": {} }), Some(request));
                return None;
            }
            Content::UnknownMessage(unknown) => return refusal(unknown),
            // Messages that have no reply, as those of comms.
            _ => return None,
        })
    }
}

/// What is answered to a request that is not understood: its content is not what its name promises, or its name is not
/// known. Other messages have no reply.
pub fn refusal(unknown: &UnknownMessage) -> Option<Value> {
    let UnknownMessage { msg_type: kind, content } = unknown;
    if !kind.ends_with("_request") {
        return None;
    }
    let why = match Content::from_type_and_content(kind, content.clone()) {
        Err(error) => error.to_string(),
        Ok(_) => "this kernel does not know such requests".into(),
    };
    Some(json!({ "status": "error", "ename": "BadRequest", "evalue": format!("{kind}: {why}"), "traceback": [] }))
}
