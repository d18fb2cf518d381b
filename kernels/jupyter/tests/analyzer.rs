//! A rust-analyzer beside the kernel: used where it answers at once, and not missed where it does not.
//! All but the last speak with a stand-in, `support/language-server.sh`.

mod support;
use jupyter_protocol::{CompleteRequest, InspectRequest};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Kernel, alive, until};

const OWN: &str = "#[derive(Debug)]
struct Own { width: f32 }
impl Own { fn doubled(&self) -> Own { Own { width: 2.0 * self.width } } }
let own = Own { width: 1.0 };";

/// What the index knows of it.
const KNOWN: [&str; 2] = ["width", "doubled"];

/// A kernel beside a stand-in that behaves in that way, and where that writes its process number.
async fn beside(stand_in: &str) -> (Kernel, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/language-server.sh");
    let mut kernel = Kernel::start_by(|spec| {
        spec.env.insert("ATTENTION_ANALYZER".into(), program.display().to_string());
        spec.env.insert("STAND_IN".into(), stand_in.into());
        spec.env.insert("STAND_IN_PROCESS".into(), process_file(&folder).display().to_string());
    })
    .await;
    kernel.run(OWN).await.ok();
    (kernel, folder)
}

fn process_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("process")
}

fn process(folder: &tempfile::TempDir) -> Option<u32> {
    std::fs::read_to_string(process_file(folder)).ok()?.trim().parse().ok()
}

/// The words offered, with their signatures.
async fn offers(kernel: &mut Kernel, code: &str) -> Vec<(String, String)> {
    let request = CompleteRequest { code: code.into(), cursor_pos: code.chars().count() };
    let reply = serde_json::to_value(kernel.ask(request.into()).await).unwrap();
    let typed = reply["metadata"]["_jupyter_types_experimental"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let text = |value: &Value| value.as_str().unwrap().to_string();
    typed.iter().map(|offer| (text(&offer["text"]), text(&offer["signature"]))).collect()
}

/// The words offered. Of `fmt`, which `Debug` writes, the index knows only where the toolchain has `rust-src`.
async fn complete(kernel: &mut Kernel, code: &str) -> Vec<String> {
    offers(kernel, code).await.into_iter().map(|(text, _)| text).filter(|text| text != "fmt").collect()
}

/// The explanation of what stands at the first `|`, which is not part of the code.
async fn inspect(kernel: &mut Kernel, code: &str) -> String {
    let cursor_pos = code.split('|').next().unwrap().chars().count();
    let request = InspectRequest { code: code.replacen('|', "", 1), cursor_pos, detail_level: Some(0) };
    let reply = serde_json::to_value(kernel.ask(request.into()).await).unwrap();
    reply["data"]["text/plain"].as_str().unwrap_or_default().to_string()
}

/// Asks until the analyzer's answer has been used: on a busy machine it may come too late now and then.
async fn used<T: PartialEq>(answer: T, mut ask: impl AsyncFnMut() -> T) {
    let begun = Instant::now();
    while ask().await != answer {
        assert!(begun.elapsed() < Duration::from_secs(20), "the stand-in's answer is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn inferred(kernel: &mut Kernel) {
    let answer = vec![("inferred".to_string(), "(&self) -> u8".to_string())];
    used(answer, async || offers(kernel, "own.").await).await;
}

#[tokio::test]
async fn it_is_started_by_the_first_question_and_its_answers_are_used() {
    let (mut kernel, folder) = beside("good").await;
    assert_eq!(process(&folder), None, "before anyone has asked");
    assert_eq!(complete(&mut kernel, "own.").await, KNOWN, "the first question is the index's");
    inferred(&mut kernel).await;
    assert_eq!(complete(&mut kernel, "// unknown\nown.").await, KNOWN, "where it has none, the index's");
    assert_eq!(complete(&mut kernel, "%vars").await, ["%vars"]);
    for (code, answer) in [("ow|n", "let value: Inferred"), ("own.doubled(|)", "fn inferred(a: u8)")] {
        used(answer.to_string(), async || inspect(&mut kernel, code).await).await;
    }
    let memory = kernel.run("%memory").await;
    assert!(memory.result().contains(", rust-analyzer "), "{memory:?}");
}

#[tokio::test]
async fn the_index_answers_at_once_where_there_is_no_answer() {
    for stand_in in ["late", "dead", "garbage", "deaf", "mute", "missing"] {
        let (mut kernel, folder) = beside(stand_in).await;
        // More than a pipe holds.
        let long = format!("// {}\nown.", "é".repeat(100_000));
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(3) {
            for code in ["own.", &long] {
                let asked = Instant::now();
                assert_eq!(complete(&mut kernel, code).await, KNOWN, "{stand_in}");
                slowest = slowest.max(asked.elapsed());
            }
        }
        assert!(slowest < Duration::from_millis(700), "{stand_in}: {slowest:?}");
        assert!(inspect(&mut kernel, "own.doub|led()").await.contains("fn doubled(&self) -> Own"), "{stand_in}");
        let ends = ["dead", "garbage", "missing"].contains(&stand_in);
        assert_eq!(process(&folder).is_none(), stand_in == "missing");
        assert_eq!(process(&folder).is_none_or(|process| !alive(process)), ends, "{stand_in}");
        assert_eq!(kernel.run("1 + 1").await.result(), "2", "{stand_in}");
        assert_ne!(kernel.run("%memory").await.result().contains("rust-analyzer"), ends, "{stand_in}");
    }
}

#[tokio::test]
async fn it_ends_with_the_kernel_and_with_a_restart() {
    let (mut kernel, folder) = beside("good").await;
    inferred(&mut kernel).await;
    let first = process(&folder).unwrap();
    kernel.run("%restart").await.ok();
    until("a restart ends it", || !alive(first)).await;
    kernel.run(OWN).await.ok();
    inferred(&mut kernel).await;
    let second = process(&folder).unwrap();
    kernel.kill().await;
    until("it does not outlive a killed kernel", || !alive(second)).await;
    let (mut kernel, folder) = beside("deaf").await;
    complete(&mut kernel, "own.").await;
    until("it starts", || process(&folder).is_some()).await;
    assert!(kernel.shutdown().await);
    until("it does not outlive a kernel that ends", || !alive(process(&folder).unwrap())).await;
}

/// Prints how long answers take, and what the analyzer holds then (`--nocapture`).
#[tokio::test]
#[ignore = "needs `rustup component add rust-analyzer`: cargo test --workspace --test analyzer -- --ignored"]
async fn a_real_one_knows_the_types_of_expressions() {
    let mut kernel = Kernel::start_by(|spec| drop(spec.env.remove("ATTENTION_ANALYZER"))).await;
    kernel.run(&format!("use attention::prelude::*;\n{OWN}")).await.ok();
    kernel
        .run("let all = vec![(1u8, Own { width: 1.0 })];\nlet x = Tensor::<2>::ones([2, 2], &Device::flex());")
        .await
        .ok();
    // The index knows nothing of what is behind a pattern.
    let code = "for (_, mine) in &all {\n    mine.";
    let begun = Instant::now();
    while !complete(&mut kernel, code).await.iter().any(|text| text == "doubled") {
        assert!(begun.elapsed() < Duration::from_secs(120), "no answer of a rust-analyzer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("ready            {:?}", begun.elapsed());
    for (code, expected) in [
        ("let f = |mine: &Own| mine.dou", "doubled"),
        ("let (_, mine) = &all[0];\nmine.wi", "width"),
        ("if let Some((_, mine)) = all.first() {\n    mine.wi", "width"),
        ("x.clone().matmul(x).su", "sum"),
        ("let y = (x.clone() + x).ma", "matmul"),
    ] {
        let asked = Instant::now();
        // The first that needs a type of its own may take longer than anyone waits.
        while !complete(&mut kernel, code).await.iter().any(|text| text == expected) {
            assert!(asked.elapsed() < Duration::from_secs(20), "{expected} is not offered behind `{code}`");
        }
        let again = Instant::now();
        complete(&mut kernel, code).await;
        println!("{:>7.0?} {:>7.0?}  {code:?}", asked.elapsed(), again.elapsed());
    }
    let hover = inspect(&mut kernel, "let (_, mi|ne) = &all[0];").await;
    assert!(hover.contains("let mine: &Own"), "{hover}");
    let call = inspect(&mut kernel, "x.matmul(|").await;
    assert!(call.contains("fn matmul(self, other: Tensor<2, Float>) -> Tensor<2, Float>"), "{call}");
    println!("{}", kernel.run("%memory").await.result());
}
