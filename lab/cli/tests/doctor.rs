//! `cargo lab doctor` as a user has it.

fn report(variables: &[(&str, &str)]) -> serde_json::Value {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["doctor", "--json"])
        .env("ATTENTION_DEVICE", "cpu")
        .env("ATTENTION_ROOT", std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env_remove("HF_HUB_CACHE")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_cache_of_the_hub_is_the_one_that_downloads_go_to() {
    // The variable's older name, which hf-hub knows too.
    assert_eq!(report(&[("HUGGINGFACE_HUB_CACHE", "/somewhere/hub")])["folders"]["hub"], "/somewhere/hub");
}

/// In the program alone: in a test no computation is on the process's first thread.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn what_computes_on_the_cpu_asks_for_large_pages_where_linux_has_them() {
    let report = report(&[]);
    let memory = report["memory"].as_str().unwrap();
    let has_them = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    assert_eq!(memory.contains("pages of 2 MiB"), has_them, "{memory}");
}

#[test]
fn the_file_is_named_in_which_compiled_kernels_are_kept() {
    let report = report(&[("CUBECL_ENVIRONMENT", "elsewhere")]);
    let compiled = report["folders"]["compiled"].as_str().unwrap();
    assert!(compiled.contains("elsewhere.db (nothing yet)"), "{compiled}");
}
