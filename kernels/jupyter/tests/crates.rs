//! Crates beside the project's own: those that are there, and those that a cell asks for.

mod support;
use std::cell::OnceCell;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use support::{Kernel, until};

#[tokio::test]
async fn popular_crates_are_there_without_asking() {
    let mut kernel = Kernel::start().await;
    let cell = "use itertools::Itertools;\nuse ndarray::array;\nuse rand::SeedableRng;\nuse rayon::prelude::*;\n\
                #[derive(serde::Serialize, serde::Deserialize, Debug)]\nstruct Row { loss: f64 }";
    kernel.run(cell).await.ok();
    assert_eq!(
        kernel.run("array![[1.0, 2.0], [3.0, 4.0]].dot(&array![1.0, 1.0]).to_string()").await.result(),
        "\"[3, 7]\""
    );
    assert_eq!(kernel.run("(1..4).tuple_windows().map(|(a, b)| a * b).collect_vec()").await.result(), "[2, 6]");
    assert_eq!(kernel.run("(0..100u64).into_par_iter().sum::<u64>()").await.result(), "4950");
    kernel.run("let _dice = rand::rngs::StdRng::seed_from_u64(1);").await.ok();
    let cell = "let mut reader = csv::Reader::from_reader(\"loss\\n0.5\\n\".as_bytes());\n\
                let row: Row = reader.deserialize().next().ok_or_else(|| anyhow::anyhow!(\"no row\"))??;\n\
                serde_json::to_string(&row)?";
    assert_eq!(kernel.run(cell).await.result(), "\"{\\\"loss\\\":0.5}\"");
}

#[tokio::test]
async fn dep_lines_for_what_is_inside_cost_nothing() {
    let mut kernel = Kernel::start().await;
    let cell = ":dep anyhow = \"1\"\n:dep itertools = \"*\"\n:dep serde-json\n:dep serde = { version = \"1\", features = [\"derive\"] }\n\
                use serde_json::json;\nlet x = 1;";
    kernel.run(cell).await.ok();
    assert_eq!(kernel.run("json!({\"a\": x}).to_string()").await.result(), "\"{\\\"a\\\":1}\"");
    // The command line's, which the session does not hold.
    let ran = kernel.run(":dep clap = \"4\"").await;
    assert!(ran.error().1.contains("1 variable would be lost"), "{ran:#?}");
    assert_eq!(kernel.run("x").await.result(), "1");
}

/// A package of one function, as somebody has it on disk.
fn package(name: &str, code: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.3.0\"\nedition = \"2024\"\n");
    std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("src/lib.rs"), code).unwrap();
    let line = format!(":dep {name} = {{ path = \"{}\" }}", folder.path().display());
    (folder, line)
}

/// The files that an addition changes.
const FILES: [&str; 2] = ["notebooks/Cargo.toml", "Cargo.lock"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifests() -> [String; 2] {
    FILES.map(|file| std::fs::read_to_string(root().join(file)).unwrap())
}

#[tokio::test]
async fn a_crate_that_costs_the_variables_says_what_it_takes_and_takes_nothing() {
    let (_folder, line) = package("attention-tiny", "pub fn three() -> u8 { 3 }");
    let before = manifests();
    let mut kernel = Kernel::start().await;
    kernel.run("let x = 1;\nlet y = 2;").await.ok();
    let ran = kernel.run(&format!("{line}\nattention_tiny::three()")).await;
    let (name, what, note) = ran.error();
    assert_eq!(name, "SessionInUse");
    for part in ["`attention_tiny` is not inside", "attention-tiny 0.3.0", "2 variables would be lost", "about "] {
        assert!(what.contains(part), "{part}: {what}");
    }
    assert!(note.contains("%restart") && note.contains("first cell"), "{note}");
    assert_eq!(kernel.run("x + y").await.result(), "3");
    assert_eq!(manifests(), before);
}

#[tokio::test]
async fn a_crate_that_is_nowhere_is_an_error_that_changes_nothing() {
    let before = manifests();
    let mut kernel = Kernel::start().await;
    let ran = kernel.run(":dep attention-tiny = { path = \"/nowhere/at/all\" }").await;
    let (name, what, _) = ran.error();
    assert_eq!(name, "UnknownCrate");
    assert!(what.contains("/nowhere/at/all"), "{what}");
    assert_eq!(manifests(), before);
}

#[tokio::test]
async fn the_stop_button_ends_the_question_what_a_crate_takes() {
    let before = manifests();
    let (folder, line) = package("attention-tiny", "");
    // A manifest that nobody writes: cargo reads it for ever.
    let manifest = folder.path().join("Cargo.toml");
    std::fs::remove_file(&manifest).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&manifest).status().unwrap().success());
    let mut kernel = Kernel::start().await;
    let id = kernel.send(&line).await;
    // Whoever writes can open it as soon as cargo reads it.
    let (cargo, mut options) = (OnceCell::new(), std::fs::OpenOptions::new());
    options.write(true).custom_flags(libc::O_NONBLOCK);
    until("cargo reads the manifest", || options.open(&manifest).is_ok_and(|file| cargo.set(file).is_ok())).await;
    kernel.interrupt().await;
    let ran = kernel.finish(&id).await;
    assert_eq!(ran.error().0, "Interrupted", "{ran:#?}");
    assert_eq!(manifests(), before);
    assert_eq!(kernel.run("1 + 1").await.result(), "2");
}

/// Puts the manifests back, whatever happens.
struct Restore([String; 2]);

impl Drop for Restore {
    fn drop(&mut self) {
        FILES.iter().zip(&self.0).for_each(|(file, text)| std::fs::write(root().join(file), text).unwrap());
    }
}

/// Changes `notebooks/Cargo.toml` and puts it back, so it runs alone.
#[tokio::test]
#[ignore = "changes the workspace's manifests while it runs: cargo test --workspace --test crates -- --ignored"]
async fn a_crate_asked_for_in_the_first_cell_is_compiled_and_used() {
    let (folder, line) = package("attention-tiny", "pub fn three() -> u8 { 3 }");
    let before = manifests();
    let mut kernel = Kernel::start().await;
    let restore = Restore(before.clone());
    let ran = kernel.run(&format!("{line}\nattention_tiny::three()")).await;
    let added = manifests();
    println!("{:.1?}: {:#?}", ran.took, ran.outputs);
    assert_eq!(ran.result(), "3");
    assert!(added[0].contains("attention-tiny = {"), "{}", added[0]);
    // It is inside now, for another cell and another kernel, as long as the manifest names it.
    assert_eq!(kernel.run("let x = attention_tiny::three();\nx").await.result(), "3");
    // The same line again has nothing to do, so it takes no variable away.
    assert_eq!(kernel.run(&format!("{line}\nx + attention_tiny::three()")).await.result(), "6");
    assert_eq!(manifests(), added);
    // Until the crate has been edited.
    std::fs::write(folder.path().join("src/lib.rs"), "pub fn three() -> u8 { 33 }").unwrap();
    let ran = kernel.run(&line).await;
    assert!(ran.error().0 == "SessionInUse" && ran.error().1.contains("attention-tiny 0.3.0"), "{ran:#?}");
    kernel.run("%restart").await.ok();
    assert_eq!(kernel.run(&format!("{line}\nattention_tiny::three()")).await.result(), "33");
    drop(restore);

    // One that does not compile leaves everything as it was.
    std::fs::write(folder.path().join("src/lib.rs"), "pub fn three() -> u8 { four }").unwrap();
    kernel.run("%restart").await.ok();
    let ran = kernel.run(&line.replace("attention-tiny =", "attention-tiny2 =")).await;
    assert_eq!(ran.error().0, "UnknownCrate", "the package there has another name");
    let _restore = Restore(before.clone());
    let (_folder, line) = package("attention-wrong", "pub fn three() -> u8 { four }");
    let ran = kernel.run(&line).await;
    let (name, what, note) = ran.error();
    assert_eq!(name, "CompileError");
    assert!(what.contains("as it was") && note.contains("four"), "{what}\n{note}");
    assert_eq!(manifests(), before);
    assert_eq!(kernel.run("1 + 1").await.result(), "2");
}
