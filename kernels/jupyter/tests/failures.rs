//! What fails says so, fails the cell, and leaves the rest alone.

mod support;
use jupyter_protocol::{IsCompleteRequest, ReplyStatus};
use std::time::Duration;
use support::{Kernel, Output, plain};

#[tokio::test]
async fn variables_survive_a_panic() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut kept = vec![1, 2];").await.ok();
    let failed = kernel.run("kept.push(3);\n\nassert_eq!(kept.len(), 4, \"too short\");").await;
    let (ename, evalue, traceback) = failed.error();
    assert_eq!(ename, "Panic");
    assert!(evalue.contains("too short"), "{evalue}");
    assert!(plain(traceback).contains("cell [2], line 3"), "{traceback}");
    assert!(traceback.lines().count() < 8, "no backtrace: {traceback}");
    assert_eq!(kernel.run("kept").await.result(), "[1, 2, 3]");
}

#[tokio::test]
async fn a_question_mark_error_fails_the_cell() {
    let mut kernel = Kernel::start().await;
    kernel.run("let before = 1;").await.ok();
    let failed = kernel.run("// no number\n\nlet n: i32 = \"x\".parse()?;").await;
    assert_eq!(failed.error().1, "invalid digit found in string");
    assert!(failed.error().2.contains("at cell [2], line 3"), "{failed:#?}");
    kernel.run("let n: i32 = \"7\".parse()?;").await.ok();
    assert_eq!(kernel.run("n + before").await.result(), "8");
}

#[tokio::test]
async fn a_failure_in_a_library_names_the_line_of_the_cell() {
    let mut kernel = Kernel::start().await;
    kernel.run("use attention::prelude::*;\nlet x = Tensor::<2>::ones([2, 3], &Device::flex());").await.ok();
    let failed = kernel.run("let fine = x.clone();\n\nlet product = x.clone().matmul(x);").await;
    let (ename, _, traceback) = failed.error();
    assert_eq!(ename, "Panic");
    assert!(traceback.contains("at cell [2], line 3 (in burn-tensor-"), "{traceback}");
    // In a function of an earlier cell the line is that function's.
    kernel.run("fn third(v: &[u8]) -> u8 {\n    v[2]\n}").await.ok();
    let failed = kernel.run("third(&[1])").await;
    assert!(failed.error().2.contains("at cell [3], line 2"), "{failed:#?}");
}

#[tokio::test]
async fn every_kind_of_panic_is_the_cells_and_a_caught_one_is_nobodys() {
    let mut kernel = Kernel::start().await;
    kernel.run("let kept = 1;\nlet zero = 0u8;").await.ok();
    for (cell, says) in [
        ("zero - 1;", "attempt to subtract with overflow"),
        ("1 / zero;", "attempt to divide by zero"),
        ("vec![1, 2][zero as usize + 2];", "index out of bounds"),
        ("None::<u8>.expect(\"a value\");", "a value"),
        ("std::panic::panic_any(7);", "a panic without a message"),
        ("std::panic::resume_unwind(Box::new(7));", "the cell unwound"),
        ("vec![0u8; usize::MAX];", "capacity overflow"),
        ("let r: Result<(), Box<dyn std::error::Error>> = Err(\"text\".into());\nr?;", "text"),
    ] {
        let failed = kernel.run(cell).await;
        assert!(failed.error().1.contains(says), "{cell}: {failed:#?}");
        assert_eq!(kernel.run("kept").await.result(), "1", "after {cell}");
    }
    let caught = kernel.run("std::panic::catch_unwind(|| panic!(\"inside\")).is_err()").await;
    assert_eq!(caught.result(), "true");
    let thread = kernel.run("std::thread::spawn(|| panic!(\"elsewhere\")).join().is_err()").await;
    assert_eq!(thread.result(), "true");
    assert!(matches!(&thread.outputs[0], Output::Stderr(text) if text.contains("elsewhere")), "{thread:#?}");
}

#[tokio::test]
async fn a_panic_of_another_thread_says_what_and_where_in_the_cell_that_it_fails() {
    let mut kernel = Kernel::start().await;
    kernel.run("use rayon::prelude::*;\nfn check(i: i32) {\n    assert!(i < 5);\n}").await.ok();
    let caught = "std::panic::catch_unwind(|| panic!(\"caught\")).is_err();";
    let failed = kernel.run(&format!("{caught}\n(0..9).into_par_iter().for_each(check);")).await;
    let (ename, evalue, traceback) = failed.error();
    assert_eq!((ename, evalue), ("Panic", "assertion failed: i < 5"));
    assert!(traceback.ends_with("at cell [2], line 2"), "{traceback}");
    let told = "panicked at cell [1], line 3: assertion failed: i < 5";
    assert!(matches!(&failed.outputs[0], Output::Stderr(text) if text.contains(told)), "{failed:#?}");
}

#[tokio::test]
async fn control_c_in_a_terminal_is_the_stop_button() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut step = 0;").await.ok();
    let id = kernel
        .send("println!(\"go\");\nloop {\n    step += 1;\n    attention::cell_runtime::check_interrupt()?;\n}")
        .await;
    wait_for_go(&mut kernel, &id).await;
    let sent = std::process::Command::new("kill").args(["-INT", &kernel.pid().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(kernel.finish(&id).await.error().0, "Interrupted");
    assert_eq!(kernel.run("step > 0").await.result(), "true");
}

#[tokio::test]
async fn a_compile_error_points_at_the_users_line_and_keeps_everything() {
    let mut kernel = Kernel::start().await;
    kernel.run("let a = 1;").await.ok();
    let failed = kernel.run("// a comment\nlet b = a + 1;\nlet c: String = b;\nlet d = nothing;").await;
    let (ename, _, traceback) = failed.error();
    let text = plain(traceback);
    assert_eq!(ename, "CompileError");
    assert!(text.contains("cell [2]:3:17"), "{text}");
    assert!(text.contains("cell [2]:4:9"), "{text}");
    assert!(text.contains("let c: String = b;"), "{text}");
    assert!(!text.contains("cell_runtime") && !text.contains("run_"), "{text}");
    assert!(traceback.contains("\x1b["), "coloured");
    assert_eq!(kernel.run("a").await.result(), "1");
    let syntax = kernel.run("let x = ;").await;
    assert!(plain(syntax.error().2).contains("cell [4]:1:9"), "{syntax:#?}");
    let item = kernel.run("\nfn f() -> u8 { \"no\" }").await;
    assert!(plain(item.error().2).contains("cell [5]:2:"), "{item:#?}");
    // Lines of another cell are that one's.
    kernel.run("\nfn add(a: i32) -> i32 { a }").await.ok();
    let failed = kernel.run("add(\"x\")").await;
    let text = plain(failed.error().2);
    assert!(text.contains("cell [7]:1:5") && text.contains("cell [6]:2:8"), "{text}");
    let line = |line: &str| line.trim_start().starts_with("2 ") && line.ends_with("| pub fn add(a: i32) -> i32 { a }");
    assert!(text.lines().any(line) && !text.contains("cell_"), "{text}");
}

#[tokio::test]
async fn a_dead_session_is_reported_and_the_kernel_lives_on() {
    let mut kernel = Kernel::start().await;
    kernel.run("fn seven() -> i32 { 7 }\nlet lost = 1;").await.ok();
    let cells = [
        ("println!(\"last words\"); std::process::abort();", "SIGABRT"),
        ("std::process::exit(3);", "exit code 3"),
        (
            "fn deep(n: u64) -> u64 { let a = [n; 100]; std::hint::black_box(&a); deep(n + 1) + a[3] }\ndeep(0)",
            "SIGSEGV",
        ),
        ("unsafe { *(8 as *mut u8) = 1 };", "SIGSEGV"),
    ];
    for (cell, reason) in cells {
        let died = kernel.run(cell).await;
        let (ename, evalue, traceback) = died.error();
        assert_eq!(ename, "SessionDied");
        assert!(evalue.contains(reason), "{evalue}");
        assert!(traceback.contains("All variables are lost"), "{traceback}");
        if cell.contains("last words") {
            assert_eq!(died.stdout(), "last words\n");
        }
        assert_eq!(kernel.run("seven()").await.result(), "7");
    }
    assert!(kernel.run("lost").await.error().1.contains("lost"));
}

#[tokio::test]
async fn interrupting_a_loop_keeps_the_variables_and_a_second_press_kills() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut step = 0u64;\nlet mut model = vec![7];").await.ok();
    let id = kernel.send("println!(\"go\");\nloop {\n    step += 1;\n    model = std::convert::identity(model);\n    attention::cell_runtime::check_interrupt()?;\n    std::thread::sleep(std::time::Duration::from_millis(1));\n}").await;
    wait_for_go(&mut kernel, &id).await;
    kernel.interrupt().await;
    let stopped = kernel.finish(&id).await;
    assert_eq!(stopped.error().0, "Interrupted");
    assert_eq!(kernel.run("(step > 0, model)").await.result(), "(true, [7])");
    // The flag does not outlive the cell.
    assert_eq!(kernel.run("attention::cell_runtime::interrupted()").await.result(), "false");

    let id = kernel.send("println!(\"go\");\nloop { std::thread::sleep(std::time::Duration::from_millis(5)) }").await;
    wait_for_go(&mut kernel, &id).await;
    kernel.interrupt().await;
    // It does not look; the user is told what else there is.
    let next = serde_json::to_value(kernel.next(&id).await).unwrap();
    assert!(next["text"].as_str().is_some_and(|text| text.contains("pressed again")), "{next}");
    kernel.interrupt().await;
    let killed = kernel.finish(&id).await;
    assert_eq!(killed.error().0, "Killed");
    assert_eq!(kernel.run("1").await.result(), "1");
}

async fn wait_for_go(kernel: &mut Kernel, id: &str) {
    loop {
        let next = serde_json::to_value(kernel.next(id).await).unwrap();
        assert_ne!(next["execution_state"], "idle", "the cell ended early");
        if next["name"] == "stdout" || !next["data"].is_null() {
            return;
        }
    }
}

#[tokio::test]
async fn interrupting_a_compilation_stops_it() {
    let mut kernel = Kernel::start().await;
    kernel.run("let kept = 1;").await.ok();
    // A constant that takes rustc minutes to evaluate.
    let slow = "const N: u64 = { let mut i = 0u64; while i < 20_000_000_000 { i += 1; } i };\nN";
    let id = kernel.send(slow).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    kernel.interrupt().await;
    let stopped = kernel.finish(&id).await;
    assert_eq!(stopped.error().0, "Interrupted");
    assert_eq!(kernel.run("kept").await.result(), "1");
}

#[tokio::test]
async fn a_failure_aborts_what_was_queued_behind_it() {
    let mut kernel = Kernel::start().await;
    let first = kernel.send("std::thread::sleep(std::time::Duration::from_millis(300)); panic!(\"first\");").await;
    let second = kernel.send("let ran = true;").await;
    assert_eq!(kernel.finish(&first).await.status, ReplyStatus::Error);
    assert_eq!(kernel.finish(&second).await.status, ReplyStatus::Aborted);
    assert!(kernel.run("ran").await.error().1.contains("ran"));
}

#[tokio::test]
async fn an_unknown_command_is_answered_with_the_known() {
    let unknown = Kernel::start().await.run(":nonsense").await;
    assert!(unknown.error().1.contains("%vars"), "{unknown:#?}");
}

#[tokio::test]
async fn unfinished_code_is_told_from_finished() {
    let mut kernel = Kernel::start().await;
    for (code, expected) in [
        ("fn f() {", "incomplete"),
        ("let x = (1,", "incomplete"),
        ("1 + 1", "complete"),
        ("", "complete"),
        ("let x = )", "complete"),
    ] {
        let request = IsCompleteRequest { code: code.into() };
        let reply = serde_json::to_value(kernel.ask(request.into()).await).unwrap();
        assert_eq!(reply["status"], expected, "{code}");
    }
}

#[tokio::test]
async fn an_empty_cell_is_fine_and_counts() {
    let mut kernel = Kernel::start().await;
    assert_eq!(kernel.run("").await.ok().outputs, Vec::<Output>::new());
    assert_eq!(kernel.run("// only a comment").await.ok().count, 2);
}

#[tokio::test]
async fn a_session_whose_library_was_linked_anew_says_so_instead_of_mixing_the_two() {
    let folder = tempfile::tempdir().unwrap();
    let mut toolkit = jupyter_kernel::Toolkit::load(&support::installed().session).unwrap();
    let dylib = folder.path().join("libattention.so");
    std::fs::copy(&toolkit.dylib, &dylib).unwrap();
    toolkit.dylib = dylib.clone();
    std::fs::write(folder.path().join("session.json"), serde_json::to_string(&toolkit).unwrap()).unwrap();
    let own = folder.path().to_str().unwrap().to_string();
    let mut kernel = Kernel::start_by(|spec| *spec.argv.last_mut().unwrap() = own).await;
    kernel.run("let x = 1;").await.ok();
    std::fs::rename(&dylib, folder.path().join("old.so")).unwrap();
    std::fs::copy(folder.path().join("old.so"), &dylib).unwrap();
    let failed = kernel.run("x + 1").await;
    assert_eq!(failed.error().0, "SessionOutdated");
    assert!(failed.error().2.contains("%restart"), "{failed:#?}");
    kernel.run("%restart").await.ok();
    assert_eq!(kernel.run("1 + 1").await.result(), "2");
}

#[tokio::test]
async fn a_kernel_whose_program_has_been_replaced_begins_sessions_still() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("attention-kernel");
    let own = program.to_str().unwrap().to_string();
    let mut kernel = Kernel::start_by(|spec| {
        std::fs::hard_link(&spec.argv[0], &own).unwrap();
        spec.argv[0] = own;
    })
    .await;
    kernel.run("fn f() -> u8 { 3 }").await.ok();
    std::fs::remove_file(&program).unwrap();
    assert!(kernel.run("std::process::abort()").await.error().2.contains("has been started again"));
    assert_eq!(kernel.run("f()").await.result(), "3");
    assert_eq!(kernel.run("%restart\n1 + 1").await.result(), "2");
}

#[tokio::test]
async fn a_display_that_is_not_ended_is_text_and_the_cell_ends() {
    let mut kernel = Kernel::start().await;
    let ran = kernel.run("println!(\"EVCXR_BEGIN_CONTENT text/html\\n<b>1</b>\");").await.ok();
    assert!(ran.stdout().contains("<b>1</b>"), "{ran:#?}");
    assert_eq!(kernel.run("1 + 1").await.result(), "2");
    let ran = kernel.run("print!(\"EVCXR_BEGIN_CONTENT x\");").await.ok();
    assert_eq!(ran.stdout(), "EVCXR_BEGIN_CONTENT x");
}

#[tokio::test]
async fn the_stop_button_ends_the_program_that_a_cell_waits_for() {
    let mut kernel = Kernel::start().await;
    kernel.run("let kept = 1;").await.ok();
    let code = "println!(\"go\");\nstd::process::Command::new(\"sleep\").arg(\"600\").status()?.success()";
    let id = kernel.send(code).await;
    wait_for_go(&mut kernel, &id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    kernel.interrupt().await;
    kernel.finish(&id).await;
    assert_eq!(kernel.run("kept").await.result(), "1");
}

#[tokio::test]
async fn a_session_that_died_between_cells_is_begun_anew_whatever_comes() {
    let mut kernel = Kernel::start().await;
    kernel.run("let lost = 1;\nstd::thread::spawn(|| { std::thread::sleep(std::time::Duration::from_millis(100)); std::process::abort() });").await.ok();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let ran = kernel.run("fn f() -> u8 { 3 }").await;
    assert_eq!(ran.error().0, "SessionDied", "{ran:#?}");
    kernel.run("fn f() -> u8 { 3 }").await.ok();
    assert_eq!(kernel.run("f()").await.result(), "3");
}

#[tokio::test]
async fn what_belongs_at_the_top_of_a_crate_is_named_or_taken_for_a_comment() {
    let mut kernel = Kernel::start().await;
    let ran = kernel.run("%vars\n#![allow(unused)]\nlet y = 1;").await;
    assert!(ran.error().1.contains("`#![allow(unused)]` belongs at the top of a crate"), "{ran:#?}");
    kernel.run("//! What a file is about.\n\nlet z = 4;").await.ok();
    assert_eq!(kernel.run("z").await.result(), "4");
}
