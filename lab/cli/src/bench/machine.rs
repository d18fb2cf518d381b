//! What the machine reaches when it does nothing else, and the memory that a run took.

use super::measure::{Timing, measure};
use anyhow::Result;
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The best of several repetitions of two kernels, per second.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Of a product of two f32 matrices of side 1024.
    pub flops: f64,
    /// Read and written by `a ← a + b` over f32 arrays of 128 MiB each.
    pub bytes: f64,
}

const SIDE: usize = 1024;
const LENGTH: usize = 1 << 25;

impl Machine {
    pub fn measured(device: &Device) -> Result<Self> {
        let ones = |rows: usize, columns: usize| Tensor::<2>::ones([rows, columns], device);
        let (a, b) = (ones(SIDE, SIDE), ones(SIDE, SIDE));
        let product = timed(device, || drop(black_box(a.clone().matmul(b.clone()))))?;
        let (mut sum, b) = (Some(ones(1, LENGTH)), ones(1, LENGTH));
        // The sum is the only owner of its memory, so that it is updated in place.
        let add = timed(device, || sum = sum.take().map(|sum| sum + b.clone()))?;
        Ok(Self {
            flops: 2.0 * (SIDE as f64).powi(3) / product.fastest(),
            bytes: 3.0 * (LENGTH * size_of::<f32>()) as f64 / add.fastest(),
        })
    }

    pub fn json(&self) -> Value {
        json!({ "gflop_per_s": self.flops / 1e9, "gbyte_per_s": self.bytes / 1e9 })
    }
}

fn timed(device: &Device, mut run: impl FnMut()) -> Result<Timing> {
    measure(Duration::from_secs(1), || {
        let started = Instant::now();
        run();
        device.sync()?;
        Ok(started.elapsed().as_secs_f64())
    })
}

/// The memory of a run: of this process on the CPU (Linux tells), of burn's pool on a GPU.
pub struct Memory {
    device: Device,
    base: Option<u64>,
    /// Of a mark that could not be forgotten nothing is said.
    forgotten: bool,
}

impl Memory {
    /// Forgets the highest mark so far.
    pub fn begin(device: &Device) -> Self {
        device.memory_cleanup();
        // 5: `VmHWM` starts again from what is resident now.
        let forgotten = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let base = pool(device).or_else(|| status("VmRSS:"));
        Self { device: device.clone(), base, forgotten }
    }

    /// Bytes at the beginning, and the most since. None where nothing tells.
    pub fn end(&self) -> (Option<u64>, Option<u64>) {
        (self.base, pool(&self.device).or_else(|| status("VmHWM:").filter(|_| self.forgotten)))
    }
}

/// What the pool of a GPU reserved: it gives nothing back by itself, so this is also the peak.
fn pool(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved)
}

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const ALONE: &str = "ATTENTION_ZOO_PEAK_TEST";

    /// The child process, for memory is the whole process's, and other tests take and keep some meanwhile.
    /// Does nothing in an ordinary test run.
    #[test]
    fn child_of_the_peak_test() {
        if std::env::var_os(ALONE).is_none() {
            return;
        }
        const BYTES: usize = 256 << 20;
        // Written to, so that it is resident.
        let touch = || drop(black_box(vec![1u8; BYTES]));
        touch();
        let memory = Memory::begin(&Device::flex());
        let (Some(base), Some(before)) = memory.end() else { panic!("Linux tells") };
        assert!(before - base < BYTES as u64 / 2, "{base} {before}");
        touch();
        let (_, Some(after)) = memory.end() else { panic!("Linux tells") };
        // Linux adds up what each processor counts only when it is some dozens of pages.
        assert!(after - base + (1 << 20) >= BYTES as u64, "{base} {after}");
        println!("counted");
    }

    #[test]
    fn the_peak_counts_what_was_freed_before_its_end_but_not_before_its_beginning() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bench::machine::tests::child_of_the_peak_test", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("counted"),
            "{said}\n{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
}
