//! Completion, hover and signature help from the index, without a compiler and while a cell runs.

mod support;
use jupyter_protocol::{CompleteRequest, InspectRequest};
use serde_json::Value;
use std::path::PathBuf;
use support::Kernel;

async fn start() -> Kernel {
    Kernel::start_by(|spec| drop(spec.env.insert("ATTENTION_ANALYZER".into(), "off".into()))).await
}

async fn complete(kernel: &mut Kernel, code: &str) -> (Vec<String>, usize) {
    let request = CompleteRequest { code: code.into(), cursor_pos: code.chars().count() };
    let reply = serde_json::to_value(kernel.ask(request.into()).await).unwrap();
    let matches = reply["matches"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let matches = matches.iter().map(|text| text.as_str().unwrap().to_string()).collect();
    (matches, reply["cursor_start"].as_u64().unwrap() as usize)
}

async fn inspect(kernel: &mut Kernel, code: &str, cursor_pos: usize) -> String {
    let request = InspectRequest { code: code.into(), cursor_pos, detail_level: Some(0) };
    let reply: Value = serde_json::to_value(kernel.ask(request.into()).await).unwrap();
    reply["data"]["text/plain"].as_str().unwrap_or_default().to_string()
}

const SETUP: &str = "use attention::prelude::*;
#[derive(Debug)]
struct Own { width: f32 }
impl Own {
    /// Twice as wide.
    fn doubled(&self) -> Own { Own { width: 2.0 * self.width } }
}
#[derive(Module, Debug)]
struct Layer { scale: Tensor<1> }
let own = Own { width: 1.0 };
let x = Tensor::<2>::ones([2, 2], &Device::flex());
let config = TrainConfig::new(\"name\", preset(\"baseline\", \"nano\")?);";

/// Where the toolchain has `rust-src`, which `rust-toolchain.toml` asks for: rustup does not always get it.
#[tokio::test]
async fn the_standard_library_is_completed_where_its_source_is() {
    let mut kernel = start().await;
    kernel.run("let names = vec![\"a\"];\nlet text = String::new();\nlet map = std::collections::HashMap::<u8, u8>::new();").await.ok();
    while complete(&mut kernel, "Tensor::on").await.0.is_empty() {}
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let sysroot = PathBuf::from(String::from_utf8(sysroot).unwrap().trim());
    if !sysroot.join("lib/rustlib/src/rust/library").is_dir() {
        assert!(complete(&mut kernel, "names.pus").await.0.is_empty(), "of what was that read?");
        return;
    }
    for (code, expected) in [
        ("names.pus", "push"),
        ("names.sort_by_k", "sort_by_key"),
        ("names.iter().enumer", "enumerate"),
        ("text.trim_st", "trim_start"),
        ("text.as_byt", "as_bytes"),
        ("map.contains_k", "contains_key"),
        ("String::from_utf8_lo", "from_utf8_lossy"),
    ] {
        let (matches, _) = complete(&mut kernel, code).await;
        assert!(matches.iter().any(|text| text == expected), "{code}: {matches:?}");
    }
    let (matches, _) = complete(&mut kernel, "names.").await;
    assert!(!matches.iter().any(|name| name == "as_non_null"), "unstable: {matches:?}");
    assert!(inspect(&mut kernel, "names.push(\"b\")", 8).await.contains("fn push(&mut self, value: T)"));
}

#[tokio::test]
async fn names_fields_and_methods_are_completed() {
    let mut kernel = start().await;
    kernel.run(SETUP).await.ok();
    // The index is read in the background.
    while complete(&mut kernel, "Tensor::on").await.0.is_empty() {}
    for (code, expected) in [
        ("x.matm", "matmul"),
        ("Tensor::<2>::on", "ones"),
        ("let y = x.clone().matmul(x).su", "sum"),
        ("let later = x.clone().transpose();\nlater.di", "dims"),
        ("config.eval_e", "eval_every"),
        ("TrainConf", "TrainConfig"),
        ("lab::desc", "describe"),
        ("burn::nn::LinearConf", "LinearConfig"),
        ("burn::nn::LinearConfig::new(1, 2).with_b", "with_bias"),
        ("own.wid", "width"),
        ("own.doubled().wi", "width"),
        ("let wide = Own { width: 2.0 };\nwide.doub", "doubled"),
        ("let layer = Layer { scale };\nlayer.num_par", "num_params"),
        ("%time own.wid", "width"),
        ("ow", "own"),
        ("%tim", "%timeit"),
        (":dep serde_js", "serde_json"),
    ] {
        let (matches, start) = complete(&mut kernel, code).await;
        assert!(matches.iter().any(|text| text == expected), "{code}: {matches:?}");
        let word = code.rsplit(|c: char| !(c.is_alphanumeric() || "_%".contains(c))).next().unwrap();
        assert_eq!(start, code.chars().count() - word.len(), "{code}");
    }
    for nothing in ["", "x.no_such_method", "(a + b).", "unknown."] {
        assert_eq!(complete(&mut kernel, nothing).await.0, Vec::<String>::new(), "{nothing}");
    }
}

#[tokio::test]
async fn a_word_is_explained_and_a_call_shows_its_signature() {
    let mut kernel = start().await;
    kernel.run(SETUP).await.ok();
    while complete(&mut kernel, "Tensor::on").await.0.is_empty() {}
    let hover = inspect(&mut kernel, "x.matmul(w)", 4).await;
    assert!(hover.contains("fn matmul(self") && hover.contains("burn_tensor"), "{hover}");
    // Between the brackets it is the call that counts.
    assert_eq!(inspect(&mut kernel, "x.matmul(w, ", 12).await, hover);
    let variable = inspect(&mut kernel, "x", 1).await;
    assert!(variable.starts_with("let x: Tensor<2>"), "{variable}");
    let own = inspect(&mut kernel, "own.doubled()", 6).await;
    assert!(own.contains("fn doubled(&self) -> Own") && own.contains("Twice as wide."), "{own}");
    assert_eq!(inspect(&mut kernel, "no_such_name", 3).await, "");
}

#[tokio::test]
async fn completion_does_not_wait_for_a_running_cell_which_stays_busy() {
    let mut kernel = start().await;
    kernel.run("let mut value = 1;").await.ok();
    let id = kernel
        .send(
            "println!(\"go\");\nloop {\n    attention::cell_runtime::check_interrupt()?;\n    value += 1;\n    \
                          std::thread::sleep(std::time::Duration::from_millis(5));\n}",
        )
        .await;
    while serde_json::to_value(kernel.next(&id).await).unwrap()["name"] != "stdout" {}
    assert_eq!(complete(&mut kernel, "val").await.0, ["value"]);
    // The front end is told at once that the cell is still at it.
    assert_eq!(serde_json::to_value(kernel.next(&id).await).unwrap()["execution_state"], "busy");
    kernel.interrupt().await;
    assert_eq!(kernel.finish(&id).await.error().0, "Interrupted");
}
