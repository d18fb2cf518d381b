//! The Jupyter project's own conformance suite.

mod support;
use std::process::Command;

/// Needs a Python with `jupyter_kernel_test`, by default the one called `python3`.
#[test]
#[ignore = "needs Python with jupyter_kernel_test: cargo test --workspace --test conformance -- --ignored"]
fn the_conformance_suite_of_jupyter_passes() {
    let installed = support::installed();
    let data = installed.kernelspec.ancestors().nth(2).expect("share/jupyter/kernels/attention");
    let python = std::env::var_os("ATTENTION_JUPYTER_PYTHON").unwrap_or_else(|| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance.py");
    let output = Command::new(python).args([script, "-v"]).env("JUPYTER_PATH", data).output().expect("Python runs");
    let text = String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}
