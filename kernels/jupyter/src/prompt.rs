//! Answers what a front end asks while it is being typed into: completion, hover, is this complete.
//! On a thread of its own, so that none of it waits for a cell.

use crate::assist::analyzer::Analyzer;
use crate::assist::index::Index;
use crate::assist::{Sources, complete, inspect};
use crate::cell::parse::is_unfinished;
use crate::cell::scope::Scope;
use crate::history::History;
use crate::outbox::{Channel, Outbox};
use jupyter_protocol::{JupyterMessage, JupyterMessageContent as Content};
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
            if let Some((kind, content)) = self.answer(&request) {
                self.outbox.reply(Channel::Shell, kind, content, &request);
            }
            let state = self.state.lock();
            self.outbox.status("idle", Some(&request));
            if state.running.is_some() {
                self.outbox.status("busy", state.running.as_ref());
            }
        }
    }

    fn answer(&self, request: &JupyterMessage) -> Option<(&'static str, Value)> {
        let nothing = Index::default();
        let index = self.index.get().unwrap_or(&nothing);
        Some(match &request.content {
            Content::KernelInfoRequest(_) => ("kernel_info_reply", crate::shell::kernel_info()),
            Content::IsCompleteRequest(asked) => {
                let unfinished = is_unfinished(&asked.code);
                let status = if unfinished { "incomplete" } else { "complete" };
                let indent = if unfinished { "    " } else { "" };
                ("is_complete_reply", json!({ "status": status, "indent": indent }))
            }
            Content::CompleteRequest(asked) => {
                let (scope, crates) = {
                    let state = self.state.lock();
                    (state.scope.clone(), state.crates.clone())
                };
                let sources = Sources { index, analyzer: &self.analyzer, scope: &scope };
                ("complete_reply", complete(&sources, &crates, &asked.code, asked.cursor_pos))
            }
            Content::InspectRequest(asked) => {
                let scope = self.state.lock().scope.clone();
                let sources = Sources { index, analyzer: &self.analyzer, scope: &scope };
                ("inspect_reply", inspect(&sources, &asked.code, asked.cursor_pos))
            }
            Content::HistoryRequest(asked) => ("history_reply", self.state.lock().history.reply(asked)),
            Content::CommInfoRequest(_) => ("comm_info_reply", json!({ "status": "ok", "comms": {} })),
            // Comm messages have no reply; the kernel has no comms.
            _ => return None,
        })
    }
}
