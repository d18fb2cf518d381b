//! How much memory a session holds, and the limit that keeps a cell from taking the whole machine.

use std::path::{Path, PathBuf};
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
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(folders(&groups).iter().filter_map(|folder| left(folder)).fold(free, u64::min))
}

/// Where the accounts of the groups are that a `/proc/self/cgroup` names, by the second version of cgroups or the first.
/// A container names its own by the path outside of it, and has it at the top.
fn folders(groups: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(group)) = (fields.next(), fields.next()) else { continue };
        let top = match kinds {
            "" => Path::new("/sys/fs/cgroup"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        found.extend([top.join(group.trim_start_matches('/')), top.into()]);
    }
    found
}

/// What a group of processes may still take. The files that it has read are no obstacle, though they are counted as
/// taken: the system drops them for whoever needs the room.
fn left(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, now, prefix) = match number("memory.max").zip(number("memory.current")) {
        Some((limit, now)) => (limit, now, ""),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_"),
    };
    let stat = read("memory.stat").unwrap_or_default();
    let entry = |name: &str| {
        let mut lines =
            stat.lines().filter_map(|line| line.strip_prefix(prefix)?.strip_prefix(name)?.strip_prefix(' '));
        lines.find_map(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let files = entry("inactive_file") + entry("active_file");
    Some(limit.saturating_sub(now.saturating_sub(files)))
}

/// The limit of a kernel's sessions.
#[derive(Debug, Clone)]
pub struct Limit(Arc<AtomicU64>);

/// Of a machine that does not say what it has left.
const NONE: u64 = u64::MAX;

impl Limit {
    /// # Errors
    /// A value of the variable that is no amount.
    pub fn from_environment() -> Result<Self, String> {
        let bytes = match std::env::var(VARIABLE) {
            Ok(text) => parse(&text).map_err(|error| format!("{VARIABLE}: {error}"))?,
            Err(_) => available().map_or(NONE, |bytes| (SHARE * bytes as f64) as u64),
        };
        Ok(Limit(Arc::new(AtomicU64::new(bytes))))
    }

    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes != NONE)
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

    #[test]
    fn what_a_group_has_read_from_files_counts_as_left_by_either_version_of_cgroups() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(left(folder.path()), None);
        write("memory.limit_in_bytes", "1000\n");
        write("memory.usage_in_bytes", "900\n");
        write("memory.stat", "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 50\n");
        assert_eq!(left(folder.path()), Some(350));
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        assert_eq!(left(folder.path()), Some(350), "no limit by the second version");
        write("memory.max", "1000\n");
        write("memory.stat", "anon 600\ninactive_file 200\nactive_file 100\n");
        assert_eq!(left(folder.path()), Some(400));
        write("memory.stat", "anon 900\n");
        assert_eq!(left(folder.path()), Some(100));
        write("memory.current", "1200\n");
        assert_eq!(left(folder.path()), Some(0));
    }

    #[test]
    fn a_group_is_looked_for_where_the_machine_has_it_and_where_a_container_has_it() {
        let paths = |groups| folders(groups).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths("0::/user.slice/a:b\n"), ["/sys/fs/cgroup/user.slice/a:b", "/sys/fs/cgroup"]);
        let first = "9:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n";
        assert_eq!(paths(first), ["/sys/fs/cgroup/memory/docker/1", "/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn nothing_left_is_a_limit_and_nothing_known_is_none() {
        let limit = |bytes| Limit(Arc::new(AtomicU64::new(bytes))).get();
        assert_eq!((limit(0), limit(NONE)), (Some(0), None));
    }
}
