//! The committed notebooks are what a reader meets first: whole, executed, and without a failed cell.

use serde_json::Value;
use std::path::PathBuf;

fn notebooks() -> Vec<(PathBuf, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("notebooks");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("the notebooks' folder")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ipynb"))
        .map(|path| {
            let json = std::fs::read_to_string(&path).expect("readable");
            let notebook = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, notebook)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty(), "no notebooks");
    found
}

fn code_cells(notebook: &Value) -> impl Iterator<Item = &Value> {
    notebook["cells"].as_array().expect("cells").iter().filter(|cell| cell["cell_type"] == "code")
}

fn source(cell: &Value) -> String {
    cell["source"].as_array().expect("lines").iter().map(|line| line.as_str().expect("text")).collect()
}

#[test]
fn every_notebook_begins_with_the_prelude_and_has_one_parameter_cell() {
    for (path, notebook) in notebooks() {
        let first = source(code_cells(&notebook).next().expect("a code cell"));
        assert!(first.starts_with("use attention::prelude::*;"), "{}: {first}", path.display());
        let tagged = |cell: &&Value| {
            cell["metadata"]["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "parameters"))
        };
        assert_eq!(code_cells(&notebook).filter(tagged).count(), 1, "{}", path.display());
    }
}

#[test]
fn every_notebook_is_committed_as_it_ran_from_top_to_bottom() {
    for (path, notebook) in notebooks() {
        for (i, cell) in code_cells(&notebook).enumerate() {
            let place = format!("{}, code cell {}: {}", path.display(), i + 1, source(cell));
            assert_eq!(cell["execution_count"].as_u64(), Some(i as u64 + 1), "not run in order: {place}");
            for output in cell["outputs"].as_array().expect("outputs") {
                assert_ne!(output["output_type"], "error", "failed: {place}");
                assert_ne!(output["name"], "stderr", "wrote to stderr: {place}");
            }
        }
        let pictures = code_cells(&notebook)
            .flat_map(|cell| cell["outputs"].as_array().expect("outputs"))
            .filter(|output| output["data"]["image/svg+xml"].is_array() || output["data"]["image/svg+xml"].is_string())
            .count();
        assert!(pictures >= 5, "{}: only {pictures} pictures", path.display());
    }
}

#[test]
fn no_prose_was_left_unwritten() {
    for (path, notebook) in notebooks() {
        let text = notebook.to_string();
        for mark in ["_TEXT", "TODO", "FIXME"] {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}
