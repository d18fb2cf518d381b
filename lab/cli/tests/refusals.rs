//! What the commands refuse before they compute anything.

use std::process::Command;

/// What a command that must fail says.
fn refused(arguments: &[&str]) -> String {
    refused_on("cpu", arguments)
}

fn refused_on(device: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).env("ATTENTION_DEVICE", device).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} passed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_that_is_gone_on_with_takes_no_settings() {
    for flag in [&["--steps", "2000"][..], &["--seed", "3"], &["--data", "mqar"], &["--print-config"]] {
        let said = refused(&[&["train", "--resume", "--name", "no such run"], flag].concat());
        assert!(said.contains(&format!("`{}` belongs to --preset or --config", flag[0])), "{said}");
    }
}

#[test]
fn a_comparison_is_not_written_over_another() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("comparison.parquet"), "").unwrap();
    let out = folder.path().to_str().unwrap();
    let said = refused(&["compare", "--size", "nano", "--variants", "baseline,gated", "--out", out]);
    assert!(said.contains("a comparison is in") && said.contains("--out DIR makes another"), "{said}");
}

/// The device is looked for after the configuration is written: one that is none ends it there.
#[test]
fn a_comparison_in_the_folder_of_a_run_leaves_the_run_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "the run's").unwrap();
    let out = folder.path().to_str().unwrap();
    let said = refused_on("nowhere", &["compare", "--size", "nano", "--variants", "baseline,gated", "--out", out]);
    assert!(said.contains("`nowhere` is no device"), "{said}");
    assert_eq!(std::fs::read_to_string(folder.path().join("config.json")).unwrap(), "the run's");
    assert!(std::fs::read_to_string(folder.path().join("comparison.json")).unwrap().contains("\"variants\""));
}
