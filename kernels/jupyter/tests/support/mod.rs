//! A notebook without a notebook: a client of the real kernel process.
#![allow(dead_code)]

use jupyter_kernel::client::{Client, Spec};
use jupyter_kernel::{InstallOptions, Installed, install};
use jupyter_protocol::{JupyterMessage, JupyterMessageContent as Content, ReplyStatus};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// No cell of these tests takes this long; a kernel that hangs must not hang the test run.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("prefix-{}", std::process::id()));
        install(&InstallOptions { workspace, prefix }).expect("the kernel installs")
    })
}

/// One output of a cell, in the order in which it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Stdout(String),
    Stderr(String),
    Display(String, String),
    /// A display with a name or in several types: the message's kind, its `display_id`, its data.
    Bundle(&'static str, String, serde_json::Value),
    Clear,
    Result(String),
    Error {
        ename: String,
        evalue: String,
        traceback: String,
    },
}

#[derive(Debug, Clone)]
pub struct Ran {
    pub status: ReplyStatus,
    pub count: usize,
    pub outputs: Vec<Output>,
    pub took: Duration,
}

impl Ran {
    /// The cell's result; fails the test where the cell failed.
    pub fn result(&self) -> &str {
        assert_eq!(self.status, ReplyStatus::Ok, "{self:#?}");
        let found = self.outputs.iter().find_map(|output| match output {
            Output::Result(text) => Some(text.as_str()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no result: {self:#?}"))
    }

    pub fn ok(self) -> Self {
        assert_eq!(self.status, ReplyStatus::Ok, "{self:#?}");
        self
    }

    /// The plain text of the cell's one display in several types.
    pub fn table(&self) -> &str {
        assert_eq!(self.status, ReplyStatus::Ok, "{self:#?}");
        match self.outputs.as_slice() {
            [Output::Bundle(_, _, data)] => data["text/plain"].as_str().expect("plain text"),
            other => panic!("not one display: {other:#?}"),
        }
    }

    pub fn stdout(&self) -> String {
        let text = self.outputs.iter().filter_map(|output| match output {
            Output::Stdout(text) => Some(text.as_str()),
            _ => None,
        });
        text.collect()
    }

    /// (ename, evalue, traceback) of the cell's one error.
    pub fn error(&self) -> (&str, &str, &str) {
        assert_eq!(self.status, ReplyStatus::Error, "{self:#?}");
        let errors: Vec<_> = self
            .outputs
            .iter()
            .filter_map(|output| match output {
                Output::Error { ename, evalue, traceback } => {
                    Some((ename.as_str(), evalue.as_str(), traceback.as_str()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(errors.len(), 1, "one error message a cell: {self:#?}");
        errors[0]
    }
}

pub struct Kernel {
    client: Client,
    pub ready: Duration,
}

impl Kernel {
    pub async fn start() -> Kernel {
        Self::start_by(|_| {}).await
    }

    /// A kernel that is started in another way than its spec says.
    pub async fn start_by(change: impl FnOnce(&mut Spec)) -> Kernel {
        let mut spec = Spec::load(&installed().kernelspec).expect("a kernelspec");
        change(&mut spec);
        let client = Client::start(&spec, Path::new("."), &[]).await.expect("the kernel starts");
        Kernel { ready: client.ready, client }
    }

    pub async fn send(&mut self, code: &str) -> String {
        self.client.execute(code).await.unwrap()
    }

    pub async fn run(&mut self, code: &str) -> Ran {
        let begun = Instant::now();
        let id = self.send(code).await;
        let mut ran = self.finish(&id).await;
        ran.took = begun.elapsed();
        ran
    }

    /// The next message on iopub that belongs to the request.
    pub async fn next(&mut self, id: &str) -> Content {
        timeout(PATIENCE, self.client.published(id)).await.expect("a message in time").unwrap()
    }

    /// Collects outputs until idle, then the reply.
    pub async fn finish(&mut self, id: &str) -> Ran {
        let mut outputs: Vec<Output> = Vec::new();
        loop {
            let next = self.next(id).await;
            match (output(&next), outputs.last_mut()) {
                (Some(Output::Stdout(new)), Some(Output::Stdout(old))) => old.push_str(&new),
                (Some(Output::Stderr(new)), Some(Output::Stderr(old))) => old.push_str(&new),
                (Some(output), _) => outputs.push(output),
                (None, _) => {}
            }
            let idle = serde_json::to_value(&next).unwrap()["execution_state"] == "idle";
            if idle {
                break;
            }
        }
        let reply = timeout(PATIENCE, self.client.reply()).await.expect("a reply in time").unwrap();
        let Content::ExecuteReply(reply) = reply.content else { panic!("{reply:?}") };
        Ran { status: reply.status, count: reply.execution_count.0, outputs, took: Duration::ZERO }
    }

    pub async fn interrupt(&mut self) {
        self.client.interrupt().await.unwrap();
    }

    pub async fn ask(&mut self, request: JupyterMessage) -> Content {
        self.client.send(request).await.unwrap();
        timeout(PATIENCE, self.client.reply()).await.expect("a reply in time").unwrap().content
    }

    /// Sends what has no reply, or whose reply is to be seen later; its number is that of the messages it brings.
    pub async fn tell(&mut self, message: impl Into<JupyterMessage>) -> String {
        self.client.send(message.into()).await.unwrap()
    }

    /// Asks the kernel to end and waits until it has.
    pub async fn shutdown(self) -> bool {
        self.client.shutdown().await.unwrap().is_some_and(|status| status.success())
    }

    pub fn pid(&self) -> u32 {
        self.client.pid()
    }

    /// Ends the process without a word, as `kill -9` does.
    pub async fn kill(&mut self) {
        self.client.kill().await.unwrap();
    }
}

fn output(content: &Content) -> Option<Output> {
    let value = serde_json::to_value(content).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    match content {
        Content::StreamContent(_) if value["name"] == "stdout" => Some(Output::Stdout(text(&value["text"]))),
        Content::StreamContent(_) => Some(Output::Stderr(text(&value["text"]))),
        Content::DisplayData(_) | Content::UpdateDisplayData(_) => {
            let update = matches!(content, Content::UpdateDisplayData(_));
            let (data, id) = (value["data"].as_object()?, text(&value["transient"]["display_id"]));
            match data.iter().next() {
                Some((mime, content)) if data.len() == 1 && id.is_empty() => {
                    Some(Output::Display(mime.clone(), text(content)))
                }
                _ => Some(Output::Bundle(if update { "update" } else { "display" }, id, value["data"].clone())),
            }
        }
        Content::ClearOutput(_) => Some(Output::Clear),
        Content::ExecuteResult(_) => Some(Output::Result(text(&value["data"]["text/plain"]))),
        Content::ErrorOutput(error) => Some(Output::Error {
            ename: error.ename.clone(),
            evalue: error.evalue.clone(),
            traceback: error.traceback.join("\n"),
        }),
        _ => None,
    }
}

/// Waits until `holds`, for as long as a busy machine may take.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn alive(pid: u32) -> bool {
    // A zombie has ended; its parent has not asked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Text without colours.
pub fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\x1b' => escaped = true,
            'm' if escaped => escaped = false,
            _ if escaped => {}
            c => out.push(c),
        }
    }
    out
}
