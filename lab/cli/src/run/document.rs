//! The notebook file: read, completed to what the format asks for, and saved whole or not at all.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Reads a notebook of format 4; outputs are kept.
pub fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut notebook: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a complete notebook", path.display()))?;
    if notebook["nbformat"].as_u64().is_some_and(|format| format != 4) || !notebook["cells"].is_array() {
        bail!(
            "{} is not a notebook of format 4: expected an object with `\"nbformat\": 4` and a list `cells`",
            path.display()
        );
    }
    complete(&mut notebook);
    Ok(notebook)
}

/// What format 4.5 asks for and older or hand-written files lack: an id and metadata for every cell.
/// The same notebook gets the same ids again.
fn complete(notebook: &mut Value) {
    let minor = notebook["nbformat_minor"].as_u64().unwrap_or(0).max(5);
    notebook["nbformat"] = 4.into();
    notebook["nbformat_minor"] = minor.into();
    if !notebook["metadata"].is_object() {
        notebook["metadata"] = json!({});
    }
    let cells = notebook["cells"].as_array_mut().into_iter().flatten();
    let mut taken = HashSet::new();
    for (index, cell) in cells.enumerate() {
        let valid = |id: &str| {
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let mut id = cell["id"].as_str().filter(|id| valid(id)).map_or(format!("cell-{index:02}"), String::from);
        while !taken.insert(id.clone()) {
            id = format!("cell-{index:02}-{}", taken.len());
        }
        cell["id"] = id.into();
        if !cell["metadata"].is_object() {
            cell["metadata"] = json!({});
        }
        if cell["cell_type"] == "code" {
            if !cell["outputs"].is_array() {
                cell["outputs"] = json!([]);
            }
            cell["execution_count"] = cell["execution_count"].take();
        }
    }
}

/// A text that is stored as one string or as a list of lines.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        lines => lines.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    }
}

pub fn source(cell: &Value) -> String {
    text(&cell["source"])
}

/// The places of the cells that are run: code, and not empty.
pub fn code_cells(notebook: &Value) -> impl Iterator<Item = usize> {
    let cells = notebook["cells"].as_array().into_iter().flatten().enumerate();
    cells.filter(|(_, cell)| cell["cell_type"] == "code" && !source(cell).trim().is_empty()).map(|(index, _)| index)
}

/// Whether `file` can be written, and its folder, which is made.
pub fn writable(file: &Path) -> Result<()> {
    let folder = file.parent().with_context(|| format!("{} is no file", file.display()))?;
    if file.is_dir() {
        bail!("{} is a folder, expected the name of a file", file.display());
    }
    fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .map(drop)
        .with_context(|| format!("cannot write in {}", folder.display()))
}

/// Saves as Jupyter does (lines in lists, an indent of one), so that a version control system shows what
/// has changed.
pub fn save(notebook: &Value, path: &Path) -> Result<()> {
    let mut notebook = notebook.clone();
    for cell in notebook["cells"].as_array_mut().into_iter().flatten() {
        split(&mut cell["source"]);
        for output in cell.get_mut("outputs").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(text) = output.get_mut("text") {
                split(text);
            }
            for (mime, content) in output.get_mut("data").and_then(Value::as_object_mut).into_iter().flatten() {
                let lines = mime.starts_with("text/") || ["image/svg+xml", "application/javascript"].contains(&&**mime);
                if lines {
                    split(content);
                }
            }
        }
    }
    let mut json = Vec::new();
    notebook.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b" ")))?;
    json.push(b'\n');
    replace(path, &json)
}

fn split(value: &mut Value) {
    if let Value::String(text) = value {
        *value = text.split_inclusive('\n').collect();
    }
}

/// Complete under another name first, then renamed: no crash leaves half a file.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // A new file gets what the user's mask leaves; one that is replaced keeps what it had.
            builder.permissions(fs::metadata(path).map_or(fs::Permissions::from_mode(0o666), |old| old.permissions()));
        }
        let mut file = builder.prefix(".saving-").tempfile_in(path.parent().expect("an absolute file"))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reread(notebook: &Value) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ipynb");
        fs::write(&path, notebook.to_string()).unwrap();
        read(&path).unwrap()
    }

    #[test]
    fn every_cell_gets_an_id_of_its_own_and_keeps_a_valid_one() {
        let cell = |id: Value| json!({"cell_type": "code", "id": id, "source": "1"});
        let notebook = reread(&json!({"nbformat": 4, "nbformat_minor": 2, "cells": [
            cell("mine".into()), cell(Value::Null), cell("mine".into()), cell("not valid!".into()), cell("cell-01".into()),
        ]}));
        let ids: Vec<_> = notebook["cells"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
        assert_eq!(ids[..2], ["mine", "cell-01"]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 5, "{ids:?}");
        assert!(ids.iter().all(|id| !id.contains(['!', ' '])));
        assert_eq!(notebook["nbformat_minor"], 5);
        assert_eq!(notebook["cells"][0]["outputs"], json!([]));
        assert_eq!(notebook, reread(&notebook), "once complete, it stays as it is");
    }

    #[test]
    fn a_truncated_or_old_notebook_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.ipynb");
        for wrong in ["{\"cells\": [", "{}", "{\"nbformat\": 3, \"cells\": []}"] {
            fs::write(&path, wrong).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("half.ipynb"), "{wrong}");
        }
    }

    #[test]
    fn a_notebook_is_saved_line_by_line_and_read_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ipynb");
        let notebook = json!({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{
            "cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "let a = 1;\na",
            "outputs": [{"output_type": "execute_result", "execution_count": 1, "metadata": {},
                "data": {"text/plain": "1\n2", "application/json": {"a": "b\nc"}}}],
        }]});
        save(&notebook, &path).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["cells"][0]["source"], json!(["let a = 1;\n", "a"]));
        assert_eq!(written["cells"][0]["outputs"][0]["data"]["text/plain"], json!(["1\n", "2"]));
        assert_eq!(written["cells"][0]["outputs"][0]["data"]["application/json"], json!({"a": "b\nc"}));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
