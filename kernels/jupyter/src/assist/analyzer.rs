//! A rust-analyzer in the background, where one is installed: it knows the types of expressions, of a closure's
//! arguments, of what an iterator yields. Nobody waits for it: the first question starts it, and an answer that does
//! not come at once is not used.

use super::document::Document;
use crate::child::follow;
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Names a rust-analyzer, or is `off`. Without it that of the toolchain is taken, or one on the `PATH`.
pub const VARIABLE: &str = "ATTENTION_ANALYZER";

/// A pause that nobody notices. Once it knows the types, most answers take a tenth to a half of it.
const PATIENCE: Duration = Duration::from_millis(150);

pub const COMPLETION: &str = "textDocument/completion";
pub const HOVER: &str = "textDocument/hover";
pub const SIGNATURE: &str = "textDocument/signatureHelp";

/// The analyzer of one kernel.
#[derive(Clone)]
pub struct Analyzer {
    place: Arc<Place>,
    server: Arc<Mutex<Option<Arc<Server>>>>,
}

struct Place {
    sysroot: PathBuf,
    /// What `install` has written of the project.
    project: PathBuf,
    /// For the one file of its own.
    folder: PathBuf,
}

/// One process, from its start to its end.
#[derive(Default)]
struct Server {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stage: Stage,
    process: Option<u32>,
    /// What is sent here is written to the process by a thread of its own: a process that does not read stops nobody.
    input: Option<Sender<Value>>,
    /// Counts questions, and with them the versions of the document.
    asked: u64,
    /// The question it is at.
    open: Option<u64>,
    answer: Option<Value>,
}

/// A question, and what it is about.
#[derive(Debug)]
pub struct Question {
    pub method: &'static str,
    pub document: Document,
}

#[derive(Default)]
enum Stage {
    #[default]
    New,
    /// Until it has read the project. The last question is put then: its answer is of no use any more, but what it
    /// takes to find it makes those to come fast.
    Starting(Question),
    Ready,
    Gone,
}

impl Analyzer {
    pub fn new(toolkit: &Toolkit, folder: &Path) -> Self {
        let place = Place {
            sysroot: toolkit.sysroot().into(),
            project: Toolkit::project(toolkit.session()),
            folder: folder.join("analyzer"),
        };
        Self { place: Arc::new(place), server: Arc::default() }
    }

    /// The answer, where it comes at once.
    pub fn ask(&self, question: Question) -> Option<Value> {
        let server = self.server.lock().unwrap().get_or_insert_default().clone();
        let mut state = server.lock();
        match &state.stage {
            Stage::New => {
                state.stage = Stage::Starting(question);
                let (place, server) = (self.place.clone(), server.clone());
                // Lives as long as the process, which follows it into death.
                std::thread::spawn(move || server.live(&place));
                return None;
            }
            Stage::Starting(_) => {
                state.stage = Stage::Starting(question);
                return None;
            }
            Stage::Gone => return None,
            Stage::Ready => {}
        }
        // A new text would throw away what it has found so far about the last.
        if state.open.is_some() {
            return None;
        }
        state.put(&self.place, &question);
        let (mut state, _) = server.changed.wait_timeout_while(state, PATIENCE, |state| state.open.is_some()).unwrap();
        state.answer.take()
    }

    /// Ends the process. The next question starts another, which reads the project as it is then.
    pub fn dismiss(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.lock().end();
        }
    }

    pub fn process(&self) -> Option<u32> {
        let server = self.server.lock().unwrap().clone()?;
        let state = server.lock();
        state.process
    }
}

impl Place {
    fn file(&self) -> PathBuf {
        self.folder.join("cell.rs")
    }

    /// The program. One that rustup only stands in for does not know its version.
    fn program(&self) -> Option<OsString> {
        let runs = |program: &OsStr| {
            let mut version = Command::new(program);
            version.arg("--version").env(RUSTUP.0, RUSTUP.1);
            version.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        };
        match std::env::var_os(VARIABLE) {
            Some(off) if off == "off" => None,
            Some(named) if runs(&named) => Some(named),
            Some(named) => {
                eprintln!(
                    "attention-kernel: {VARIABLE}: {named:?} is no rust-analyzer that runs; valid: a program, `off`"
                );
                None
            }
            None => {
                let own = self.sysroot.join("bin/rust-analyzer").into_os_string();
                [own, "rust-analyzer".into()].into_iter().find(|program| runs(program))
            }
        }
    }

    /// The project with the crate of the cell.
    fn project(&self) -> Result<Value> {
        let text = std::fs::read(&self.project)
            .with_context(|| format!("{} cannot be read; install the kernel again", self.project.display()))?;
        let mut project: Value = serde_json::from_slice(&text)?;
        let cell = json!({
            "display_name": "notebook",
            "root_module": self.file(),
            "edition": "2024",
            "deps": project["cell"].take(),
            "cfg": [],
            "is_workspace_member": true,
            "source": { "include_dirs": [self.folder], "exclude_dirs": [] },
        });
        let source = self.sysroot.join("lib/rustlib/src/rust/library");
        let library = source.is_dir().then(|| standard_library(&source, &project["hashbrown"]));
        let crates = project["crates"].as_array_mut().context("a project without crates")?;
        crates.push(cell);
        Ok(json!({
            "sysroot": self.sysroot, "sysroot_src": library.is_some().then_some(source), "sysroot_project": library,
            "crates": crates,
        }))
    }

    fn begin(&self, program: &OsStr) -> Result<Child> {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env(RUSTUP.0, RUSTUP.1).env("MALLOC_ARENA_MAX", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                follow(libc::SIGKILL);
                // A cell that runs comes first.
                libc::setpriority(libc::PRIO_PROCESS, 0, 10);
                Ok(())
            });
        }
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    }

    /// Nothing that runs other programs, reads ahead or looks for what is not in scope.
    fn initialize(&self, project: &Value) -> Value {
        json!({
            "processId": std::process::id(),
            "rootUri": uri(&self.folder),
            "capabilities": {
                "general": { "positionEncodings": ["utf-8"] },
                "textDocument": {
                    // Docs of hundreds of offers are only wanted one by one, that is, never.
                    "completion": {
                        "completionItem": {
                            "labelDetailsSupport": true, "resolveSupport": { "properties": ["documentation"] },
                        },
                    },
                    "hover": { "contentFormat": ["markdown"] },
                    "signatureHelp": { "signatureInformation": { "documentationFormat": ["markdown"] } },
                },
                "experimental": { "serverStatusNotification": true },
            },
            "initializationOptions": {
                "linkedProjects": [project],
                "cachePriming": { "enable": false },
                "checkOnSave": false,
                "diagnostics": { "enable": false },
                "procMacro": { "enable": false },
                "cargo": { "buildScripts": { "enable": false } },
                "files": { "watcher": "client" },
                "numThreads": 1,
                "completion": {
                    "autoAwait": { "enable": false },
                    "autoIter": { "enable": false },
                    "autoimport": { "enable": false },
                    "autoself": { "enable": false },
                    "postfix": { "enable": false },
                    "callable": { "snippets": "none" },
                },
                "hover": {
                    "dropGlue": { "enable": false },
                    "links": { "enable": false },
                    "memoryLayout": { "enable": false },
                    "show": { "traitAssocItems": 0 },
                },
            },
        })
    }
}

/// The standard library, written out for two reasons: rust-analyzer would ask cargo for what it depends on, which may
/// want a network, and it would read the processors' own instructions, which take more memory than all the rest.
fn standard_library(source: &Path, hashbrown: &Value) -> Value {
    let own = |name: &str| json!(source.join(name).join("src/lib.rs"));
    let krate = |name: &str, root: &Value, below: &[&str]| {
        let below = below.iter().enumerate().map(|(at, name)| json!({ "crate": at, "name": name }));
        json!({
            "display_name": name, "root_module": root, "edition": "2024", "cfg": [], "is_workspace_member": false,
            "deps": below.collect::<Vec<_>>(),
        })
    };
    let crates = [
        krate("core", &own("core"), &[]),
        krate("alloc", &own("alloc"), &["core"]),
        // What a `HashMap` is made of.
        krate("hashbrown", hashbrown, &["core", "alloc"]),
        krate("std", &own("std"), &["core", "alloc", "hashbrown"]),
        krate("proc_macro", &own("proc_macro"), &["core", "alloc", "hashbrown", "std"]),
    ];
    json!({ "crates": crates })
}

/// Nothing is downloaded for a completion.
const RUSTUP: (&str, &str) = ("RUSTUP_AUTO_INSTALL", "0");

fn uri(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let text = bytes.map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") });
    format!("file://{}", text.collect::<String>())
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn live(&self, place: &Place) {
        let lived = self.serve(place);
        self.lock().end();
        self.changed.notify_all();
        if let Err(error) = lived {
            eprintln!("attention-kernel: {error:#}; completion goes on without a rust-analyzer");
        }
    }

    /// Starts the process and reads what it says until it ends.
    fn serve(&self, place: &Place) -> Result<()> {
        let Some(program) = place.program() else { return Ok(()) };
        std::fs::create_dir_all(&place.folder)?;
        std::fs::write(place.file(), "")?;
        let project = place.project()?;
        let mut child = place.begin(&program)?;
        let (input, received) = channel::<Value>();
        let mut pipe = child.stdin.take().expect("piped");
        std::thread::spawn(move || {
            let texts = received.iter().map(|message| message.to_string());
            texts.map(|text| write!(pipe, "Content-Length: {}\r\n\r\n{text}", text.len())).all(|sent| sent.is_ok())
        });
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let dismissed = {
            let mut state = self.lock();
            let request =
                json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": place.initialize(&project) });
            let _ = input.send(request);
            (state.process, state.input) = (Some(child.id()), Some(input));
            matches!(state.stage, Stage::Gone)
        };
        let mut ended = Ok(());
        while !dismissed && ended.is_ok() {
            ended = receive(&mut output).and_then(|message| self.hear(place, &message));
        }
        let dismissed = {
            let mut state = self.lock();
            let dismissed = matches!(state.stage, Stage::Gone);
            // Before it is waited for: the number may be another's then.
            state.end();
            dismissed
        };
        child.wait()?;
        if dismissed { Ok(()) } else { ended.with_context(|| format!("{} has ended", program.display())) }
    }

    fn hear(&self, place: &Place, message: &Value) -> Result<()> {
        let mut state = self.lock();
        match (message["method"].as_str(), message.get("id")) {
            (Some(_), Some(id)) => state.send(json!({ "jsonrpc": "2.0", "id": id, "result": null })),
            (Some("experimental/serverStatus"), None) if message["params"]["quiescent"] == true => {
                if matches!(state.stage, Stage::Starting(_))
                    && let Stage::Starting(question) = std::mem::replace(&mut state.stage, Stage::Ready)
                {
                    state.put(place, &question);
                }
            }
            (None, Some(id)) if id == 0 => {
                let encoding = &message["result"]["capabilities"]["positionEncoding"];
                if encoding != "utf-8" {
                    bail!("columns are counted in bytes, and this rust-analyzer counts in {encoding}");
                }
                state.send(json!({ "jsonrpc": "2.0", "method": "initialized", "params": {} }));
            }
            (None, Some(id)) if id.as_u64() == state.open => {
                state.open = None;
                state.answer = message.get("result").cloned();
                self.changed.notify_all();
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    fn send(&self, message: Value) {
        // One that has ended reads no more; whoever reads its output will know.
        self.input.iter().for_each(|input| drop(input.send(message.clone())));
    }

    fn put(&mut self, place: &Place, question: &Question) {
        let Question { method, document } = question;
        self.asked += 1;
        let (id, uri) = (self.asked, uri(&place.file()));
        self.send(match id {
            1 => json!({
                "jsonrpc": "2.0", "method": "textDocument/didOpen",
                "params": { "textDocument": { "uri": uri, "languageId": "rust", "version": id, "text": document.text } },
            }),
            _ => json!({
                "jsonrpc": "2.0", "method": "textDocument/didChange",
                "params": {
                    "textDocument": { "uri": uri, "version": id }, "contentChanges": [{ "text": document.text }],
                },
            }),
        });
        let position = json!({ "line": document.line, "character": document.column });
        self.send(json!({
            "jsonrpc": "2.0", "id": id, "method": method,
            "params": { "textDocument": { "uri": uri }, "position": position },
        }));
        (self.open, self.answer) = (Some(id), None);
    }

    fn end(&mut self) {
        (self.stage, self.input, self.open, self.answer) = (Stage::Gone, None, None, None);
        if let Some(process) = self.process.take() {
            // SAFETY: no memory effects; the process is a child that is not yet waited for, and leads its group.
            unsafe { libc::kill(-(process as i32), libc::SIGKILL) };
        }
    }
}

/// The longest line of a header, and the longest message, that make sense.
const HEADER: u64 = 1 << 10;
const MESSAGE: u64 = 64 << 20;

/// The next message: lines of a header, an empty one, and as many bytes of JSON as the header says.
fn receive(from: &mut impl BufRead) -> Result<Value> {
    let mut length = None;
    loop {
        let mut line = Vec::new();
        from.by_ref().take(HEADER).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line);
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            Some((name, _)) if name.eq_ignore_ascii_case("content-type") => {}
            None if line == "\r\n" => break,
            _ if line.is_empty() => bail!("its output has ended"),
            _ => bail!("{line:?} is no header of a message"),
        }
    }
    let length: u64 =
        length.filter(|length| *length <= MESSAGE).context("a message without a length that makes sense")?;
    let mut text = Vec::new();
    from.by_ref().take(length).read_to_end(&mut text)?;
    serde_json::from_slice(&text).context("a message is no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_from_garbage() {
        let read = |text: &str| receive(&mut text.as_bytes());
        let two = "Content-Length: 2\r\nContent-Type: x\r\n\r\n{}Content-Length: 1\r\n\r\n7";
        let mut both = two.as_bytes();
        assert_eq!(receive(&mut both).unwrap(), json!({}));
        assert_eq!(receive(&mut both).unwrap(), 7);
        let cases = [
            ("", "has ended"),
            ("thread panicked at x.rs:1\n", "no header"),
            ("\r\n{}", "without a length"),
            ("Content-Length: 99999999999\r\n\r\n{}", "without a length"),
            ("Content-Length: 2\r\n\r\n{", "no JSON"),
        ];
        for (garbage, why) in cases {
            let error = format!("{:#}", read(garbage).unwrap_err());
            assert!(error.contains(why), "{garbage:?}: {error}");
        }
    }

    #[test]
    fn a_path_becomes_an_address() {
        assert_eq!(uri(Path::new("/tmp/a b/é.rs")), "file:///tmp/a%20b/%C3%A9.rs");
    }
}
