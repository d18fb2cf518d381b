//! All messages leave through one queue, so that their order is the order they were put in.

use jupyter_protocol::{JupyterMessage, JupyterMessageContent as Content, UnknownMessage};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout_at};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Shell,
    IoPub,
}

/// The sending end, for threads that may block: a cell has to wait when it prints faster than its output can be
/// signed and handed to the sockets.
///
/// It does not wait for those who read. zeromq keeps up to 100,000 messages for each subscriber that lags, however
/// large they are, and drops what comes after them, a status as well as a line of text. To wait for the slowest would
/// let one client that has been stopped stop the kernel. What can be done here is to send few messages: the text of a
/// stream is gathered on its way out (see [`Outgoing`]).
#[derive(Clone)]
pub struct Outbox(Sender<(Channel, JupyterMessage)>);

/// The receiving end.
pub struct Outgoing {
    messages: Receiver<(Channel, JupyterMessage)>,
    /// Taken from the queue already, to leave next.
    ahead: Option<(Channel, JupyterMessage)>,
    /// When the last text of a stream left.
    printed: Instant,
}

/// Text that follows text sooner than this waits for more of it.
const GATHERING: Duration = Duration::from_millis(10);
/// Text of this many bytes does not wait.
const LARGE: usize = 1 << 20;

pub fn outbox() -> (Outbox, Outgoing) {
    let (sender, messages) = channel(256);
    (Outbox(sender), Outgoing { messages, ahead: None, printed: Instant::now() })
}

/// Message contents are written as the protocol's JSON; typed structs buy nothing on the way out.
fn message(kind: &str, content: Value, parent: Option<&JupyterMessage>) -> JupyterMessage {
    let content = UnknownMessage { msg_type: kind.to_string(), content };
    JupyterMessage::new(Content::UnknownMessage(content), parent)
}

/// The answer to a request has its name and goes where it came from.
pub fn reply(content: Value, to: &JupyterMessage) -> JupyterMessage {
    message(&to.header.msg_type.replace("_request", "_reply"), content, Some(to))
}

impl Outbox {
    fn send(&self, channel: Channel, message: JupyterMessage) {
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

    pub fn reply(&self, content: Value, to: &JupyterMessage) {
        self.send(Channel::Shell, reply(content, to));
    }
}

impl Outgoing {
    /// The next message to deliver; `None` when nobody can send any more. Pieces of one stream that follow each other
    /// come as one. The first comes at once, and none waits when something else is behind it.
    pub async fn next(&mut self) -> Option<(Channel, JupyterMessage)> {
        let (channel, mut message) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.messages.recv().await?,
        };
        if printed(&message).is_none() {
            return Some((channel, message));
        }
        let due = self.printed + GATHERING;
        while printed(&message).is_some_and(|(.., text)| text.len() < LARGE) {
            // What is in the queue is taken even if the time is over: then delivery lags.
            let Ok(Some(next)) = timeout_at(due, self.messages.recv()).await else { break };
            if !append(&mut message, &next.1) {
                self.ahead = Some(next);
                break;
            }
        }
        self.printed = Instant::now();
        Some((channel, message))
    }
}

/// Of a piece of a stream: whose request it belongs to, the stream's name, the text.
fn printed(message: &JupyterMessage) -> Option<(Option<&str>, &str, &str)> {
    let Content::UnknownMessage(UnknownMessage { msg_type, content }) = &message.content else { return None };
    if msg_type != "stream" {
        return None;
    }
    let request = message.parent_header.as_ref().map(|parent| parent.msg_id.as_str());
    Some((request, content["name"].as_str()?, content["text"].as_str()?))
}

/// Adds to a piece what follows in the same stream; false where `next` is something else.
fn append(piece: &mut JupyterMessage, next: &JupyterMessage) -> bool {
    let (Some((request, name, _)), Some((of, by, more))) = (printed(piece), printed(next)) else { return false };
    if (request, name) != (of, by) {
        return false;
    }
    let Content::UnknownMessage(UnknownMessage { content, .. }) = &mut piece.content else { return false };
    let Some(Value::String(text)) = content.get_mut("text") else { return false };
    text.push_str(more);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::ExecuteRequest;

    /// What leaves when `put` is all that is put in: kinds and contents.
    fn delivered(put: impl FnOnce(&Outbox)) -> Vec<(String, Value)> {
        let (outbox, mut outgoing) = outbox();
        put(&outbox);
        drop(outbox);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut left = Vec::new();
            while let Some((_, message)) = outgoing.next().await {
                left.push((message.header.msg_type.clone(), serde_json::to_value(&message.content).unwrap()));
            }
            left
        })
    }

    fn print(outbox: &Outbox, name: &str, text: &str, parent: &JupyterMessage) {
        outbox.publish("stream", json!({ "name": name, "text": text }), Some(parent));
    }

    #[test]
    fn text_that_follows_text_of_its_stream_and_cell_leaves_with_it_and_nothing_changes_places() {
        let [one, two]: [JupyterMessage; 2] = ["1", "2"].map(|code| ExecuteRequest::new(code.into()).into());
        let left = delivered(|outbox| {
            print(outbox, "stdout", "a", &one);
            print(outbox, "stdout", "b", &one);
            print(outbox, "stderr", "c", &one);
            print(outbox, "stdout", "d", &one);
            print(outbox, "stdout", "e", &two);
            outbox.status("idle", Some(&two));
            print(outbox, "stdout", "f", &two);
        });
        let text = |name: &str, text: &str| ("stream".to_string(), json!({ "name": name, "text": text }));
        let idle = ("status".to_string(), json!({ "execution_state": "idle" }));
        let expected = [
            text("stdout", "ab"),
            text("stderr", "c"),
            text("stdout", "d"),
            text("stdout", "e"),
            idle,
            text("stdout", "f"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn much_text_leaves_in_several_messages() {
        let cell: JupyterMessage = ExecuteRequest::new(String::new()).into();
        let left = delivered(|outbox| {
            for _ in 0..4 {
                print(outbox, "stdout", &"x".repeat(LARGE / 2), &cell);
            }
        });
        let lengths: Vec<_> = left.iter().map(|(_, content)| content["text"].as_str().unwrap().len()).collect();
        assert_eq!(lengths, [LARGE, LARGE]);
    }
}
