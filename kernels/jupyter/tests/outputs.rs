//! What a cell prints and shows, in order and in time.

mod support;
use std::time::Duration;
use support::{Kernel, Output};

fn display(mime: &str, content: &str) -> Output {
    Output::Display(mime.into(), content.into())
}

#[tokio::test]
async fn text_and_displays_arrive_in_order_and_all_of_them() {
    let mut kernel = Kernel::start().await;
    let cell = "print!(\"a\");\nattention::cell_runtime::display(\"text/html\", \"<b>1</b>\");\n\
                println!(\"EVCXR_BEGIN_CONTENT text/html\\n<b>2</b>\\nEVCXR_END_CONTENT\");\nprintln!(\"z\"); 42";
    let ran = kernel.run(cell).await.ok();
    assert_eq!(
        ran.outputs,
        [
            Output::Stdout("a".into()),
            display("text/html", "<b>1</b>"),
            display("text/html", "<b>2</b>"),
            Output::Stdout("z\n".into()),
            Output::Result("42".into()),
        ]
    );
}

#[tokio::test]
async fn a_display_is_replaced_by_name_cleared_and_shown_in_several_types_at_once() {
    let mut kernel = Kernel::start().await;
    kernel.run("use attention::cell_runtime::*;").await.ok();
    let both = serde_json::json!({ "text/html": "<b>1</b>", "text/plain": "1" });
    let ran = kernel.run("display_bundle(&[(\"text/html\", \"<b>1</b>\"), (\"text/plain\", \"1\")]);").await.ok();
    assert_eq!(ran.outputs, [Output::Bundle("display", "".into(), both)]);
    let first = kernel.run("display_with_id(\"bar\", &[(\"text/plain\", \"0\")]);").await.ok();
    let plain = |text: &str| serde_json::json!({ "text/plain": text });
    assert_eq!(first.outputs, [Output::Bundle("display", "bar".into(), plain("0"))]);
    let cell = "for i in 1..3 { update_display(\"bar\", &[(\"text/plain\", &i.to_string())]); }\nclear_output(true);";
    let updated = kernel.run(cell).await.ok();
    let expected = ["1", "2"].map(|i| Output::Bundle("update", "bar".into(), plain(i)));
    assert_eq!(updated.outputs, [&expected[..], &[Output::Clear]].concat());
}

#[tokio::test]
async fn stdout_and_stderr_keep_their_order() {
    let mut kernel = Kernel::start().await;
    let cell = "for i in 0..50 { println!(\"o{i}\"); eprintln!(\"e{i}\"); }\ndbg!(1 + 1)";
    let mut expected = Vec::new();
    for i in 0..50 {
        expected.extend([Output::Stdout(format!("o{i}\n")), Output::Stderr(format!("e{i}\n"))]);
    }
    let Some(Output::Stderr(last)) = expected.last_mut() else { unreachable!() };
    last.push_str("1 + 1 = 2\n");
    expected.push(Output::Result("2".into()));
    assert_eq!(kernel.run(cell).await.ok().outputs, expected);
    assert_eq!(kernel.run("\ndbg!();").await.ok().outputs, [Output::Stderr("[cell [2], line 2]\n".into())]);
}

#[tokio::test]
async fn nothing_printed_is_lost_or_late() {
    let mut kernel = Kernel::start().await;
    for round in 0..10 {
        let cell = format!("for i in 0..2000 {{ println!(\"{round} {{i}}\"); eprintln!(\"{round} {{i}}\"); }}");
        let ran = kernel.run(&cell).await.ok();
        let expected: String = (0..2000).map(|i| format!("{round} {i}\n")).collect();
        let stderr: String = ran
            .outputs
            .iter()
            .filter_map(|output| match output {
                Output::Stderr(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(ran.stdout(), expected);
        assert_eq!(stderr, expected);
    }
}

#[tokio::test]
async fn progress_arrives_while_the_cell_runs() {
    let mut kernel = Kernel::start().await;
    let id = kernel
        .send("for i in 0..3 { print!(\"\\r{i}\"); std::thread::sleep(std::time::Duration::from_millis(200)); }")
        .await;
    let mut times = Vec::new();
    loop {
        let next = serde_json::to_value(kernel.next(&id).await).unwrap();
        if next["name"] == "stdout" {
            times.push(std::time::Instant::now());
        }
        if next["execution_state"] == "idle" {
            break;
        }
    }
    assert_eq!(times.len(), 3);
    assert!(times[2] - times[0] > Duration::from_millis(300), "{times:?}");
}

#[tokio::test]
async fn lines_printed_one_at_a_time_leave_together_a_hundred_times_a_second_at_most() {
    let mut kernel = Kernel::start().await;
    let line = "println!(\"{i}\"); std::thread::sleep(std::time::Duration::from_micros(50));";
    let begun = std::time::Instant::now();
    let id = kernel.send(&format!("for i in 0..5000 {{ {line} }}")).await;
    let (mut messages, mut text) = (0, String::new());
    loop {
        let next = serde_json::to_value(kernel.next(&id).await).unwrap();
        if next["name"] == "stdout" {
            messages += 1;
            text += next["text"].as_str().unwrap();
        }
        if next["execution_state"] == "idle" {
            break;
        }
    }
    assert_eq!(text, (0..5000).map(|i| format!("{i}\n")).collect::<String>());
    // The first does not wait, nor the last.
    let most = begun.elapsed().as_millis() / 10 + 2;
    assert!(messages <= most, "{messages} messages, expected {most} at most");
}

#[tokio::test]
async fn a_type_is_shown_by_its_own_method_then_debug_then_its_name() {
    let mut kernel = Kernel::start().await;
    kernel.run("#[derive(Debug)]\nstruct Own;\nimpl Own {\n    fn evcxr_display(&self) { attention::cell_runtime::display(\"text/html\", \"own\") }\n}\nstruct Silent;").await.ok();
    assert_eq!(kernel.run("Own").await.ok().outputs, [display("text/html", "own")]);
    assert_eq!(kernel.run("vec![1, 2]").await.result(), "[1, 2]");
    assert!(kernel.run("Silent").await.result().contains("Silent"));
    assert_eq!(kernel.run("()").await.ok().outputs, []);
    assert_eq!(kernel.run("for _ in 0..3 {}").await.ok().outputs, []);
    assert_eq!(kernel.run("println!(\"p\")").await.ok().outputs, [Output::Stdout("p\n".into())]);
    // Whatever is said of it in front.
    let ran = kernel.run("/// Prints them.\nfor i in 0..2 { println!(\"{i}\"); }").await.ok();
    assert_eq!(ran.stdout(), "0\n1\n");
    assert_eq!(kernel.run("// Both.\n#[allow(unused)]\nif true { 7 } else { 8 }").await.result(), "7");
}

#[tokio::test]
async fn two_kernels_do_not_disturb_each_other() {
    let (mut one, mut two) = (Kernel::start().await, Kernel::start().await);
    for round in 0..5 {
        let (a, b) = tokio::join!(async { one.run(&format!("let x = {round};\nstruct S{round};\nx")).await }, async {
            two.run(&format!("let x = \"{round}\";\nstruct S{round}(u8);\nx")).await
        },);
        assert_eq!(a.result(), format!("{round}"));
        assert_eq!(b.result(), format!("\"{round}\""));
    }
}

#[tokio::test]
async fn a_kernel_leaves_nothing_behind() {
    let mut kernel = Kernel::start().await;
    kernel.run("let x = 1; x").await.ok();
    let prefix = format!("attention-kernel-{}-", kernel.pid());
    let folders = || {
        let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).count()
    };
    assert_eq!(folders(), 1);
    assert!(kernel.shutdown().await);
    assert_eq!(folders(), 0);
}

#[tokio::test]
async fn tensors_modules_and_tables_have_looks_with_a_plain_twin() {
    let mut kernel = Kernel::start().await;
    kernel.run("use attention::prelude::*;\nlet device = burn::tensor::Device::flex();").await.ok();
    let bundle = |ran: support::Ran| match &ran.ok().outputs[..] {
        [Output::Bundle("display", _, data)] => {
            let text = |mime: &str| data[mime].as_str().unwrap_or_default().to_string();
            (text("text/html"), text("text/plain"))
        }
        other => panic!("{other:?}"),
    };
    let (html, text) = bundle(kernel.run("Tensor::<2>::ones([2, 3], &device)").await);
    assert!(html.contains("Tensor [2, 3]") && html.contains("<img"), "{html}");
    assert!(text.starts_with("[2, 3] f32 on CPU: min 1 · mean 1 · max 1 · no NaN\n"), "{text}");
    // Without the trait in scope, and of a type that only this notebook knows.
    let cell = "#[derive(burn::module::Module, Debug)]\nstruct Mine { up: burn::nn::Linear }\n\
                Mine { up: burn::nn::LinearConfig::new(2, 3).init(&device) }";
    let (html, text) = bundle(kernel.run(cell).await);
    assert!(html.contains("<details") && html.contains("Mine"), "{html}");
    assert!(text.starts_with("Mine  9 parameters\n  up: Linear  9\n    weight [2, 3]  6\n    bias [3]  3"), "{text}");
    // Lists and numbers are modules too, but look as they always did.
    assert_eq!(kernel.run("vec![1.5f32, 2.0]").await.result(), "[1.5, 2.0]");
    assert_eq!(kernel.run("1 + 1").await.result(), "2");
}
