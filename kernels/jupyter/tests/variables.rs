//! Variables, items and types from cell to cell.

mod support;
use support::{Kernel, plain};

#[tokio::test]
async fn a_tensor_made_in_one_cell_and_differentiated_in_another_gives_the_gradient_of_one_cell() {
    let mut kernel = Kernel::start().await;
    let setup = "use attention::prelude::*;\nuse burn::tensor::TensorData as Data;";
    let device = "let device = attention::burn::tensor::Device::flex().autodiff();";
    let make = "let x = Tensor::<2>::from_data(Data::from([[0.5f32, -1.5], [2.0, 3.0]]), &device).require_grad();\n\
                let w = Tensor::<2>::from_data(Data::from([[1.0f32, 0.25], [-0.75, 2.0]]), &device);";
    let forward = "let loss = x.clone().matmul(w.clone()).tanh().sum();";
    let backward =
        "let grads = loss.backward();\nlet g: Vec<f32> = x.grad(&grads).unwrap().into_data().to_vec().unwrap();";
    kernel.run(setup).await.ok();
    for cell in [device, make, forward, backward] {
        kernel.run(cell).await.ok();
    }
    let apart = kernel.run("g").await.result().to_string();
    let together = format!("{{\n{device}\n{make}\n{forward}\n{backward}\ng\n}}");
    assert_eq!(kernel.run(&together).await.result(), apart);
    // And it is the gradient: (1 - tanh²(x w)) wᵀ by hand for the first element.
    let values: Vec<f32> = apart.trim_matches(['[', ']']).split(", ").map(|v| v.parse().unwrap()).collect();
    let (a, b) = (0.5 + 1.5 * 0.75, 0.5 * 0.25 - 1.5 * 2.0f32);
    let expected = (1.0 - f32::tanh(a).powi(2)) * 1.0 + (1.0 - f32::tanh(b).powi(2)) * 0.25;
    assert!((values[0] - expected).abs() < 1e-5, "{values:?} should begin with {expected}");
}

#[tokio::test]
async fn moved_and_shadowed_variables_follow_rust() {
    let mut kernel = Kernel::start().await;
    kernel.run("let a = vec![1, 2]; let b = String::from(\"b\"); let n = 5;").await.ok();
    kernel.run("drop(a);").await.ok();
    let gone = kernel.run("a.len()").await;
    assert!(gone.error().1.contains("cannot find value `a`"), "{gone:#?}");
    kernel.run("let b = b + \"c\";").await.ok();
    kernel.run("let b = b.len();").await.ok();
    assert_eq!(kernel.run("(b, n)").await.result(), "(2, 5)");
    assert_eq!(kernel.run("println!(\"{n:>3}\"); n + 1").await.ok().stdout(), "  5\n");
    let fixed = kernel.run("n += 1;").await;
    assert!(fixed.error().1.contains("E0384") || fixed.error().1.contains("E0594"), "{fixed:#?}");
    kernel.run("let mut m = n;").await.ok();
    kernel.run("m += 1;").await.ok();
    assert_eq!(kernel.run("m").await.result(), "6");
}

#[tokio::test]
async fn a_variable_that_is_moved_and_set_again_is_kept() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut v = vec![1];").await.ok();
    kernel.run("for i in 0..2 { v = v.into_iter().chain([i]).collect(); }").await.ok();
    assert_eq!(kernel.run("v").await.result(), "[1, 0, 1]");
}

#[tokio::test]
async fn patterns_references_and_trait_objects_are_kept_with_their_types() {
    let mut kernel = Kernel::start().await;
    kernel.run("let (x, [y, _z]) = (1u8, [2.5f32, 3.0]); let s = \"abc\"; let f: Box<dyn Fn(i32) -> i32> = Box::new(move |v| v + x as i32);").await.ok();
    assert_eq!(kernel.run("(x, y, s, f(1))").await.result(), "(1, 2.5, \"abc\", 2)");
    let vars = kernel.run(":vars").await;
    assert!(vars.table().contains("&'static str"), "{vars:#?}");
}

#[tokio::test]
async fn closures_and_borrows_are_refused_by_name() {
    let mut kernel = Kernel::start().await;
    let closure = kernel.run("let add = |x: i32| x + 1;").await;
    assert!(closure.error().1.contains("`add`") && closure.error().1.contains("closure"), "{closure:#?}");
    let borrow = kernel.run("let owned = vec![1];\nlet view = owned.iter();").await;
    assert!(borrow.error().1.contains("`view`"), "{borrow:#?}");
    kernel.run("{ let add = |x: i32| x + 1; add(1) }").await.ok();
}

#[tokio::test]
async fn a_redefined_struct_is_a_new_type_and_old_values_keep_the_old_one() {
    let mut kernel = Kernel::start().await;
    kernel.run("#[derive(Debug, Clone)]\nstruct P { a: u64, b: u64, c: u64 }").await.ok();
    kernel.run("let p = P { a: 4096, b: 7, c: 9 };").await.ok();
    kernel.run("#[derive(Debug, Clone)]\nstruct P { a: u32, b: f64, c: u8 }").await.ok();
    assert_eq!(kernel.run("p").await.result(), "P { a: 4096, b: 7, c: 9 }");
    let mixed = kernel.run("let q: P = p.clone();").await;
    let (_, _, traceback) = mixed.error();
    assert!(plain(traceback).contains("`p` was made before its type was redefined"), "{traceback}");
    kernel.run("let q = P { a: 1, b: 0.5, c: 2 };").await.ok();
    assert_eq!(kernel.run("(q.b, p.b)").await.result(), "(0.5, 7)");
}

#[tokio::test]
async fn an_impl_in_a_later_cell_belongs_to_its_type() {
    let mut kernel = Kernel::start().await;
    kernel.run("struct Point { x: f32, y: f32 }").await.ok();
    kernel.run("impl Point {\n    fn norm(&self) -> f32 { (self.x * self.x + self.y * self.y).sqrt() }\n}").await.ok();
    kernel.run("impl std::fmt::Debug for Point {\n    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result { write!(f, \"({})\", self.norm()) }\n}").await.ok();
    kernel.run("let point = Point { x: 3.0, y: 4.0 };").await.ok();
    assert_eq!(kernel.run("point").await.result(), "(5)");
    // A new version replaces the old one instead of standing beside it.
    kernel.run("impl Point {\n    fn norm(&self) -> f32 { 1.0 }\n}").await.ok();
    assert_eq!(kernel.run("Point { x: 3.0, y: 4.0 }").await.result(), "(1)");
}

#[tokio::test]
async fn a_module_with_burns_derive_can_be_defined_and_used() {
    let mut kernel = Kernel::start().await;
    kernel.run("use attention::prelude::*;\nuse burn::nn::{Linear, LinearConfig};").await.ok();
    kernel.run("#[derive(burn::module::Module, Debug)]\nstruct Twice { inner: Linear }\n\
                impl Twice {\n    fn new(device: &Device) -> Self { Self { inner: LinearConfig::new(4, 4).init(device) } }\n\
                fn forward(&self, x: Tensor<2>) -> Tensor<2> { self.inner.forward(self.inner.forward(x)) }\n}").await.ok();
    kernel.run("let device = burn::tensor::Device::flex();\nlet twice = Twice::new(&device);").await.ok();
    let shape = kernel.run("twice.forward(Tensor::ones([3, 4], &device)).dims()").await;
    assert_eq!(shape.result(), "[3, 4]");
    assert_eq!(kernel.run("twice.num_params()").await.result(), "20");
}

#[tokio::test]
async fn statics_macros_uses_and_functions_have_one_identity_in_all_cells() {
    let mut kernel = Kernel::start().await;
    kernel.run("use std::sync::atomic::{AtomicU32, Ordering};\nstatic COUNT: AtomicU32 = AtomicU32::new(0);\nfn next() -> u32 { COUNT.fetch_add(1, Ordering::Relaxed) }\nmacro_rules! twice { ($e:expr) => { $e + $e } }").await.ok();
    assert_eq!(kernel.run("next()").await.result(), "0");
    assert_eq!(kernel.run("next()").await.result(), "1");
    assert_eq!(kernel.run("COUNT.load(Ordering::Relaxed) + twice!(10)").await.result(), "22");
    let bad = kernel.run("use std::collections::NoSuchMap;").await;
    assert!(bad.error().1.contains("NoSuchMap"), "{bad:#?}");
    kernel.run("use std::collections::HashMap;").await.ok();
    assert_eq!(kernel.run("HashMap::<u8, u8>::new().len()").await.result(), "0");
}

#[tokio::test]
async fn names_in_upper_case_and_in_any_script_are_kept() {
    let mut kernel = Kernel::start().await;
    kernel.run("let (Q, mut K) = (1, 2);\nlet 数据 = 3;").await.ok();
    assert_eq!(kernel.run("K += 10;\n(Q, K, 数据)").await.result(), "(1, 12, 3)");
}

#[tokio::test]
async fn cells_of_the_standard_library_and_long_types_are_kept() {
    let mut kernel = Kernel::start().await;
    kernel.run("let shared = std::rc::Rc::new(std::cell::RefCell::new(1));").await.ok();
    let long = "let m = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashMap::<String, Vec<std::time::Duration>>::new()));\n\
                let n = vec![(std::num::Wrapping(1u8), std::collections::BTreeMap::<std::path::PathBuf, std::collections::BTreeSet<std::ffi::OsString>>::new())];";
    kernel.run(long).await.ok();
    let ran =
        kernel.run("*shared.borrow_mut() += 1;\n(shared.borrow().clone(), m.lock().unwrap().len(), n.len())").await;
    assert_eq!(ran.result(), "(2, 0, 1)");
}

#[tokio::test]
async fn a_cell_that_returns_early_leaves_what_it_would_have_shadowed() {
    let mut kernel = Kernel::start().await;
    kernel.run("let x = 1;").await.ok();
    kernel.run("if x > 0 { return Ok(()); }\nlet x = 2;").await.ok();
    assert_eq!(kernel.run("x").await.result(), "1");
    // With its own type, and as immutable as it was.
    kernel.run("if x > 0 { return Ok(()); }\nlet mut x = \"two\";").await.ok();
    assert_eq!(kernel.run("x + 1").await.result(), "2");
    let fixed = kernel.run("x += 1;").await;
    assert!(fixed.error().1.contains("E0384") || fixed.error().1.contains("E0594"), "{fixed:#?}");
}

#[tokio::test]
async fn what_a_cell_moves_is_kept_where_it_is_left_before_that_and_named_where_it_is_lost() {
    let mut kernel = Kernel::start().await;
    kernel.run("let mut model = vec![1];\nlet name = String::from(\"n\");\nlet other = vec![2];").await.ok();
    let failed = kernel.run("std::fs::read(\"/missing\")?;\ndrop(model);\n\"x\".parse::<u8>()?;").await;
    assert!(failed.error().1.contains("No such file") && !failed.error().2.contains("lost"), "{failed:#?}");
    let cell = "let first = if model[0] == 1 { return Ok(()) } else { 2 };\ndrop((model, name));";
    kernel.run(cell).await.ok();
    // Between the moves of two variables only the second is there.
    let cell = "std::mem::drop(name);\nErr::<(), _>(\"between\")?;\ndrop(model);";
    let failed = kernel.run(cell).await;
    assert!(failed.error().2.contains("what the cell moves is lost: `name`"), "{failed:#?}");
    assert_eq!(kernel.run("model.len()").await.result(), "1");
    let cell = "for _ in 0..9 {\n    model = model.into_iter().map(|x| x + 1).collect();\n    \
                if model[0] == 5 { Err::<(), _>(\"enough\")?; }\n}";
    assert_eq!(kernel.run(cell).await.error().1, "enough");
    assert_eq!(kernel.run("model").await.result(), "[5]");
    // A panic leaves no way to put it back.
    let failed = kernel.run("assert!(other.is_empty());\ndrop(other);").await;
    assert!(failed.error().2.contains("what the cell moves is lost: `other`"), "{failed:#?}");
    assert_eq!(kernel.run("model").await.result(), "[5]");
}

#[tokio::test]
async fn a_macro_names_what_stands_before_it_in_its_cell() {
    let mut kernel = Kernel::start().await;
    kernel.run("let older = vec![5];").await.ok();
    let cell = "let xs = [1, 2];\nmacro_rules! at { ($i:expr) => { xs[$i] + older[0] } }\nat!(1)";
    assert_eq!(kernel.run(cell).await.result(), "7");
    kernel.run("#[macro_export]\nmacro_rules! one { () => { 1 } }\nlet a = one!();").await.ok();
    assert_eq!(kernel.run("one!() + a").await.result(), "2");
}

#[tokio::test]
async fn types_within_the_statements_of_two_cells_are_two_types() {
    let mut kernel = Kernel::start().await;
    kernel.run("let a: Box<dyn std::any::Any> = { struct T(u8); Box::new(T(1)) };").await.ok();
    assert_eq!(kernel.run("{ struct T(u64); a.is::<T>() }").await.result(), "false");
}
