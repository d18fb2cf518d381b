//! What `cargo lab selftest` does on a GPU.

use crate::emulator::emulator;
use burn::tensor::{DType, Device};
use kernels::cuda::{emulated, operators};
use kernels::selftest::{cases, tolerance};
use kernels::{Because, Implementation};
use std::collections::BTreeSet;

/// Every case of the operators with CUDA kernels that `keep` keeps; the reasons where the reference ran.
fn check(dtype: DType, keep: impl Fn(&str) -> bool) -> BTreeSet<(&'static str, Because)> {
    let emulator = emulator();
    let tolerance = tolerance(dtype, &Device::flex());
    let mut reasons = BTreeSet::new();
    for case in cases().into_iter().filter(|case| operators().any(|o| o == case.operator) && keep(&case.name)) {
        let found = emulated(emulator.clone(), || case.check(&Device::flex(), dtype));
        reasons.extend(found.ran.iter().filter_map(|ran| Some((ran.operator, ran.because?))));
        if !found.ran.iter().any(|ran| ran.implementation == Implementation::Cuda) {
            continue;
        }
        let worst = found.worst();
        println!("{} ({}): {worst:?}", case.operator, case.name);
        assert!(worst.relative < tolerance, "{} ({}): {worst:?}", case.operator, case.name);
    }
    reasons
}

#[test]
#[ignore = "compiles a hundred kernels as C++, which takes minutes: cargo test --workspace --test cuda -- --ignored --skip table"]
fn it_passes_in_bf16() {
    let reasons = check(DType::BF16, |_| true);
    let no = |operator, what| (operator, Because::NoKernel(what));
    assert_eq!(
        reasons,
        BTreeSet::from([
            no("adamw", "this dtype; there is one for f32"),
            no("squares", "this dtype; there is one for f32"),
            no("experts", "experts of such a width; there are some for multiples of 8"),
        ])
    );
}

#[test]
#[ignore = "compiles dozens of kernels as C++, which takes minutes: cargo test --workspace --test cuda -- --ignored --skip table"]
fn it_passes_in_f32_and_attention_says_why_it_does_not_run() {
    let reasons = check(DType::F32, |_| true);
    let refused = reasons.iter().filter(|(operator, _)| *operator == "softmax_attention");
    assert!(refused.clone().count() > 0);
    let round = "f32: products on tensor cores would round it to 16 bits";
    assert!(refused.clone().any(|(_, because)| *because == Because::NoKernel(round)), "{reasons:?}");
}
