//! The kernel process: five sockets, and a thread that does the work of the shell channel.

use crate::assist::analyzer::Analyzer;
use crate::assist::index::Index;
use crate::cell::engine::Engine;
use crate::interrupts::Interrupts;
use crate::outbox::{Channel, Outbox, Outgoing, message, outbox};
use crate::prompt::{Prompt, State};
use crate::shell::{Parent, Shell, sink};
use crate::toolkit::Toolkit;
use anyhow::{Context, Result};
use jupyter_protocol::{ConnectionInfo, JupyterMessage, JupyterMessageContent as Content};
use jupyter_zmq_client as zmq;
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, UnboundedSender, unbounded_channel};

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
    let result = runtime.block_on(run(connection, toolkit, index, folder.path()));
    // The shell thread may be in the middle of a cell; it goes down with the process.
    runtime.shutdown_background();
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

async fn run(connection: ConnectionInfo, toolkit: Toolkit, index: Arc<OnceLock<Index>>, folder: &Path) -> Result<()> {
    let id = uuid::Uuid::new_v4().to_string();
    let shell = zmq::create_kernel_shell_connection(&connection, &id).await?;
    let control = zmq::create_kernel_control_connection(&connection, &id).await?;
    let iopub = zmq::create_kernel_iopub_connection(&connection, &id).await?;
    let _stdin = zmq::create_kernel_stdin_connection(&connection, &id).await?;
    let mut heartbeat = zmq::create_kernel_heartbeat_connection(&connection).await?;
    tokio::spawn(async move { while heartbeat.single_heartbeat().await.is_ok() {} });

    let interrupts = Arc::new(Interrupts::default());
    let (out, outgoing) = outbox();
    let (cells, cells_received) = unbounded_channel();
    let (asks, requests) = unbounded_channel();
    let state = State::default();
    state.lock().crates = toolkit.crates.keys().cloned().collect();
    let analyzer = Analyzer::new(&toolkit, folder);
    let prompt = Prompt { outbox: out.clone(), state: state.clone(), index, analyzer: analyzer.clone(), requests };
    std::thread::spawn(move || prompt.serve());
    start_shell(&interrupts, out.clone(), state.clone(), cells_received, toolkit, analyzer, folder);

    let (shell_out, shell_in) = shell.split();
    let (mut control_out, mut control_in) = control.split();
    tokio::spawn(deliver(outgoing, shell_out, iopub));
    tokio::spawn(listen(shell_in, cells, asks));

    let mut sigint = signal(SignalKind::interrupt())?;
    let mut sigterm = signal(SignalKind::terminate())?;
    // A front end that dies sends no goodbye; without it nobody would ever stop this process.
    let watched = std::env::var_os("JPY_PARENT_PID").is_some();
    let parent = std::os::unix::process::parent_id();
    let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
    let (heard, mut orders) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok(order) = control_in.read().await {
            if heard.send(order).is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            _ = sigint.recv() => press(&interrupts, &state, &out),
            _ = sigterm.recv() => return Ok(()),
            _ = look.tick() => {
                if watched && std::os::unix::process::parent_id() != parent {
                    return Ok(());
                }
            }
            order = orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                let (kind, content) = match &order.content {
                    Content::InterruptRequest(_) => {
                        press(&interrupts, &state, &out);
                        ("interrupt_reply", json!({ "status": "ok" }))
                    }
                    Content::ShutdownRequest(asked) => {
                        ("shutdown_reply", json!({ "status": "ok", "restart": asked.restart }))
                    }
                    Content::KernelInfoRequest(_) => {
                        ("kernel_info_reply", crate::shell::kernel_info())
                    }
                    _ => continue,
                };
                control_out.send(message(kind, content, Some(&order))).await?;
                if kind == "shutdown_reply" {
                    // Time for the reply to leave the socket's own queue.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    return Ok(());
                }
            }
        }
    }
}

/// A cell that does not look at the button goes on; after a while its user is told what is left to do.
fn press(interrupts: &Arc<Interrupts>, state: &State, out: &Outbox) {
    let (times, state, out) = (interrupts.press(), state.clone(), out.clone());
    if times > 1 {
        return;
    }
    let id = |message: &JupyterMessage| message.header.msg_id.clone();
    std::thread::spawn(move || {
        let pressed = state.lock().running.as_ref().map(id);
        std::thread::sleep(PATIENCE);
        let running = state.lock().running.clone();
        if let Some(running) = running.filter(|now| Some(id(now)) == pressed) {
            let text = "The cell has not stopped yet. It ends where it next calls `check_interrupt`; pressed again, \
                        the button ends its process, and all variables are lost.\n";
            out.publish("stream", json!({ "name": "stderr", "text": text }), Some(&running));
        }
    });
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

fn start_shell(
    interrupts: &Arc<Interrupts>,
    out: Outbox,
    state: State,
    requests: tokio::sync::mpsc::UnboundedReceiver<JupyterMessage>,
    toolkit: Toolkit,
    analyzer: Analyzer,
    folder: &Path,
) {
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
    });
}

async fn deliver(
    mut outgoing: Receiver<Outgoing>,
    mut shell: zmq::RouterSendConnection,
    mut iopub: zmq::KernelIoPubConnection,
) {
    while let Some((channel, message)) = outgoing.recv().await {
        let sent = match channel {
            Channel::Shell => shell.send(message).await,
            Channel::IoPub => iopub.send(message).await,
        };
        // A client that has gone away is no reason to stop serving the others. Jupyter's server asks every
        // new kernel several times whether it is there, and hears only the first answer.
        if let Err(error) = sent.map_err(|error| error.to_string())
            && !error.contains("client not found")
        {
            eprintln!("attention-kernel: a message was not delivered: {error}");
        }
    }
}

async fn listen(
    mut shell: zmq::RouterRecvConnection,
    cells: UnboundedSender<JupyterMessage>,
    asks: UnboundedSender<JupyterMessage>,
) {
    let mut failures = 0;
    while failures < 1000 {
        match shell.read().await {
            Ok(request) => {
                failures = 0;
                let cell = matches!(request.content, Content::ExecuteRequest(_));
                if if cell { &cells } else { &asks }.send(request).is_err() {
                    return;
                }
            }
            // A message that is not signed, or makes no sense, is not answered.
            Err(error) => {
                failures += 1;
                eprintln!("attention-kernel: a message was not understood: {error}");
            }
        }
    }
}
