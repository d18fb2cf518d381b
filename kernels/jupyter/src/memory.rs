//! How much memory a session holds, and the limit that keeps a cell from taking the whole machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Sets the limit when the kernel starts, for instance `8 GB`.
pub const VARIABLE: &str = "ATTENTION_MEMORY";
/// Without it a session may take this share of what was free when it started.
const SHARE: f64 = 0.9;
/// Fast allocators touch a few GB a second: a fraction of one passes between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// `8 GB`, `500MB`, `1.5gb` in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match text[digits.len()..].trim().to_ascii_uppercase().as_str() {
        "GB" | "G" => 1e9,
        "MB" | "M" => 1e6,
        _ => f64::NAN,
    };
    match digits.parse::<f64>() {
        Ok(number) if number * unit >= 1e6 => Ok((number * unit) as u64),
        _ => Err(format!("`{text}` is no amount of memory; valid: `8 GB`, `500 MB`, …")),
    }
}

pub fn readable(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.0} kB", b / 1e3),
    }
}

/// What the process has in memory now. `None` where there is no `/proc`.
pub fn resident(pid: u32) -> Option<u64> {
    pages(pid).map(|(resident, _)| resident)
}

/// What of it is no file's, which the system could drop and read again, and which others share.
pub fn own(pid: u32) -> Option<u64> {
    pages(pid).map(|(resident, shared)| resident.saturating_sub(shared))
}

fn pages(pid: u32) -> Option<(u64, u64)> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split(' ').skip(1).map(|field| field.parse::<u64>().ok());
    // SAFETY: asks for a constant.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    Some((pages.next()?? * size, pages.next()?? * size))
}

/// What this machine, or the group of processes that we are confined to, has left.
fn available() -> Option<u64> {
    let file = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = file.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_string();
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup{group}/{name}")).ok()?.trim().parse().ok()
    };
    let confined = number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(confined.map_or(free, |left| left.min(free)))
}

/// The limit of a kernel's sessions; 0 where none is known.
#[derive(Debug, Clone, Default)]
pub struct Limit(Arc<AtomicU64>);

impl Limit {
    /// # Errors
    /// A value of the variable that is no amount.
    pub fn from_environment() -> Result<Self, String> {
        let bytes = match std::env::var(VARIABLE) {
            Ok(text) => parse(&text).map_err(|error| format!("{VARIABLE}: {error}"))?,
            Err(_) => (SHARE * available().unwrap_or(0) as f64) as u64,
        };
        Ok(Limit(Arc::new(AtomicU64::new(bytes))))
    }

    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Kills a session that has outgrown the limit while one of its cells runs.
#[derive(Debug)]
pub struct Watch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    running: AtomicBool,
    outgrown: AtomicBool,
    over: AtomicBool,
}

impl Watch {
    pub fn new(pid: u32, limit: Limit) -> Self {
        let watched = Arc::new(Watched::default());
        let seen = watched.clone();
        std::thread::spawn(move || {
            while !seen.over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                let (Some(limit), true) = (limit.get(), seen.running.load(Ordering::Relaxed)) else { continue };
                if resident(pid).is_some_and(|bytes| bytes > limit) {
                    seen.outgrown.store(true, Ordering::Relaxed);
                    // SAFETY: no memory effects; the session is a child that is not yet waited for.
                    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                    return;
                }
            }
        });
        Watch(watched)
    }

    pub fn running(&self, now: bool) {
        self.0.running.store(now, Ordering::Relaxed);
    }

    pub fn outgrown(&self) -> bool {
        self.0.outgrown.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written() {
        assert_eq!(parse("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse("500mb"), Ok(500_000_000));
        for bad in ["", "8", "GB", "8 kB", "-1 GB", "8 GiB"] {
            assert!(parse(bad).unwrap_err().contains("valid"), "{bad}");
        }
        assert_eq!(readable(1_500_000_000), "1.50 GB");
        assert_eq!(readable(12_000), "12 kB");
    }

    #[test]
    fn this_process_holds_some_memory_and_the_machine_has_some_left() {
        let own = resident(std::process::id()).unwrap();
        assert!((1 << 20..1 << 36).contains(&own), "{own}");
        assert!(available().unwrap() > 1 << 20);
    }
}
