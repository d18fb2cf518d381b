//! A front end's side of the protocol: starts the kernel of a kernelspec and talks to it.
//!
//! The notebook runner and the protocol tests are its users.

use anyhow::{Context, Result, bail};
use jupyter_protocol::{
    ConnectionInfo, ExecuteRequest, InterruptRequest, JupyterMessage, JupyterMessageContent as Content,
    KernelInfoReply, KernelInfoRequest, ShutdownRequest, Transport,
};
use jupyter_zmq_client as zmq;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

/// How long a kernel may take to answer what needs no work of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `kernel.json` says: how a kernel is started and stopped.
#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    pub argv: Vec<String>,
    pub display_name: String,
    pub language: String,
    #[serde(default)]
    pub interrupt_mode: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Spec {
    /// Reads `kernel.json` in the folder of a kernelspec.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("kernel.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let spec: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is no kernelspec", path.display()))?;
        if spec.argv.is_empty() {
            bail!("{}: `argv` is empty, expected a program and its arguments", path.display());
        }
        Ok(spec)
    }
}

pub struct Client {
    process: Child,
    shell: zmq::DealerSendConnection,
    control: zmq::ClientControlConnection,
    replies: Receiver<Result<JupyterMessage>>,
    published: Receiver<Result<JupyterMessage>>,
    by_message: bool,
    /// What the kernel said of itself.
    pub info: KernelInfoReply,
    /// From the start of the process to its first answer.
    pub ready: Duration,
    _folder: tempfile::TempDir,
}

impl Client {
    /// Starts the kernel in the folder `at`, with `env` beside what the spec sets, and waits until it
    /// answers. It ends with this value, and with this process.
    pub async fn start(spec: &Spec, at: &Path, env: &[(&str, &Path)]) -> Result<Self> {
        let (ports, listeners) = zmq::peek_ports_with_listeners([127, 0, 0, 1].into(), 5).await?;
        let info = ConnectionInfo {
            ip: "127.0.0.1".into(),
            transport: Transport::TCP,
            shell_port: ports[0],
            iopub_port: ports[1],
            stdin_port: ports[2],
            control_port: ports[3],
            hb_port: ports[4],
            key: uuid::Uuid::new_v4().to_string(),
            signature_scheme: "hmac-sha256".into(),
            kernel_name: None,
        };
        // The file holds the key; a temporary folder is its owner's alone.
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let file = folder.path().join("connection.json");
        std::fs::write(&file, serde_json::to_string(&info)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        drop(listeners);
        let begun = Instant::now();
        let mut process = spawn(spec, at, env, &file)?;
        for port in ports {
            listening(&mut process, port, begun).await?;
        }

        let id = uuid::Uuid::new_v4().to_string();
        let identity = zmq::peer_identity_for_session(&id)?;
        let shell = zmq::create_client_shell_connection_with_identity(&info, &id, identity).await?;
        let control = zmq::create_client_control_connection(&info, &id).await?;
        let mut iopub = zmq::create_client_iopub_connection(&info, "", &id).await?;
        let (mut shell, mut answers) = shell.split();
        let mut ready = None;
        // A subscription takes a moment to arrive; go on when messages do.
        let info = loop {
            shell.send(KernelInfoRequest {}.into()).await?;
            let reply = tokio::select! {
                reply = timeout(PATIENCE, answers.read()) => reply.context("the kernel does not answer")??,
                status = process.wait() => bail!("the kernel ended with {}", status?),
            };
            ready.get_or_insert_with(|| begun.elapsed());
            let Content::KernelInfoReply(info) = reply.content else {
                bail!("the kernel answered `{}`, expected `kernel_info_reply`", reply.message_type());
            };
            if timeout(Duration::from_millis(50), iopub.read()).await.is_ok() {
                break *info;
            }
        };
        // Tasks of their own, so that nothing is lost when a waiting caller turns to something else.
        let (replied, replies) = channel(64);
        tokio::spawn(async move { while replied.send(answers.read().await.map_err(Into::into)).await.is_ok() {} });
        let (heard, published) = channel(64);
        tokio::spawn(async move { while heard.send(iopub.read().await.map_err(Into::into)).await.is_ok() {} });
        Ok(Self {
            process,
            shell,
            control,
            replies,
            published,
            by_message: spec.interrupt_mode.as_deref() == Some("message"),
            info,
            ready: ready.expect("it answered"),
            _folder: folder,
        })
    }

    /// Sends a request of the shell channel; its number names the messages that answer it.
    pub async fn send(&mut self, request: JupyterMessage) -> Result<String> {
        let id = request.header.msg_id.clone();
        self.shell.send(request).await?;
        Ok(id)
    }

    pub async fn execute(&mut self, code: &str) -> Result<String> {
        let request = ExecuteRequest { allow_stdin: false, ..ExecuteRequest::new(code.to_string()) };
        self.send(request.into()).await
    }

    /// The next message on iopub that belongs to the request. Nothing is lost if the caller stops waiting.
    ///
    /// # Errors
    /// When the kernel has ended, with its status.
    pub async fn published(&mut self, id: &str) -> Result<Content> {
        loop {
            let message = next(&mut self.published, &mut self.process).await?;
            if message.parent_header.as_ref().is_some_and(|parent| parent.msg_id == id) {
                return Ok(message.content);
            }
        }
    }

    /// The next reply on the shell channel.
    ///
    /// # Errors
    /// When the kernel has ended, with its status.
    pub async fn reply(&mut self) -> Result<JupyterMessage> {
        next(&mut self.replies, &mut self.process).await
    }

    /// The stop button.
    pub async fn interrupt(&mut self) -> Result<()> {
        if !self.by_message {
            // SAFETY: kill has no memory effects; the process has not been waited for.
            unsafe { libc::kill(-(self.pid() as i32), libc::SIGINT) };
            return Ok(());
        }
        self.control.send(InterruptRequest {}.into()).await?;
        let reply = timeout(PATIENCE, self.control.read()).await.context("no answer to an interrupt")??;
        match reply.content {
            Content::InterruptReply(_) => Ok(()),
            _ => bail!("the kernel answered `{}`, expected `interrupt_reply`", reply.message_type()),
        }
    }

    /// Asks the kernel to end and waits until it has; `None` where it does not and had to be killed.
    pub async fn shutdown(mut self) -> Result<Option<ExitStatus>> {
        let end = async {
            self.control.send(ShutdownRequest { restart: false }.into()).await?;
            anyhow::Ok(self.process.wait().await?)
        };
        match timeout(Duration::from_secs(5), end).await {
            Ok(status) => status.map(Some),
            Err(_) => self.process.kill().await.map(|()| None).map_err(Into::into),
        }
    }

    /// Ends the kernel without a word.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// The kernel's process; 0 when it has ended.
    pub fn pid(&self) -> u32 {
        self.process.id().unwrap_or(0)
    }
}

fn spawn(spec: &Spec, at: &Path, env: &[(&str, &Path)], connection: &Path) -> Result<Child> {
    let connection = connection.to_str().context("the temporary folder's name is not UTF-8")?;
    let argv: Vec<String> = spec.argv.iter().map(|part| part.replace("{connection_file}", connection)).collect();
    Command::new(&argv[0])
        .args(&argv[1..])
        .envs(&spec.env)
        .envs(env.iter().copied())
        // By this the kernel knows whom not to outlive.
        .env("JPY_PARENT_PID", std::process::id().to_string())
        .current_dir(at)
        .stdin(Stdio::null())
        // What a kernel says beside the protocol is no part of what the command prints, which may be JSON.
        .stdout(std::io::stderr())
        // Ctrl-C in a terminal is for the front end, which decides what it means.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start the kernel {}", argv[0]))
}

/// Sockets connect only to what is bound.
async fn listening(process: &mut Child, port: u16, begun: Instant) -> Result<()> {
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = process.try_wait()? {
            bail!("the kernel ended with {status} before it answered");
        }
        if begun.elapsed() > PATIENCE {
            bail!("the kernel does not listen after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn next(from: &mut Receiver<Result<JupyterMessage>>, process: &mut Child) -> Result<JupyterMessage> {
    tokio::select! {
        biased;
        message = from.recv() => message.context("the connection is closed")?,
        status = process.wait() => {
            // What it said last may still be on its way.
            match timeout(Duration::from_millis(200), from.recv()).await {
                Ok(Some(message)) => message,
                _ => bail!("the kernel died ({})", status?),
            }
        }
    }
}
