//! Kernels that were compiled, and the tuner's choices, in a file that the next process reads.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::environment;
use std::path::PathBuf;

/// Has CubeCL keep what NVRTC makes of kernels, burn's and ours, and tells the file: a `cubecl.toml` may name its
/// folder, else it is `target/environment` of the Cargo project around, else one of the user's cache. To be called before
/// a GPU is touched.
///
/// A kernel is found again by its type and by the build id of the program, which differs where the program does.
///
/// # Errors
/// Why nothing is kept: a program without a build id, or that has configured CubeCL before.
pub fn keep_compiled() -> Result<PathBuf, &'static str> {
    if buildid::build_id().is_none() {
        return Err("this program has no build id to tell its kernels from another's (link it with `--build-id`)");
    }
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if !CubeClRuntimeConfig::try_set(config) && !CubeClRuntimeConfig::get().compilation.cache {
        return Err("CubeCL was configured otherwise by what used it before");
    }
    Ok(environment::path())
}

/// How many kernels and choices the file holds, and their bytes.
pub fn kept() -> (u64, u64) {
    let kept = environment::namespaces();
    (kept.iter().map(|part| part.entries).sum(), kept.iter().map(|part| part.bytes).sum())
}
