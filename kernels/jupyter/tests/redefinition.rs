//! A name defined again is a new thing; whatever still means the old one says so.

mod support;
use support::{Kernel, plain};

/// Runs cells that must all succeed.
async fn run(kernel: &mut Kernel, cells: &[&str]) {
    for cell in cells {
        kernel.run(cell).await.ok();
    }
}

/// The traceback of a cell that must fail to compile.
async fn refused(kernel: &mut Kernel, cell: &str) -> String {
    let ran = kernel.run(cell).await;
    assert_eq!(ran.error().0, "CompileError", "{ran:#?}");
    plain(ran.error().2)
}

#[tokio::test]
async fn old_values_stay_readable_wherever_they_are() {
    let mut kernel = Kernel::start().await;
    let old = "#[derive(Debug, Clone)]\nstruct P { a: u64 }\n#[derive(Debug)]\nenum E { A(P), B }\n\
               #[derive(Debug)]\nstruct G<T> { inner: T }\ntrait Say { fn say(&self) -> String; }\n\
               impl Say for P { fn say(&self) -> String { format!(\"old {}\", self.a) } }";
    let values = "let list = vec![P { a: 1 }];\nlet e = (E::A(P { a: 2 }), E::B);\n\
                  let g = G { inner: Some(P { a: 3 }) };\nlet said: Box<dyn Say> = Box::new(P { a: 4 });\n\
                  let call: Box<dyn Fn() -> P> = Box::new(|| P { a: 5 });";
    let new = "#[derive(Debug, Clone)]\nstruct P { a: String, b: f32 }\n#[derive(Debug)]\nenum E { B(P), C }\n\
               #[derive(Debug)]\nstruct G<T> { outer: T }\ntrait Say { fn say(&self, loud: bool) -> u8; }";
    run(&mut kernel, &[old, values, new]).await;
    let shown = "format!(\"{list:?} {e:?} {g:?} {} {:?}\", said.say(), call())";
    let expected = "\"[P { a: 1 }] (A(P { a: 2 }), B) G { inner: Some(P { a: 3 }) } old 4 P { a: 5 }\"";
    // The old trait's method is there because the old trait is what `said` is made of.
    let ran = kernel.run(&format!("{{ use cell_1::Say as _; {shown} }}")).await;
    assert_eq!(ran.result(), expected);
    for (cell, name) in [
        ("let p: &P = &list[0];", "list"),
        ("let same: E = e.1;", "e"),
        ("g.outer", "g"),
        ("let new: Box<dyn Say> = said;", "said"),
        ("let new: P = call();", "call"),
    ] {
        let text = refused(&mut kernel, cell).await;
        assert!(text.contains(&format!("`{name}` was made before its type was redefined")), "{cell}\n{text}");
    }
}

#[tokio::test]
async fn functions_structs_and_methods_that_mean_the_old_type_say_so() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "struct P { a: u64 }\nstruct Apart;",
        "impl P { fn twice(&self) -> u64 { 2 * self.a } }",
        "fn read(p: &P) -> u64 { p.a }",
        "struct Outer { p: P, other: Apart }",
        "struct P { a: u64, b: u64 }",
        "let p = P { a: 1, b: 2 };",
    ];
    run(&mut kernel, &cells).await;
    let text = refused(&mut kernel, "read(&p)").await;
    assert!(text.contains("`read` was defined before `P` was redefined"), "{text}");
    assert!(!text.contains("Apart` was"), "{text}");
    let text = refused(&mut kernel, "Outer { p, other: Apart }.p.b").await;
    assert!(text.contains("`Outer` was defined before `P` was redefined"), "{text}");
    let text = refused(&mut kernel, "p.twice()").await;
    assert!(text.contains("`twice` belongs to `P` as it was before"), "{text}");
    // And running their cells again is all it takes.
    run(&mut kernel, &cells[1..4]).await;
    run(&mut kernel, &["let p = P { a: 1, b: 2 };"]).await;
    assert_eq!(kernel.run("(read(&p), p.twice(), Outer { p, other: Apart }.p.b)").await.result(), "(1, 2, 2)");
}

#[tokio::test]
async fn constants_statics_aliases_modules_macros_and_imports_are_replaced() {
    let mut kernel = Kernel::start().await;
    let first = "const N: u8 = 1;\nstatic S: u8 = 1;\ntype T = u8;\nmod m { pub fn f() -> u8 { 1 } }\n\
                 macro_rules! mac { () => { 1u8 } }\nfn f() -> u8 { 1 }\nfn g() -> u8 { f() }";
    let second = "const N: u16 = 2;\nstatic S: u16 = 2;\ntype T = u16;\nmod m { pub fn f() -> u16 { 2 } }\n\
                  macro_rules! mac { () => { 2u16 } }\nfn f() -> u16 { 2 }";
    let all = "(N as u32, S as u32, std::mem::size_of::<T>(), m::f() as u32, mac!() as u32, f() as u32, g())";
    run(&mut kernel, &[first]).await;
    assert_eq!(kernel.run(all).await.result(), "(1, 1, 1, 1, 1, 1, 1)");
    run(&mut kernel, &[second]).await;
    // `g` was compiled with the old `f`, and keeps it.
    assert_eq!(kernel.run(all).await.result(), "(2, 2, 2, 2, 2, 2, 1)");
    // A name may come to mean something of another kind.
    run(&mut kernel, &["struct Map;", "use std::collections::HashMap as Map;"]).await;
    assert_eq!(kernel.run("Map::<u8, u8>::new().len()").await.result(), "0");
    run(&mut kernel, &["#[derive(Debug)]\nstruct Map;", "fn N() -> u8 { 9 }"]).await;
    assert_eq!(kernel.run("(Map, N())").await.result(), "(Map, 9)");
}

#[tokio::test]
async fn a_redefinition_that_does_not_compile_changes_nothing() {
    let mut kernel = Kernel::start().await;
    run(&mut kernel, &["#[derive(Debug)]\nstruct P { a: u8 }\nlet p = P { a: 1 };"]).await;
    refused(&mut kernel, "#[derive(Debug)]\nstruct P { a: NoSuchType }").await;
    assert_eq!(kernel.run("let q: P = p;\nq").await.result(), "P { a: 1 }");
    // An item that compiles, in a cell whose statements do not, is not kept either.
    refused(&mut kernel, "#[derive(Debug)]\nstruct P { b: u8 }\nlet x: u8 = \"no\";").await;
    assert_eq!(kernel.run("P { a: 2 }").await.result(), "P { a: 2 }");
}

#[tokio::test]
async fn a_later_impl_brings_back_nothing_that_its_type_is_not_part_of() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "use std::sync::atomic::*;\n#[derive(Debug)]\nstruct A;\nfn b() -> u8 { 1 }\nfn of(_: &A) -> u8 { 7 }\n\
         static N: AtomicU32 = AtomicU32::new(0);\nfn bump() -> u32 { N.fetch_add(1, Ordering::Relaxed) }",
        "fn b() -> u8 { 2 }",
        "bump();\nbump();",
        "impl A { fn x(&self) -> u8 { b() + of(self) } }",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("(b(), bump(), A.x(), of(&A))").await.result(), "(2, 2, 9, 7)");
}

#[tokio::test]
async fn imports_from_an_old_version_end_with_it() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "#[derive(Debug)]\nenum Op { Add, Sub }\nuse Op::{Add, Sub};\nmod m { pub fn f() -> u8 { 1 } pub fn g() -> u8 { 2 } }\n\
         use m::{f, g};",
        "#[derive(Debug)]\nenum Op { Plus, Sub }\nuse Op::Plus;\nmod m { pub fn g() -> u8 { 3 } }",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("format!(\"{:?} {:?} {}\", Plus, Sub, g())").await.result(), "\"Plus Sub 3\"");
    assert!(refused(&mut kernel, "Add").await.contains("Add"));
    run(&mut kernel, &["struct Op;", "1 + 1"]).await;
    // However deep they lead.
    let cells = [
        "mod deep { pub mod sub { pub fn f() -> u8 { 1 } pub fn gone() -> u8 { 2 } } }\nuse deep::sub::{f, gone};",
        "mod deep { pub mod sub { pub fn f() -> u8 { 3 } } }",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("f()").await.result(), "3");
    assert!(refused(&mut kernel, "gone()").await.contains("gone"));
}

#[tokio::test]
async fn a_function_named_like_a_crate_leaves_the_imports_from_the_crate_alone() {
    let mut kernel = Kernel::start().await;
    run(&mut kernel, &["use csv::Reader;", "fn csv(text: &str) -> usize { text.len() }"]).await;
    let both = "Reader::from_reader(\"a\\n1\\n\".as_bytes()).records().count() + csv(\"ab\")";
    assert_eq!(kernel.run(both).await.result(), "3");
    let cell = "use csv::Reader;\nfn csv(text: &str) -> Reader<&[u8]> { Reader::from_reader(text.as_bytes()) }";
    run(&mut kernel, &[cell]).await;
    assert_eq!(kernel.run("csv(\"a\\n1\\n2\\n\").records().count()").await.result(), "2");
}

#[tokio::test]
async fn items_and_imports_under_conditions_leave_later_cells_alone() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "#[cfg(feature = \"cuda\")]\nfn fast() -> u8 { 1 }\n#[cfg(all(test, unix))]\nmod tests { use super::*; }\n\
         #[cfg(unix)]\nfn name() -> u8 { 2 }\n#[cfg(not(unix))]\nfn name() -> u8 { 3 }\n\
         #[cfg(feature = \"cuda\")]\nuse nowhere::Nothing;",
        "let kept = name();",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("kept + name()").await.result(), "4");
    run(&mut kernel, &["#[cfg(feature = \"cuda\")]\nfn kept() {}"]).await;
    assert_eq!(kernel.run("kept").await.result(), "2");
}

#[tokio::test]
async fn an_impl_finds_its_type_by_a_path_by_an_import_and_behind_dyn() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "mod shapes { pub struct Square(pub f64); }\nuse shapes::Square;\ntrait Say { fn say(&self) -> u8; }",
        "impl Square { fn area(&self) -> f64 { self.0 * self.0 } }",
        "impl shapes::Square { fn twice(&self) -> f64 { 2.0 * self.area() } }",
        "impl dyn Say { fn loud(&self) -> u8 { 10 * self.say() } }",
        "impl Say for Square { fn say(&self) -> u8 { self.twice() as u8 } }",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("let said: Box<dyn Say> = Box::new(Square(2.0));\nsaid.loud()").await.result(), "80");
}

#[tokio::test]
async fn a_trait_that_moves_to_a_later_impl_takes_its_impls_along() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "trait Shape { fn area(&self) -> f64; }",
        "struct Square(f64);\nimpl Shape for Square { fn area(&self) -> f64 { self.0 * self.0 } }",
        "impl Shape for f64 { fn area(&self) -> f64 { *self } }",
        "impl Shape for i32 { fn area(&self) -> f64 { 1.0 } }",
        "impl Square { fn side(&self) -> f64 { self.0 } }",
    ];
    run(&mut kernel, &cells).await;
    let all = "(Square(2.0).area(), Square(2.0).side(), 0.5f64.area(), 7i32.area())";
    assert_eq!(kernel.run(all).await.result(), "(4.0, 2.0, 0.5, 1.0)");
}

#[tokio::test]
async fn items_of_any_visibility_and_tests_leave_later_cells_alone() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "pub(crate) fn f() -> u8 { 1 }\nstruct P { pub(self) x: u8 }\nimpl P { pub(super) fn of(x: u8) -> P { P { x } } }",
        "fn add(a: i32) -> i32 { a }\n#[cfg(test)]\nmod tests { use super::*; #[test] fn t() { add(1); } }\n#[test]\nfn t() {}\n\
         #[cfg(all(test, unix))]\nfn u() {}",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("(f(), P::of(2).x, add(3))").await.result(), "(1, 2, 3)");
}

#[tokio::test]
async fn functions_of_other_languages_and_statics_of_threads_are_items() {
    let mut kernel = Kernel::start().await;
    let cells = [
        "unsafe extern \"C\" { fn getpid() -> i32; safe static environ: *const u8; }\nlet own = unsafe { getpid() };",
        "thread_local! {\n    /// Of this thread.\n    static N: std::cell::Cell<u32> = const { std::cell::Cell::new(5) };\n}",
        "fn next() -> u32 { N.set(N.get() + 1); N.get() }\nnext();",
    ];
    run(&mut kernel, &cells).await;
    assert_eq!(kernel.run("(own == unsafe { getpid() }, next(), N.get())").await.result(), "(true, 7, 7)");
    assert_eq!(kernel.run("environ.is_null()").await.result(), "false");
}

#[tokio::test]
async fn a_function_or_constant_takes_the_place_of_a_variable() {
    let mut kernel = Kernel::start().await;
    run(&mut kernel, &["let f = 1; let K = 2; let m = 3;", "fn f() -> u8 { 4 }\nconst K: u8 = 5;\nmod m {}"]).await;
    assert_eq!(kernel.run("(f(), K, m)").await.result(), "(4, 5, 3)");
}

/// By its type a compiled CUDA kernel is found again in a file that sessions share.
#[tokio::test]
async fn types_of_two_sessions_are_never_the_same() {
    let types = "struct A;\nlet (a, b) = { struct B; (std::any::TypeId::of::<A>(), std::any::TypeId::of::<B>()) };";
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let mut kernel = Kernel::start().await;
        run(&mut kernel, &[types]).await;
        for id in ["a", "b"] {
            let id = kernel.run(&format!("format!(\"{{{id}:?}}\")")).await.result().to_string();
            assert!(id.contains("TypeId") && seen.insert(id.clone()), "{id} in {seen:?}");
        }
    }
}
