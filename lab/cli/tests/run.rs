//! `cargo lab run` as a user has it: the program, the kernel, files.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with a notebook `a.ipynb` of these cells, as an older Jupyter may have left it.
    fn with(cells: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notebook = json!({"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": cells});
        std::fs::write(folder.path().join("a.ipynb"), notebook.to_string()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn lab(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("run").arg(self.path("a.ipynb")).env("ATTENTION_DEVICE", "cpu").env("ATTENTION_ROOT", root());
        command
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn code(source: &str) -> Value {
    json!({"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": null})
}

fn tagged(source: &str, tag: &str) -> Value {
    let mut cell = code(source);
    cell["metadata"]["tags"] = json!([tag]);
    cell
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn text(lines: &Value) -> String {
    lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

#[test]
fn a_notebook_runs_with_other_parameters_and_is_saved_beside_a_page() {
    let folder = Folder::with(json!([
        {"cell_type": "markdown", "metadata": {}, "source": "# A heading"},
        tagged("let steps = 1;", "parameters"),
        code("println!(\"{steps} steps\");\nsteps + 1"),
        tagged("panic!(\"as expected\")", "raises-exception"),
        code(""),
        code("steps"),
    ]));
    let (to, page) = (folder.path("new/b.ipynb"), folder.path("b.html"));
    let output = folder.lab().args(["-p", "steps=20", "-o"]).arg(&to).arg("--html").arg(&page).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains("│ 20 steps") && printed(&output).contains("all 4 cells ran"));

    let notebook = folder.read("new/b.ipynb");
    assert_eq!((&notebook["nbformat"], &notebook["nbformat_minor"]), (&json!(4), &json!(5)));
    assert_eq!(notebook["metadata"]["kernelspec"]["name"], "attention");
    assert_eq!(notebook["metadata"]["language_info"]["name"], "rust");
    let cells = notebook["cells"].as_array().unwrap();
    assert!(cells.iter().all(|cell| cell["id"].is_string()));
    assert_eq!(text(&cells[1]["source"]), "let steps = 20;");
    assert_eq!(cells[2]["outputs"][0], json!({"output_type": "stream", "name": "stdout", "text": ["20 steps\n"]}));
    let result = &cells[2]["outputs"][1];
    assert_eq!((&result["output_type"], &result["execution_count"]), (&json!("execute_result"), &json!(2)));
    assert_eq!(text(&result["data"]["text/plain"]), "21");
    assert_eq!(cells[3]["outputs"].as_array().unwrap().last().unwrap()["output_type"], "error");
    assert_eq!(cells[4]["execution_count"], Value::Null);
    assert_eq!(folder.read("a.ipynb")["cells"][1]["source"], "let steps = 1;", "the notebook itself stays");

    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<title>A heading</title>") && page.contains("20 steps") && page.contains("as expected"));
}

#[test]
fn a_cell_that_fails_stops_the_run_and_what_there_is_is_saved() {
    let folder =
        Folder::with(json!([code("1 + 1"), code("let a = 1;\nassert_eq!(a, 2, \"counted wrong\");"), code("3")]));
    let output = folder.lab().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = printed(&output);
    assert!(printed.contains("cell 2 of 3 failed") && printed.contains("    let a = 1;"), "{printed}");
    assert!(printed.contains("counted wrong") && printed.contains("stopped in cell 2 of 3"), "{printed}");
    let cells = folder.read("a.ipynb")["cells"].clone();
    assert_eq!(text(&cells[0]["outputs"][0]["data"]["text/plain"]), "2");
    assert_eq!(cells[1]["outputs"][0]["output_type"], "error");
    assert_eq!((&cells[2]["outputs"], &cells[2]["execution_count"]), (&json!([]), &Value::Null));
}

#[test]
fn a_cell_that_takes_too_long_is_an_error_that_says_so() {
    let folder = Folder::with(json!([code("print!(\"begun\");\nloop { std::thread::sleep_ms(10) }"), code("1")]));
    let begun = Instant::now();
    let output = folder.lab().args(["--timeout", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("more than 3 s"), "{}", printed(&output));
    assert!(begun.elapsed() < Duration::from_secs(100));
    let outputs = folder.read("a.ipynb")["cells"][0]["outputs"].clone();
    assert_eq!(outputs.as_array().unwrap().last().unwrap()["ename"], "Timeout", "{outputs}");
}

#[test]
fn ctrl_c_ends_the_cell_and_the_run_and_keeps_the_outputs() {
    let folder = Folder::with(json!([
        code("println!(\"kept\");"),
        code("use attention::prelude::*;\nprintln!(\"waiting\");\nloop { check_interrupt()?; }"),
        code("println!(\"never\");"),
    ]));
    let log = folder.path("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut child = folder.lab().stdout(file).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("│ waiting") {
        assert!(begun.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to our own child, which is not waited for yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let cells = folder.read("a.ipynb")["cells"].clone();
    assert_eq!(text(&cells[0]["outputs"][0]["text"]), "kept\n");
    assert_eq!(cells[2]["outputs"], json!([]));
}
