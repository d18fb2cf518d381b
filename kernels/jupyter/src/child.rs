//! The session process from the kernel's side: start it, have it run libraries, read its output
//! all the time.

use crate::interrupts::Interrupts;
use crate::memory::{Limit, VARIABLE, Watch, readable};
use crate::output::{Piece, Scanner};
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use cell_runtime::wire;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Where a session's output goes; called from the threads that read it.
pub type Sink = Arc<dyn Fn(Stream, Piece) + Send + Sync>;

/// What a cell came to.
#[derive(Debug, Default)]
pub struct Ran {
    /// `ok`, `returned` (before the cell's end), `error`, `interrupted`, `panic` or `load`.
    pub kind: String,
    pub message: String,
    pub place: String,
    pub shown: Option<String>,
    /// The line of the cell it was at, 0 where it had none.
    pub line: usize,
    /// The variables now in the store.
    pub names: Vec<String>,
}

pub enum Answer {
    Ran(Ran),
    /// The process is gone, and its variables with it; how, in words.
    Died(String),
}

pub struct Session {
    process: Child,
    watch: Watch,
    limit: Limit,
    wire: UnixStream,
    ends: [Receiver<String>; 2],
    runs: u64,
    interrupts: Arc<Interrupts>,
}

/// As `lab::device::VARIABLE`.
const DEVICE: &str = "ATTENTION_DEVICE";

impl Session {
    pub fn start(
        toolkit: &Toolkit,
        sink: &Sink,
        limit: &Limit,
        device: Option<&str>,
        interrupts: &Arc<Interrupts>,
    ) -> Result<Self> {
        let (wire, theirs) = UnixStream::pair()?;
        let fd = theirs.as_raw_fd();
        let mut command = own_program()?;
        command
            .arg("run-session")
            .arg(&toolkit.dylib)
            .env("LD_LIBRARY_PATH", library_path(&toolkit.library_path))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the kernel, which decides what it means.
            .process_group(0);
        if let Some(device) = device {
            command.env(DEVICE, device);
        }
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if fd == 3 {
                    libc::fcntl(3, libc::F_SETFD, 0);
                } else if libc::dup2(fd, 3) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                follow(orphaned());
                Ok(())
            });
        }
        let mut process = command.spawn().context("cannot start the session process")?;
        interrupts.session_started(process.id() as i32);
        let out = read(process.stdout.take().expect("piped"), Stream::Stdout, sink.clone());
        let err = read(process.stderr.take().expect("piped"), Stream::Stderr, sink.clone());
        let watch = Watch::new(process.id(), limit.clone());
        let (limit, interrupts) = (limit.clone(), interrupts.clone());
        Ok(Session { process, watch, limit, wire, ends: [out, err], runs: 0, interrupts })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs `symbol` of `library`. When this returns, all the cell printed has been forwarded.
    pub fn run(&mut self, library: &Path, symbol: &str) -> Result<Answer> {
        self.runs += 1;
        let nonce = format!("{}-{}", self.process.id(), self.runs);
        let Some(path) = library.to_str() else { bail!("{} is not UTF-8", library.display()) };
        let command = ["run".as_bytes(), path.as_bytes(), symbol.as_bytes(), nonce.as_bytes()];
        let mut ran = wire::send(&mut self.wire, &command).and_then(|()| self.receive());
        if ran.is_ok() {
            // It has begun: from here on the stop button is the cell's business.
            self.interrupts.cell_started(self.process.id() as i32);
            self.watch.running(true);
            ran = self.receive();
            self.watch.running(false);
            self.interrupts.cell_ended();
        }
        let Ok(fields) = ran else { return Ok(Answer::Died(self.buried()?)) };
        for end in &self.ends {
            while end.recv().is_ok_and(|seen| seen != nonce) {}
        }
        let text = |at: usize| String::from_utf8_lossy(&fields[at]).into_owned();
        if fields.len() < 6 {
            bail!("the session answered in {} fields", fields.len());
        }
        Ok(Answer::Ran(Ran {
            kind: text(0),
            message: text(1),
            place: text(2),
            shown: (!fields[3].is_empty()).then(|| text(4)),
            line: text(5).parse().unwrap_or(0),
            names: (6..fields.len()).map(text).collect(),
        }))
    }

    /// Loads an item crate's library; its symbols are there for every later cell.
    pub fn load(&mut self, library: &Path) -> Result<()> {
        let path = library.to_str().with_context(|| format!("{} is not UTF-8", library.display()))?;
        wire::send(&mut self.wire, &[b"load", path.as_bytes()])?;
        let fields = self.receive()?;
        if fields.first().map(Vec::as_slice) != Some(b"ok") {
            let why = fields.get(1).map(|text| String::from_utf8_lossy(text).into_owned());
            bail!("{}", why.unwrap_or_default());
        }
        Ok(())
    }

    /// Drops all variables.
    pub fn clear(&mut self) -> Result<()> {
        wire::send(&mut self.wire, &[b"clear"])?;
        self.receive()?;
        Ok(())
    }

    fn receive(&mut self) -> std::io::Result<Vec<Vec<u8>>> {
        wire::receive(&mut self.wire)
    }

    /// How it ended, if nobody saw it end.
    pub fn ended(&mut self) -> Result<Option<String>> {
        self.process.try_wait()?.map(|_| self.buried()).transpose()
    }

    /// Waits for a process that hung up, and for the last of its output.
    fn buried(&mut self) -> Result<String> {
        let status = self.process.wait()?;
        for end in &self.ends {
            // A program the cell started may hold the pipe open; its output is not waited for.
            while end.recv_timeout(Duration::from_millis(500)).is_ok() {}
        }
        Ok(match self.limit.get() {
            Some(limit) if self.watch.outgrown() => format!(
                "the cell took more memory than the limit of {} (`%memory 8 GB` or {VARIABLE} sets another)",
                readable(limit)
            ),
            _ => obituary(status),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = self.process.id() as i32;
        // With the programs its cells have started.
        // SAFETY: kill has no memory effects; the process has not been waited for, or its group has nobody left.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.process.kill();
        self.interrupts.session_ended(group);
        let _ = self.process.wait();
    }
}

/// This program, as it was when it started: cargo may have put a newer one in its place.
fn own_program() -> Result<Command> {
    let path = std::env::current_exe()?;
    if !cfg!(target_os = "linux") {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0(path);
    Ok(command)
}

/// The signal by which a session learns that its kernel is gone, however it went. None that a cell's crates would use.
#[cfg(target_os = "linux")]
fn orphaned() -> i32 {
    libc::SIGRTMAX() - 1
}

/// Nobody sends one elsewhere.
#[cfg(not(target_os = "linux"))]
fn orphaned() -> i32 {
    libc::SIGTERM
}

/// In a session: when the kernel goes, it takes the programs along that its cells have started, which are in its group.
pub fn go_together() {
    extern "C" fn kill_all(_: i32) {
        // SAFETY: async-signal-safe, without memory effects; the group is the session's own.
        unsafe { libc::kill(0, libc::SIGKILL) };
    }
    let handler: extern "C" fn(i32) = kill_all;
    // SAFETY: the handler makes one async-signal-safe call.
    unsafe { libc::signal(orphaned(), handler as libc::sighandler_t) };
}

/// Between fork and exec: the process gets a signal when the thread that starts it ends, and where memory runs out
/// after all, the kernel's children go first and nothing else. Makes only async-signal-safe calls.
pub fn follow(signal: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: system calls on numbers and on a descriptor of their own.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, signal);
        let adjust = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if adjust >= 0 {
            libc::write(adjust, c"1000".as_ptr().cast(), 4);
            libc::close(adjust);
        }
    }
}

/// The toolchain's library folder first, then what the user had.
fn library_path(first: &Path) -> std::ffi::OsString {
    let mut paths = first.as_os_str().to_owned();
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH").filter(|more| !more.is_empty()) {
        paths.push(":");
        paths.push(more);
    }
    paths
}

fn read(mut pipe: impl Read + Send + 'static, stream: Stream, sink: Sink) -> Receiver<String> {
    let (ended, ends): (Sender<String>, _) = channel();
    std::thread::spawn(move || {
        let mut scanner = Scanner::default();
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = match pipe.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for piece in scanner.push(&bytes[..count]) {
                match piece {
                    Piece::End(nonce) => drop(ended.send(nonce)),
                    piece => sink(stream, piece),
                }
            }
        }
        scanner.finish().into_iter().for_each(|piece| sink(stream, piece));
    });
    ends
}

/// In words: how a session process ended.
fn obituary(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or(-1);
        return format!("the cell ended its process with exit code {code}");
    };
    let (name, hint) = match signal {
        libc::SIGABRT => ("SIGABRT", "abort(), or a panic that could not unwind"),
        libc::SIGSEGV => ("SIGSEGV", "most often a recursion without end, or unsafe code"),
        libc::SIGBUS => ("SIGBUS", "memory that is not there"),
        libc::SIGILL => ("SIGILL", "an instruction this processor does not know"),
        libc::SIGFPE => ("SIGFPE", "integer arithmetic"),
        libc::SIGKILL => ("SIGKILL", "stopped by hand, or out of memory"),
        libc::SIGTERM => ("SIGTERM", "asked to end"),
        _ => ("a signal", "unusual"),
    };
    format!("the cell's process died of signal {signal}, {name} ({hint})")
}
