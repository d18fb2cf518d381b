//! All messages leave through one queue, so that their order is the order they were put in.

use jupyter_protocol::{JupyterMessage, JupyterMessageContent, UnknownMessage};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Shell,
    IoPub,
}

pub type Outgoing = (Channel, JupyterMessage);

/// The sending end, for threads that may block: a cell that prints faster than the front end
/// reads has to wait rather than fill the memory.
#[derive(Clone)]
pub struct Outbox(Sender<Outgoing>);

pub fn outbox() -> (Outbox, Receiver<Outgoing>) {
    let (sender, receiver) = channel(256);
    (Outbox(sender), receiver)
}

/// Message contents are written as the protocol's JSON; typed structs buy nothing on the way out.
pub fn message(kind: &str, content: Value, parent: Option<&JupyterMessage>) -> JupyterMessage {
    let content = UnknownMessage { msg_type: kind.to_string(), content };
    JupyterMessage::new(JupyterMessageContent::UnknownMessage(content), parent)
}

impl Outbox {
    pub fn send(&self, channel: Channel, message: JupyterMessage) {
        // It fails only when the kernel is going down.
        let _ = self.0.blocking_send((channel, message));
    }

    pub fn publish(&self, kind: &str, content: Value, parent: Option<&JupyterMessage>) {
        let mut message = message(kind, content, parent);
        // On iopub the first frame is a topic, not an address.
        message.zmq_identities = vec![format!("kernel.{kind}").into_bytes().into()];
        self.send(Channel::IoPub, message);
    }

    pub fn status(&self, state: &str, parent: Option<&JupyterMessage>) {
        self.publish("status", json!({ "execution_state": state }), parent);
    }

    pub fn reply(&self, channel: Channel, kind: &str, content: Value, to: &JupyterMessage) {
        self.send(channel, message(kind, content, Some(to)));
    }
}
