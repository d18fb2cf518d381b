//! Which device computes: CUDA where driver, NVRTC and headers are found, else the CPU.
//!
//! burn panics when its CUDA device is touched on a machine without a driver, without NVRTC or
//! without the CUDA headers, so all three are asked for here first, through `dlopen` alone.

use crate::heap;
use burn::tensor::Device;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;

/// The variable that chooses the device.
pub const VARIABLE: &str = "ATTENTION_DEVICE";

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("`{value}` is no device; valid: cpu, cuda, cuda:N (N from 0)")]
    Unknown { value: String },
    #[error(
        "`{value}` was asked for (by {VARIABLE}, or as an option), but CUDA does not answer: {reason}. Leave it out, or use cpu"
    )]
    NoCuda { value: String, reason: String },
    #[error("there is no `{value}`; the devices here are: {}", valid.join(", "))]
    NoSuchGpu { value: String, valid: Vec<String> },
}

/// The device to compute on: what `ATTENTION_DEVICE` says (`cpu`, `cuda`, `cuda:N`), and without it
/// the first GPU where CUDA answers, else the CPU.
///
/// Without autodiff; training switches it on for itself.
///
/// # Errors
/// An unknown value, with the valid ones; CUDA asked for where it does not answer, with what did
/// not answer.
pub fn device() -> Result<Device, DeviceError> {
    named(None)
}

/// The device that an option names (`cpu`, `cuda`, `cuda:N`), or without one [`device`].
///
/// # Errors
/// As [`device`].
pub fn named(option: Option<&str>) -> Result<Device, DeviceError> {
    let value = option.map(String::from).or_else(|| std::env::var(VARIABLE).ok());
    let device = choose(value.as_deref(), cuda_devices)?;
    if device == Device::flex() {
        heap::keep();
        join_pool();
    } else if let Err(reason) = kernels::cuda::keep_compiled() {
        eprintln!("CUDA kernels will be compiled again by the next process: {reason}");
    }
    Ok(device)
}

/// Makes the process's first thread one of those that share out work, where it is the one that computes. What
/// [`heap`] sets holds for its heap alone; a step on another thread gives the heap's parts back as
/// soon as they are empty (a step of 123 ms then takes up to 150).
fn join_pool() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: two numbers of the system's.
        let first = unsafe { libc::gettid() == libc::getpid() };
        // One thread alone must stay free to work while this one waits.
        if first && std::thread::available_parallelism().is_ok_and(|threads| threads.get() > 1) {
            // Too late where the threads have been started: then all is as it was.
            let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
        }
    }
}

fn choose(value: Option<&str>, gpus: impl FnOnce() -> Result<Vec<String>, String>) -> Result<Device, DeviceError> {
    let value = value.map(str::trim).filter(|v| !v.is_empty());
    let Some(text) = value else {
        return Ok(if gpus().is_ok() { Device::cuda(0) } else { Device::flex() });
    };
    let lower = text.to_ascii_lowercase();
    let index = match lower.strip_prefix("cuda") {
        None if lower == "cpu" => return Ok(Device::flex()),
        Some("") => 0,
        Some(rest) if rest.starts_with(':') => {
            rest[1..].parse().map_err(|_| DeviceError::Unknown { value: text.into() })?
        }
        _ => return Err(DeviceError::Unknown { value: text.into() }),
    };
    let gpus = gpus().map_err(|reason| DeviceError::NoCuda { value: text.into(), reason })?;
    if index >= gpus.len() {
        let valid = (0..gpus.len()).map(|i| format!("cuda:{i}")).collect();
        return Err(DeviceError::NoSuchGpu { value: text.into(), valid });
    }
    Ok(Device::cuda(index))
}

/// One line for the head of a notebook: `CPU (flex, 2 threads, AVX-512)`, `CUDA 0 (NVIDIA H200)`.
pub fn describe(device: &Device) -> String {
    let text = format!("{device:?}").to_lowercase();
    if text.contains("flex") {
        return format!("CPU (flex, {} threads, {})", rayon::current_num_threads(), simd());
    }
    if text.contains("cuda") {
        let digits = |c: char| !c.is_ascii_digit();
        let index = text.split(digits).find_map(|part| part.parse::<usize>().ok()).unwrap_or(0);
        let name = cuda_devices().ok().and_then(|gpus| gpus.get(index).cloned());
        return format!("CUDA {index} ({})", name.unwrap_or_else(|| "name unknown".into()));
    }
    format!("{device:?}")
}

/// The widest vector instructions that flex can use here.
pub fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "no SIMD"
    }
}

/// The names of the GPUs, when everything that burn needs to use them answers.
///
/// # Errors
/// What did not answer, in words.
pub fn cuda_devices() -> Result<Vec<String>, String> {
    let names = driver_devices()?;
    let nvrtc = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"];
    if !nvrtc.iter().any(|name| Library::open(name).is_some()) {
        return Err(format!("the driver does, but not the compiler NVRTC (tried {})", nvrtc.join(", ")));
    }
    let headers = cuda_path().map(|path| path.join("include"));
    match headers {
        Some(path) if path.join("cuda_runtime.h").exists() => Ok(names),
        Some(path) => Err(format!(
            "the driver does, but `{}` holds no cuda_runtime.h (CUDA_PATH names another folder)",
            path.display()
        )),
        None => {
            Err("the driver does, but no CUDA headers are found (set CUDA_PATH, or install to /usr/local/cuda)".into())
        }
    }
}

/// Where cubecl looks for CUDA.
fn cuda_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Some(path.into());
    }
    let known = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from).into_iter().find(|path| path.exists());
    known.or_else(|| PathBuf::from("/usr/bin/nvcc").exists().then(|| "/usr".into()))
}

/// Names by the driver interface: `cuInit`, `cuDeviceGetCount`, `cuDeviceGetName`.
fn driver_devices() -> Result<Vec<String>, String> {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
    type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
    let library = ["libcuda.so.1", "libcuda.so"].iter().find_map(|name| Library::open(name));
    let library = library.ok_or("no NVIDIA driver (libcuda.so.1 cannot be loaded)")?;
    // SAFETY: the three signatures are those of cuda.h, and have been since CUDA 1.
    unsafe {
        let init: Init = std::mem::transmute::<*mut c_void, Init>(library.symbol("cuInit")?);
        let count: Count = std::mem::transmute::<*mut c_void, Count>(library.symbol("cuDeviceGetCount")?);
        let name: Name = std::mem::transmute::<*mut c_void, Name>(library.symbol("cuDeviceGetName")?);
        let error = init(0);
        if error != 0 {
            return Err(format!("the driver is installed, but cuInit returned error {error}"));
        }
        let mut found = 0;
        let error = count(&mut found);
        if error != 0 || found == 0 {
            return Err(format!(
                "the driver answers, but it sees no GPU (cuDeviceGetCount: error {error}, {found} devices)"
            ));
        }
        let one = |index| {
            let mut buffer = [0 as c_char; 256];
            match name(buffer.as_mut_ptr(), 255, index) {
                0 => CStr::from_ptr(buffer.as_ptr()).to_string_lossy().into_owned(),
                _ => "unnamed".into(),
            }
        };
        Ok((0..found).map(one).collect())
    }
}

/// A shared library. It stays loaded: burn opens the same ones next, and a driver that was
/// initialised must not be unloaded.
struct Library(*mut c_void);

impl Library {
    fn open(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: a NUL-terminated name; the libraries asked for here have harmless initialisers.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        (!handle.is_null()).then_some(Self(handle))
    }

    fn symbol(&self, name: &str) -> Result<*mut c_void, String> {
        let symbol = CString::new(name).expect("no NUL in a symbol's name");
        // SAFETY: a handle from dlopen and a NUL-terminated name.
        let found = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        if found.is_null() { Err(format!("the NVIDIA driver library has no {name}")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Result<Vec<String>, String> {
        Err("no driver in this test".into())
    }

    #[test]
    fn without_a_driver_the_cpu_is_chosen_and_described() {
        for value in [None, Some(""), Some("cpu"), Some("CPU")] {
            let device = choose(value, none).unwrap();
            assert_eq!(device, Device::flex());
            assert!(describe(&device).starts_with("CPU (flex, "), "{}", describe(&device));
        }
    }

    #[test]
    fn an_unknown_device_is_answered_with_the_valid_ones() {
        for value in ["gpu", "cuda:", "cuda:x", "cudax", "cuda:-1"] {
            let message = choose(Some(value), none).unwrap_err().to_string();
            assert!(message.contains(value) && message.contains("cpu, cuda, cuda:N"), "{message}");
        }
    }

    #[test]
    fn cuda_asked_for_without_a_driver_says_what_did_not_answer() {
        for value in ["cuda", "cuda:0", " CUDA:1 "] {
            let message = choose(Some(value), none).unwrap_err().to_string();
            assert!(message.contains("no driver in this test"), "{message}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_answered_with_those_that_are() {
        let gpus = || Ok(vec!["A".to_string(), "B".to_string()]);
        let message = choose(Some("cuda:2"), gpus).unwrap_err().to_string();
        assert!(message.contains("cuda:0, cuda:1"), "{message}");
    }

    #[test]
    fn asking_for_the_gpus_of_this_machine_never_panics() {
        match cuda_devices() {
            Ok(names) => assert!(!names.is_empty()),
            Err(reason) => assert!(!reason.is_empty()),
        }
    }
}
