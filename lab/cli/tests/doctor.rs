//! `cargo lab doctor` as a user has it.

/// In the program alone: in a test no computation is on the process's first thread.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn what_computes_on_the_cpu_asks_for_large_pages_where_linux_has_them() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["doctor", "--json"])
        .env("ATTENTION_DEVICE", "cpu")
        .env("ATTENTION_ROOT", std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let memory = report["memory"].as_str().unwrap();
    let has_them = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    assert_eq!(memory.contains("pages of 2 MiB"), has_them, "{memory}");
}
