//! The kernel process: five sockets, and a thread that does the work of the shell channel.

use crate::assist::analyzer::Analyzer;
use crate::assist::index::Index;
use crate::cell::engine::Engine;
use crate::interrupts::Interrupts;
use crate::outbox::{Channel, Outbox, Outgoing, outbox, reply};
use crate::prompt::{Prompt, State, refusal};
use crate::shell::{Parent, Shell, sink};
use crate::toolkit::Toolkit;
use anyhow::{Context, Result};
use jupyter_protocol::{ConnectionInfo, Header, JupyterMessage, JupyterMessageContent as Content, UnknownMessage};
use jupyter_zmq_client as zmq;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use zeromq::{SocketRecv, SocketSend};

/// How long a cell that was asked to stop is given before its user is told what is left to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel waits at its end for the shell thread to leave things in order.
const SETTLING: Duration = Duration::from_secs(2);
/// A socket that goes on failing must not take a processor for itself.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves the connection until it is told to stop.
pub fn serve(connection_file: &Path, session: &Path) -> Result<()> {
    let text = std::fs::read_to_string(connection_file)
        .with_context(|| format!("cannot read {}", connection_file.display()))?;
    let connection: ConnectionInfo =
        serde_json::from_str(&text).with_context(|| format!("{} is no connection file", connection_file.display()))?;
    let toolkit = Toolkit::load(session)?;
    let index = read_index(&Toolkit::index(session));
    let folder = crate::scratch::folder()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interrupts = Arc::new(Interrupts::default());
    let mut worker = None;
    let result = runtime.block_on(run(connection, toolkit, index, folder.path(), &interrupts, &mut worker));
    interrupts.end();
    // With it go the queues that the shell thread may wait for.
    runtime.shutdown_background();
    // A `:dep` in the middle of its work puts files back. A thread that does not notice goes down with the process.
    let begun = Instant::now();
    while worker.as_ref().is_some_and(|worker| !worker.is_finished()) && begun.elapsed() < SETTLING {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(folder);
    result
}

/// In the background: 0.1 s that nobody has to wait for.
fn read_index(path: &Path) -> Arc<OnceLock<Index>> {
    let index = Arc::new(OnceLock::new());
    let (filled, path) = (index.clone(), path.to_path_buf());
    std::thread::spawn(move || {
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match read {
            Some(read) => drop(filled.set(read)),
            None => eprintln!("attention-kernel: {} cannot be read; completion knows less", path.display()),
        }
    });
    index
}

async fn run(
    connection: ConnectionInfo,
    toolkit: Toolkit,
    index: Arc<OnceLock<Index>>,
    folder: &Path,
    interrupts: &Arc<Interrupts>,
    worker: &mut Option<JoinHandle<()>>,
) -> Result<()> {
    let id = uuid::Uuid::new_v4().to_string();
    let shell = zmq::create_kernel_shell_connection(&connection, &id).await?;
    let control = zmq::create_kernel_control_connection(&connection, &id).await?;
    let iopub = zmq::create_kernel_iopub_connection(&connection, &id).await?;
    let _stdin = zmq::create_kernel_stdin_connection(&connection, &id).await?;
    let heartbeat = zmq::create_kernel_heartbeat_connection(&connection).await?;
    tokio::spawn(beat(heartbeat));

    let (out, outgoing) = outbox();
    let (cells, cells_received) = unbounded_channel();
    let (asks, requests) = unbounded_channel();
    let state = State::default();
    state.lock().crates = toolkit.crates.keys().cloned().collect();
    let analyzer = Analyzer::new(&toolkit, folder);
    let prompt = Prompt { outbox: out.clone(), state: state.clone(), index, analyzer: analyzer.clone(), requests };
    std::thread::spawn(move || prompt.serve());
    *worker = Some(start_shell(interrupts, out.clone(), state.clone(), cells_received, toolkit, analyzer, folder));

    let (shell_out, mut shell_in) = shell.split();
    let (mut control_out, mut control_in) = control.split();
    tokio::spawn(deliver(outgoing, shell_out, iopub));
    tokio::spawn(async move {
        loop {
            let request = read(&mut shell_in).await;
            let cell = matches!(request.content, Content::ExecuteRequest(_));
            let to = if cell { &cells } else { &asks };
            if to.send(request).is_err() {
                return;
            }
        }
    });

    let mut sigint = signal(SignalKind::interrupt())?;
    let mut sigterm = signal(SignalKind::terminate())?;
    // A front end that dies sends no goodbye; without it nobody would ever stop this process.
    let watched = std::env::var_os("JPY_PARENT_PID").is_some();
    let parent = std::os::unix::process::parent_id();
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = sigint.recv() => press(interrupts, &state, &out),
            _ = sigterm.recv() => return Ok(()),
            _ = look.tick() => {
                if watched && std::os::unix::process::parent_id() != parent {
                    return Ok(());
                }
            }
            // Nothing is lost when another branch is first: what has come in part stays with the socket.
            order = read(&mut control_in) => {
                let content = match &order.content {
                    Content::InterruptRequest(_) => {
                        press(interrupts, &state, &out);
                        json!({ "status": "ok" })
                    }
                    Content::ShutdownRequest(asked) => json!({ "status": "ok", "restart": asked.restart }),
                    Content::KernelInfoRequest(_) => crate::shell::kernel_info(),
                    Content::UnknownMessage(unknown) => {
                        let Some(refused) = refusal(unknown) else { continue };
                        refused
                    }
                    _ => continue,
                };
                send(&mut control_out, reply(content, &order)).await;
                if matches!(order.content, Content::ShutdownRequest(_)) {
                    // Time for the reply to leave the socket's own queue.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Ok(());
                }
            }
        }
    }
}

/// A cell that does not look at the button goes on; after a while its user is told what is left to do.
fn press(interrupts: &Arc<Interrupts>, state: &State, out: &Outbox) {
    if interrupts.press() > 1 {
        return;
    }
    let (interrupts, state, out) = (interrupts.clone(), state.clone(), out.clone());
    let id = |message: &JupyterMessage| message.header.msg_id.clone();
    std::thread::spawn(move || {
        let pressed = state.lock().running.as_ref().map(id);
        std::thread::sleep(PATIENCE);
        let running = state.lock().running.clone();
        // Where no cell runs, this would be wrong: the first press has killed whatever a press can.
        if let Some(running) = running.filter(|now| Some(id(now)) == pressed && interrupts.cell_runs()) {
            let text = "The cell has not stopped yet. It ends where it next calls `check_interrupt`; pressed again, \
                        the button ends its process, and all variables are lost.\n";
            out.publish("stream", json!({ "name": "stderr", "text": text }), Some(&running));
        }
    });
}

fn start_shell(
    interrupts: &Arc<Interrupts>,
    out: Outbox,
    state: State,
    requests: tokio::sync::mpsc::UnboundedReceiver<JupyterMessage>,
    toolkit: Toolkit,
    analyzer: Analyzer,
    folder: &Path,
) -> JoinHandle<()> {
    let parent: Parent = Arc::new(Mutex::new(None));
    let sink = sink(out.clone(), parent.clone());
    let interrupts = interrupts.clone();
    let folder = folder.to_path_buf();
    // The thread that starts the session process must live as long as the kernel: the kernel asks
    // to be followed into death, and Linux takes that by thread.
    std::thread::spawn(move || {
        out.status("starting", None);
        let engine = match Engine::new(toolkit, analyzer, folder, sink, interrupts) {
            Ok(engine) => engine,
            Err(error) => {
                eprintln!("attention-kernel: {error:#}");
                std::process::exit(1);
            }
        };
        let waiting = VecDeque::new();
        Shell { engine, outbox: out, parent, count: 0, state, requests, waiting }.serve();
    })
}

/// Answers those who ask whether the kernel is there. One that leaves in the middle of it is no matter to the others.
async fn beat(mut heartbeat: zmq::KernelHeartbeatConnection) {
    loop {
        if let Err(error) = heartbeat.single_heartbeat().await {
            eprintln!("attention-kernel: a heartbeat failed: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn deliver(mut outgoing: Outgoing, mut shell: zmq::RouterSendConnection, mut iopub: zmq::KernelIoPubConnection) {
    while let Some((channel, message)) = outgoing.next().await {
        match channel {
            Channel::Shell => send(&mut shell, message).await,
            Channel::IoPub => send(&mut iopub, message).await,
        }
    }
}

/// A client that has gone away is no reason to stop serving the others, nor worth a line: Jupyter's server asks every
/// new kernel several times whether it is there, and hears only the first answer.
async fn send(socket: &mut zmq::Connection<impl SocketSend>, message: JupyterMessage) {
    if let Err(error) = socket.send(message).await.map_err(|error| error.to_string())
        && !error.contains("client not found")
    {
        eprintln!("attention-kernel: a message was not delivered: {error}");
    }
}

/// The next request. What is not signed, or does not say what it is, is not answered.
async fn read(socket: &mut zmq::RouterRecvConnection) -> JupyterMessage {
    loop {
        match receive(socket).await {
            Ok(request) => return request,
            Err(error) => {
                eprintln!("attention-kernel: a message was not understood: {error:#}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// As `socket.read()`, but a request whose content is not what its name promises comes as an `UnknownMessage`: whoever
/// sent it waits for an answer.
async fn receive(socket: &mut zmq::RouterRecvConnection) -> Result<JupyterMessage> {
    let frames = socket.socket.recv().await?;
    let zmq::RawMessage { zmq_identities, jparts } = zmq::RawMessage::from_multipart(frames, &socket.mac)?;
    let header: Header = serde_json::from_slice(&jparts[0]).context("no header")?;
    let as_text = |_| Value::String(String::from_utf8_lossy(&jparts[3]).into_owned());
    let mut content: Value = serde_json::from_slice(&jparts[3]).unwrap_or_else(as_text);
    if header.msg_type == "history_request" {
        crate::history::complete(&mut content);
    }
    let understood = Content::from_type_and_content(&header.msg_type, content.clone());
    let unknown = UnknownMessage { msg_type: header.msg_type.clone(), content };
    Ok(JupyterMessage {
        zmq_identities,
        header,
        content: understood.unwrap_or(Content::UnknownMessage(unknown)),
        // Nobody here asks for the rest of a request.
        parent_header: None,
        metadata: Value::Null,
        buffers: Vec::new(),
        channel: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::ExecuteRequest;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// Whether the user of a request that does not stop is told so, if a cell runs in the session or if not.
    fn told(in_session: bool) -> bool {
        let (interrupts, state, (out, mut outgoing)) = (Arc::new(Interrupts::default()), State::default(), outbox());
        state.lock().running = Some(ExecuteRequest::new(String::new()).into());
        let mut session = Command::new("sleep").arg("20").process_group(0).spawn().unwrap();
        if in_session {
            interrupts.cell_started(session.id() as i32);
        }
        press(&interrupts, &state, &out);
        drop(out);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let told = runtime.block_on(outgoing.next()).is_some();
        session.kill().unwrap();
        session.wait().unwrap();
        told
    }

    #[test]
    fn only_a_cell_that_runs_in_the_session_is_said_not_to_have_stopped() {
        let threads = [true, false].map(|in_session| std::thread::spawn(move || told(in_session)));
        assert_eq!(threads.map(|thread| thread.join().unwrap()), [true, false]);
    }
}
