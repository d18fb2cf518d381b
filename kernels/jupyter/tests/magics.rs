//! The words that begin with `%`.

mod support;
use jupyter_kernel::Toolkit;
use std::process::Command;
use support::{Kernel, Output, installed};

#[tokio::test]
async fn the_table_of_variables_tells_type_shape_device_and_bytes() {
    let mut kernel = Kernel::start().await;
    assert_eq!(kernel.run("%vars").await.ok().outputs, [Output::Display("text/plain".into(), "no variables".into())]);
    let cell = "use attention::prelude::*;\nlet x = Tensor::<2>::ones([2, 3], &Device::flex());\n\
                let linear = burn::nn::LinearConfig::new(4, 8).init(&Device::flex());\n\
                let names = vec![1u64, 2, 3];\nlet dangerous = Box::new(Some(\"<b>\"));";
    kernel.run(cell).await.ok();
    let ran = kernel.run("%vars").await;
    let rows: Vec<Vec<&str>> = ran.table().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["name", "type", "shape", "device", "bytes"]);
    assert_eq!(rows[1], ["dangerous", "Box<Option<&'static", "str>>", "8"]);
    assert_eq!(rows[2][..5], ["linear", "Linear", "40", "parameters", "CPU"]);
    assert_eq!(rows[3], ["names", "Vec<u64>", "3", "elements", "48"]);
    assert_eq!(rows[4], ["x", "Tensor<2>", "[2,", "3]", "f32", "CPU", "24"]);
    let Output::Bundle(_, _, data) = &ran.outputs[0] else { panic!("{ran:#?}") };
    assert!(
        data["text/html"].as_str().unwrap().contains("<td style=\"text-align:left\">Vec&lt;u64&gt;</td>"),
        "{data}"
    );
    // The values are still there.
    assert_eq!(kernel.run("(x.dims(), names.len())").await.result(), "([2, 3], 3)");
}

#[tokio::test]
async fn time_and_timeit_say_how_long_and_only_time_keeps_what_is_bound() {
    let mut kernel = Kernel::start().await;
    let sleep = "std::thread::sleep(std::time::Duration::from_millis(20));";
    let timed = kernel.run(&format!("%time let kept = {{ {sleep} 7 }};\nkept")).await;
    assert_eq!(timed.result(), "7");
    let text = timed.stdout();
    let ran: f64 = text.strip_prefix("ran in ").and_then(|t| t.split("ms").next()).unwrap().parse().unwrap();
    // No upper bounds: this machine has other things to do.
    assert!(ran >= 20.0 && text.contains("compiled in"), "{text}");

    let repeated = kernel.run(&format!("%timeit\nlet gone = kept + 1;\n{sleep}\ngone")).await.ok();
    let text = repeated.stdout();
    let median: f64 = text.split("ms a run").next().unwrap().parse().unwrap();
    assert!(median >= 20.0 && text.contains("rounds of"), "{text}");
    assert!(kernel.run("gone").await.error().1.contains("gone"));
    assert_eq!(kernel.run("kept").await.result(), "7");
    let text = kernel.run("%timeit kept * 2").await.ok().stdout();
    assert!(text.contains("ns a run") || text.contains("µs a run"), "{text}");
    // What fails in it fails the cell, at its own line.
    let failed = kernel.run("%timeit\n\n\"x\".parse::<u8>()?;").await;
    assert_eq!(failed.error().1, "invalid digit found in string");
}

#[tokio::test]
async fn a_cell_of_parameters_holds_only_lets() {
    let mut kernel = Kernel::start().await;
    kernel.run("%params\nlet steps = 20;\nlet size = \"nano\";").await.ok();
    assert_eq!(kernel.run("(steps, size)").await.result(), "(20, \"nano\")");
    let refused = kernel.run("%params\nlet a = 1;\nprintln!(\"{a}\");").await;
    assert!(refused.error().1.contains("only `let"), "{refused:#?}");
}

#[tokio::test]
async fn an_exported_module_compiles_against_the_facade_and_holds_the_newest_of_everything() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "use attention::prelude::*;\nuse burn::nn::{Linear, LinearConfig};\nuse std::collections::HashMap;",
        "macro_rules! twice { ($e:expr) => { $e + $e } }",
        "#[derive(Module, Debug)]\nstruct Gate { inner: Linear }",
        "#[derive(Module, Debug)]\nstruct Gate { inner: Linear, outer: Linear }",
        "impl Gate {\n    fn new(device: &Device) -> Self {\n        let linear = LinearConfig::new(4, 4);\n        \
         Self { inner: linear.init(device), outer: linear.init(device) }\n    }\n}",
        "trait Twice { fn twice(&self) -> usize; }\nimpl Twice for Gate { fn twice(&self) -> usize { twice!(self.num_params()) } }",
        "fn old() -> u8 { 1 }",
        "fn old() -> HashMap<u8, u8> { HashMap::new() }\nstatic LIMIT: usize = 3;",
        "let not_exported = 1;",
    ];
    for cell in cells {
        kernel.run(cell).await.ok();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exported.rs");
    let said = kernel.run(&format!("%export {}", file.display())).await;
    assert!(said.result().contains("wrote"), "{said:#?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("struct Gate").count(), 1, "{text}");
    assert!(text.contains("outer: Linear") && !text.contains("-> u8 {") && !text.contains("not_exported"), "{text}");

    let toolkit = Toolkit::load(&installed().session).unwrap();
    let user = folder.path().join("user.rs");
    let main = "mod exported;\npub fn count(device: &attention::burn::tensor::Device) -> usize {\n    \
                use exported::*;\n    Gate::new(device).twice() + old().len() + LIMIT\n}";
    std::fs::write(&user, main).unwrap();
    let mut rustc = Command::new(&toolkit.rustc);
    rustc.env("LD_LIBRARY_PATH", &toolkit.library_path).current_dir(folder.path());
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit=metadata", "user.rs", "--extern"]);
    rustc.arg(format!("attention={}", toolkit.dylib.display()));
    for search in &toolkit.search {
        rustc.arg("-L").arg(search);
    }
    let output = rustc.output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_restart_is_a_new_session_at_once() {
    let mut kernel = Kernel::start().await;
    kernel.run("let x = 1;\nfn f() -> u8 { 1 }").await.ok();
    let before = kernel.run("std::process::id()").await.result().to_string();
    let restarted = kernel.run("%restart\nstd::process::id()").await;
    assert_ne!(restarted.result(), before);
    assert!(kernel.run("x").await.error().1.contains('x'));
    assert!(kernel.run("f()").await.error().1.contains('f'));
}

#[tokio::test]
async fn the_device_is_shown_and_chosen_and_a_wrong_one_changes_nothing() {
    let mut kernel = Kernel::start().await;
    let first = kernel.run("%device").await.ok().stdout();
    assert!(kernel.run("%device tpu").await.error().1.contains("tpu"));
    assert_eq!(kernel.run("%device").await.ok().stdout(), first);
    let chosen = kernel.run("%device cpu").await.ok().stdout();
    assert!(chosen.starts_with("CPU (flex"), "{chosen}");
    let wrong = kernel.run("%device tpu").await;
    assert!(wrong.error().1.contains("tpu") && wrong.error().1.contains("cuda:N"), "{wrong:#?}");
    assert_eq!(kernel.run("%device").await.ok().stdout(), chosen);
}

#[tokio::test]
async fn a_chosen_device_outlives_the_session_it_was_chosen_in() {
    let mut kernel = Kernel::start_by(|spec| drop(spec.env.insert("ATTENTION_DEVICE".into(), "tpu".into()))).await;
    assert!(kernel.run("%device").await.error().1.contains("tpu"));
    kernel.run("%device cpu").await.ok();
    kernel.run("std::process::abort()").await.error();
    assert!(kernel.run("%device").await.ok().stdout().starts_with("CPU (flex"));
    kernel.run("%restart").await.ok();
    assert!(kernel.run("%device").await.ok().stdout().starts_with("CPU (flex"));
}

#[tokio::test]
async fn a_cell_that_takes_too_much_memory_ends_and_says_why() {
    let mut kernel = Kernel::start().await;
    let shown = kernel.run("%memory 1 GB").await;
    assert!(shown.result().contains("limit 1.00 GB"), "{shown:#?}");
    let cell = "let mut all = Vec::new();\nloop { all.push(vec![1u8; 1 << 20]); }";
    let died = kernel.run(cell).await;
    let (ename, evalue, _) = died.error();
    assert_eq!(ename, "SessionDied");
    assert!(evalue.contains("more memory than the limit of 1.00 GB") && evalue.contains("%memory"), "{evalue}");
    assert_eq!(kernel.run("1").await.result(), "1");
    // A tensor that fits is no offence, whatever the address space it reserves.
    kernel.run("let fits = vec![1u8; 500 << 20];\nfits.len()").await.ok();
    let held = kernel.run("%memory").await;
    // "session 590 MB, kernel 20 MB, compilers 52 MB, limit 1.00 GB"
    let held: Vec<f64> =
        held.result().split(", ").take(3).map(|part| part.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!((524.0..824.0).contains(&held[0]), "the data and less than 300 MB: {held:?}");
    // A compiler that waits has 20 to 50 MB of its own and 200 of mapped files, which not every system tells apart.
    assert!(held[1..].iter().all(|held| (1.0..1000.0).contains(held)), "{held:?}");
}

#[tokio::test]
async fn help_lists_them_all() {
    let mut kernel = Kernel::start().await;
    let help = kernel.run(":help").await;
    for word in ["%vars", "%time ", "%timeit", "%params", "%export", "%device", "%memory", "%restart", ":dep", ":clear"]
    {
        assert!(help.result().contains(word), "{word} in {help:#?}");
    }
}
