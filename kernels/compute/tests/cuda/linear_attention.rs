//! Linear attention as it runs on a GPU, against the recurrence in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::{Because, Gates, Implementation, LinearForm, LogDecay, by_reference, linear_attention, trace};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Decay {
    None,
    Head,
    Channel,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::enum_variant_names)] // as the library calls it
enum Write {
    Add,
    Beta,
    EraseWrite,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    time: usize,
    width: usize,
    value_width: usize,
    decay: Decay,
    write: Write,
    start: bool,
    /// Keys that look alike, which is what makes the inverse of a chunk hard, and one decay that is this.
    hard: Option<f64>,
}

impl Call {
    /// The output and the state.
    fn results(&self, dtype: DType, track: bool) -> [Vec<f64>; 2] {
        let &Call { time, width, value_width, decay, write, start, hard } = self;
        let (batch, heads) = (2, 2);
        // As projections give them.
        let by_row = [batch, time, heads];
        let [by_key, by_value] = [width, value_width].map(|last| [batch, time, heads, last]);
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        // Keys of length at most one, as a layer makes them: longer ones make the recurrence explode.
        let k: Vec<f64> = numbers(2, count(&by_key))
            .chunks(width)
            .flat_map(|row| {
                let row: Vec<f64> = row.iter().map(|x| if hard.is_some() { x + 0.5 } else { *x }).collect();
                let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                rounded(row.into_iter().map(move |x| x / length))
            })
            .collect();
        let fading = |seed, count| -> Vec<f64> {
            let mut g = rounded(numbers(seed, count).iter().map(|x| -0.3 * (x.abs() + 0.01)));
            if let Some(wiping) = hard {
                g[count / 3] = wiping;
            }
            g
        };
        let gate = |seed, count| rounded(numbers(seed, count).iter().map(|x| x.abs()));
        let log_decay = match decay {
            Decay::None => LogDecay::None,
            Decay::Head => LogDecay::Head(constant(&fading(4, count(&by_row)), by_row, dtype).swap_dims(1, 2)),
            Decay::Channel => LogDecay::Channel(constant(&fading(4, count(&by_key)), by_key, dtype).swap_dims(1, 2)),
        };
        let gates = match write {
            Write::Add => Gates::Add,
            Write::Beta => Gates::Beta(constant(&gate(5, count(&by_row)), by_row, dtype).swap_dims(1, 2)),
            Write::EraseWrite => Gates::EraseWrite {
                erase: constant(&gate(5, count(&by_key)), by_key, dtype).swap_dims(1, 2),
                write: constant(&numbers(6, count(&by_value)), by_value, dtype).swap_dims(1, 2),
            },
        };
        let state = [batch, heads, width, value_width];
        let state = start.then(|| constant(&numbers(7, count(&state)), state, dtype));
        let q = numbers(1, count(&by_key));
        let q = if track { leaf(&q, by_key, dtype) } else { constant(&q, by_key, dtype) };
        let (k, v) = (constant(&k, by_key, dtype), constant(&numbers(3, count(&by_value)), by_value, dtype));
        let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
        let (out, end) = linear_attention(q, k, v, &log_decay, &gates, state, LinearForm::Recurrent);
        [values(out), values(end)]
    }
}

/// The kernels that ran.
fn check(calls: &[Call], dtype: DType, tolerance: f64) -> BTreeSet<String> {
    let (emulator, names) = (emulator(), Arc::new(Mutex::new(BTreeSet::new())));
    let named = names.clone();
    let emulator: Emulator = Arc::new(move |kernels, buffers| {
        named.lock().unwrap().insert(kernels[0].name.split(' ').next().unwrap().to_string());
        emulator(kernels, buffers)
    });
    for call in calls {
        let expected = by_reference(|| call.results(DType::F64, false));
        let (found, ran) = trace(|| emulated(emulator.clone(), || call.results(dtype, false)));
        assert_eq!(ran[0].implementation, Implementation::Cuda, "{call:?}: {}", ran[0]);
        for (name, (found, expected)) in ["the output", "the state"].iter().zip(found.iter().zip(&expected)) {
            assert_close(&format!("{name} of {call:?}"), found, expected, tolerance);
        }
    }
    let names = names.lock().unwrap();
    names.clone()
}

fn are<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(String::from).into()
}

const STEPS: Call =
    Call { time: 75, width: 16, value_width: 40, decay: Decay::Head, write: Write::Beta, start: true, hard: None };

#[test]
fn gated_delta_rule() {
    for (dtype, tolerance) in [(DType::BF16, 0.005), (DType::F32, 1e-5)] {
        check(&[1, 5, 75].map(|time| Call { time, ..STEPS }), dtype, tolerance);
    }
}

#[test]
fn decay_and_gates_by_channel() {
    let call =
        Call { width: 12, value_width: 20, decay: Decay::Channel, write: Write::EraseWrite, start: false, ..STEPS };
    check(&[call, Call { time: 1, ..call }], DType::BF16, 0.005);
}

#[test]
fn values_that_add_up() {
    let call = Call { width: 8, value_width: 32, decay: Decay::None, write: Write::Add, start: false, ..STEPS };
    check(&[call], DType::BF16, 0.005);
}

const CHUNKS: Call = Call { width: 64, value_width: 68, ..STEPS };

#[test]
fn the_gated_delta_rule_in_chunks() {
    let call = Call { hard: Some(-300.0), ..CHUNKS };
    let calls = [16, 63, 150].map(|time| Call { time, ..call });
    let ran = check(&calls, DType::BF16, 0.02);
    assert_eq!(ran, are(["delta_rule_prepare", "delta_rule_walk"]));
    // Without a decay it is the delta rule of DeltaNet.
    check(&[Call { decay: Decay::None, hard: None, ..call }], DType::BF16, 0.02);
}

#[test]
fn values_that_add_up_in_chunks() {
    let call = Call { write: Write::Add, ..CHUNKS };
    let calls = [
        Call { time: 16, ..call },
        Call { time: 150, hard: Some(-300.0), ..call },
        Call { decay: Decay::None, ..call },
    ];
    assert_eq!(check(&calls, DType::BF16, 0.02), are(["delta_rule_walk"]));
}

#[test]
fn decays_of_channels_in_chunks() {
    let call = Call { decay: Decay::Channel, hard: Some(-300.0), ..CHUNKS };
    let calls = [16, 63, 150].map(|time| Call { time, ..call });
    // One emulator, as they have a kernel in common.
    let all = [&calls[..], &[Call { write: Write::EraseWrite, time: 130, ..call }]].concat();
    assert_eq!(check(&all, DType::BF16, 0.02), are(["channel_prepare", "channel_walk"]));
}

#[test]
fn decays_of_channels_of_values_that_add_up_in_chunks() {
    let call = Call { decay: Decay::Channel, write: Write::Add, start: false, hard: Some(-300.0), ..CHUNKS };
    let calls = [63, 150].map(|time| Call { time, ..call });
    assert_eq!(check(&calls, DType::BF16, 0.02), are(["channel_prepare", "channel_walk"]));
}

#[test]
fn a_decay_that_is_no_number_is_not_lost() {
    let emulator = emulator();
    for (width, value_width, decay) in [(64, 68, Decay::Head), (16, 40, Decay::Head), (64, 68, Decay::Channel)] {
        let call = Call { width, value_width, decay, hard: Some(f64::NAN), ..STEPS };
        let expected = by_reference(|| call.results(DType::F64, false));
        let found = emulated(emulator.clone(), || call.results(DType::BF16, false));
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!(found.is_nan() || !expected.is_nan(), "{found}, expected {expected}, of {call:?}");
        }
        assert!(found.iter().all(|numbers| numbers.iter().any(|x| x.is_nan())), "{call:?}");
    }
}

#[test]
fn where_there_is_no_gradient_the_reference_runs_and_says_so() {
    let call = Call { value_width: 21, ..STEPS };
    let (_, ran) = trace(|| emulated(emulator(), || call.results(DType::BF16, true)));
    let what = "the gradient of this width; there is one for multiples of 4 up to 256";
    assert_eq!((ran[0].implementation, ran[0].because), (Implementation::Reference, Some(Because::NoKernel(what))));
    assert_eq!(ran[0].to_string(), format!("reference: no CUDA kernel for {what}"));
}
