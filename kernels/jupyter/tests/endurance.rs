//! Much output, many cells, and ends that nobody announced.

mod support;
use std::path::PathBuf;
use support::{Kernel, alive, until};

/// The private folders of kernels with this process number.
fn folders(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("attention-kernel-{pid}-");
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}

fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn session(kernel: &mut Kernel) -> u32 {
    kernel.run("std::process::id()").await.result().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_megabytes_of_output_arrive_and_do_not_stay_in_the_kernel() {
    let mut kernel = Kernel::start().await;
    let cell = "for i in 0..1_000_000u32 { println!(\"{i:0>99}\"); }";
    let ran = kernel.run(cell).await.ok();
    let text = ran.stdout();
    assert_eq!(text.len(), 100_000_000);
    assert!(text.ends_with("0999999\n"));
    let kept = resident(kernel.pid());
    assert!(kept < 200 << 20, "{kept} bytes");
    // One display may be large as well.
    let cell = "attention::cell_runtime::display(\"text/html\", &\"x\".repeat(20 << 20));";
    let shown = kernel.run(cell).await.ok();
    assert!(matches!(&shown.outputs[..], [support::Output::Display(_, html)] if html.len() == 20 << 20));
}

/// Files in the kernel's folder, their bytes, and the bytes of memory of the kernel and of its session.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: i64,
    disk: i64,
    kernel: i64,
    session: i64,
}

/// What a kernel holds after its first cells, and `cells` cells later.
async fn held_after(cells: usize) -> [Held; 2] {
    let mut kernel = Kernel::start().await;
    kernel.run("use attention::prelude::*;\nlet mut n = 0u64;").await.ok();
    let child = session(&mut kernel).await;
    let folder = folders(kernel.pid()).remove(0);
    let held = |kernel: &Kernel| {
        let files = walk(&folder);
        let memory = |pid| resident(pid) as i64;
        Held {
            files: files.len() as i64,
            disk: files.iter().sum::<u64>() as i64,
            kernel: memory(kernel.pid()),
            session: memory(child),
        }
    };
    let small = [
        "n += 1;",
        "n += 1;\nprintln!(\"{n}\");",
        "let x = Tensor::<2>::ones([4, 8], &Device::flex());\nx.clone().sum().into_scalar::<f32>()",
        "x.dims()",
        "let names = vec![(\"a\", 1.5f32), (\"b\", 2.0)];",
        "names.len()",
    ];
    let mut before = None;
    for at in 0..12 + cells {
        if at == 12 {
            before = Some(held(&kernel));
        }
        kernel.run(small[at % small.len()]).await.ok();
    }
    let held = [before.expect("cells were run"), held(&kernel)];
    println!("{cells} cells: {held:#?}");
    held
}

/// On disk are the libraries of items. In memory a cell's code stays, because
/// values may point into it: 50 kB at most.
fn little([before, after]: [Held; 2], cells: usize) {
    assert!(after.files < 200, "files: {before:?} {after:?}");
    assert!(after.disk < 32 << 20, "bytes on disk: {before:?} {after:?}");
    let grown = after.kernel - before.kernel + after.session - before.session;
    assert!(grown < cells as i64 * (50 << 10), "bytes in memory: {before:?} {after:?}");
}

#[tokio::test]
async fn many_small_cells_leave_few_files_and_little_memory() {
    little(held_after(60).await, 60);
}

/// An hour of a cell a second: 180 MB at most.
#[tokio::test]
#[ignore = "twenty minutes: cargo test --workspace --test endurance -- --ignored"]
async fn an_hour_of_small_cells_leaves_few_files_and_little_memory() {
    little(held_after(3600).await, 3600);
}

fn walk(folder: &PathBuf) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.metadata().map_or(0, |m| m.len())] }
        })
        .collect()
}

#[tokio::test]
async fn folders_with_spaces_and_other_letters_are_no_obstacle() {
    let folder = tempfile::Builder::new().prefix("mit Leerzeichen, é und 'Zeichen' ").tempdir().unwrap();
    let there = folder.path().to_str().unwrap().to_string();
    let mut kernel = Kernel::start_by(|spec| drop(spec.env.insert("TMPDIR".into(), there))).await;
    kernel.run("#[derive(Debug)]\nstruct P { a: u8 }").await.ok();
    assert_eq!(kernel.run("let p = P { a: 1 };\np").await.result(), "P { a: 1 }");
    assert!(kernel.shutdown().await);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_killed_kernel_takes_its_session_along_and_the_next_one_removes_its_folder() {
    let mut kernel = Kernel::start().await;
    let (pid, child) = (kernel.pid(), session(&mut kernel).await);
    assert_eq!(folders(pid).len(), 1);
    kernel.kill().await;
    until("the session outlives its kernel", || !alive(child)).await;
    let _next = Kernel::start().await;
    until("the folder of the killed kernel is left", || folders(pid).is_empty()).await;
}

#[tokio::test]
async fn a_kernel_whose_front_end_dies_ends_and_leaves_nothing() {
    // A front end starts the kernel and dies; the test only holds the front end.
    let mut kernel = Kernel::start_by(|spec| {
        let words: Vec<_> = spec.argv.iter().map(|word| format!("'{word}'")).collect();
        spec.argv = vec!["sh".into(), "-c".into(), format!("JPY_PARENT_PID=$$ {} & wait", words.join(" "))];
    })
    .await;
    let child = session(&mut kernel).await;
    let parent = |pid: u32| -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    };
    let pid = parent(child);
    assert_eq!(parent(pid), kernel.pid());
    assert_eq!(folders(pid).len(), 1);
    // In the middle of a cell, and with output that nobody reads any more.
    kernel.send("loop { println!(\"{}\", \"x\".repeat(1000)); }").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    kernel.kill().await;
    until("the kernel outlives its front end", || !alive(pid)).await;
    until("the session outlives its kernel", || !alive(child)).await;
    until("a folder is left", || folders(pid).is_empty()).await;
}

/// The processes that this one has started and not seen the end of.
fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |process: &u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    processes.filter(|process| parent(process) == Some(pid)).collect()
}

#[tokio::test]
async fn a_program_that_a_cell_has_started_ends_with_the_kernel() {
    let sleep = "std::process::Command::new(\"sleep\").arg(\"600\").spawn()?.id()";
    let mut kernel = Kernel::start().await;
    let program = kernel.run(sleep).await.result().parse().unwrap();
    assert!(alive(program));
    assert!(kernel.shutdown().await);
    until("the program outlives a kernel that was asked to end", || !alive(program)).await;

    let mut kernel = Kernel::start().await;
    let program = kernel.run(sleep).await.result().parse().unwrap();
    let pid = kernel.pid();
    // SAFETY: kill has no memory effects; the process has not been waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGTERM) }, 0);
    until("the kernel does not end", || !alive(pid)).await;
    until("the program outlives a kernel that was terminated", || !alive(program)).await;

    let mut kernel = Kernel::start().await;
    let program = kernel.run(sleep).await.result().parse().unwrap();
    kernel.kill().await;
    until("the program outlives a kernel that was killed", || !alive(program)).await;
}

#[tokio::test]
async fn a_compiler_at_work_ends_with_the_kernel() {
    let mut kernel = Kernel::start().await;
    kernel.run("1").await.ok();
    // A constant that takes rustc minutes to evaluate.
    let slow = "const N: u64 = { let mut i = 0u64; while i < 20_000_000_000 { i += 1; } i };\nN";
    let id = kernel.send(&format!("#[allow(long_running_const_eval)]\n{slow}")).await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(2), kernel.finish(&id)).await;
    assert!(ended.is_err(), "the compiler has nothing to do: {ended:#?}");
    let compiles = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "rustc")
    };
    let compilers: Vec<_> = children(kernel.pid()).into_iter().filter(compiles).collect();
    assert!(!compilers.is_empty(), "the compiler is none of the kernel's children");
    assert!(kernel.shutdown().await);
    until("a compiler outlives its kernel", || !compilers.iter().any(|process| alive(*process))).await;
}
