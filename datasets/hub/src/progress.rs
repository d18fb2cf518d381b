//! What a person sees of a download, and how its silence is noticed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

/// When the download was last heard of.
pub(super) struct Watch {
    started: Instant,
    last_ms: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Self { started: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Watch {
    pub(super) fn touch(&self) {
        self.last_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn quiet_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}

/// The progress bar, drawn where standard error is a terminal; elsewhere one line says what is
/// being fetched.
pub(super) struct Bar {
    bar: ProgressBar,
    label: String,
    watch: Arc<Watch>,
    /// The first start is the whole download's; each file then announces itself as well.
    started: AtomicBool,
    /// Bytes by file; the events tell of changes only. The batch of Xet transfers, which are not
    /// told apart by file, is under the empty name.
    done: Mutex<HashMap<String, u64>>,
}

impl Bar {
    pub(super) fn new(label: String, watch: Arc<Watch>) -> Self {
        Self { bar: ProgressBar::no_length(), label, watch, started: AtomicBool::new(false), done: Mutex::default() }
    }

    fn set(&self, file: &str, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(file.to_owned(), bytes);
        self.bar.set_position(done.values().sum());
    }
}

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        self.watch.touch();
        let ProgressEvent::Download(event) = event else {
            return;
        };
        match event {
            DownloadEvent::Start { total_files, total_bytes } => {
                if self.started.swap(true, Ordering::Relaxed) {
                    return;
                }
                let size = DecimalBytes(*total_bytes);
                let message = format!("{}: {total_files} files, {size} to fetch", self.label);
                // Nothing to fetch is not worth a line.
                if self.bar.is_hidden() && *total_bytes > 0 {
                    eprintln!("{message}");
                }
                let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style);
                }
                self.bar.set_length(*total_bytes);
                self.bar.set_message(message);
            }
            DownloadEvent::Progress { files } => {
                for file in files {
                    self.set(&file.filename, file.bytes_completed);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.set("", *bytes_completed);
            }
            DownloadEvent::Complete => self.bar.finish_and_clear(),
        }
    }
}
