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

#[tokio::test]
async fn many_small_cells_leave_few_files_and_little_memory() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut n = 0u64;").await.ok();
    let child = session(&mut kernel).await;
    let folder = folders(kernel.pid()).remove(0);
    let state = |kernel: &Kernel| {
        let files = walk(&folder);
        (files.len() as i64, files.iter().sum::<u64>() as i64, resident(kernel.pid()) as i64, resident(child) as i64)
    };
    for _ in 0..10 {
        kernel.run("n += 1;").await.ok();
    }
    let before = state(&kernel);
    const CELLS: i64 = 60;
    for _ in 0..CELLS {
        kernel.run("n += 1;\nprintln!(\"{n}\");").await.ok();
    }
    let after = state(&kernel);
    println!(
        "files {} -> {}, bytes {} -> {}, kernel {} -> {}, session {} -> {}",
        before.0, after.0, before.1, after.1, before.2, after.2, before.3, after.3
    );
    assert!(after.0 - before.0 < 20, "files: {before:?} {after:?}");
    assert!(after.1 - before.1 < 1 << 20, "bytes on disk: {before:?} {after:?}");
    // A cell's code stays, because values may point into it: an hour of a cell a second is 180 MB.
    assert!(after.2 - before.2 + after.3 - before.3 < CELLS * (50 << 10), "bytes in memory: {before:?} {after:?}");
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
    assert_eq!(folders(pid).len(), 0);
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
