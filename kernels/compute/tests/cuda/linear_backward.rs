//! The gradients of linear attention as they are computed on a GPU, against those of the recurrence in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::linear_attention::cuda::steps::{Decay, Write};
use kernels::{Gates, Implementation, LinearForm, LogDecay, by_reference, linear_attention, trace};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug)]
struct Problem {
    width: usize,
    value_width: usize,
    decay: Decay,
    write: Write,
    /// Whether there is a state to begin with.
    start: bool,
    /// Whether the loss depends on the state at the end.
    end: bool,
}

/// The gradients of every input, by name.
fn gradients(problem: Problem, time: usize, dtype: DType) -> Vec<(&'static str, Vec<f64>)> {
    let Problem { width, value_width, decay, write, start, end } = problem;
    let (batch, heads) = (2, 2);
    let rows = batch * heads * time;
    // As projections give them.
    let (by_row, by_key) = ([batch, time, heads], [batch, time, heads, width]);
    let (by_value, by_state) = ([batch, time, heads, value_width], [batch, heads, width, value_width]);
    let q = leaf(&numbers(1, rows * width), by_key, dtype);
    // Keys of length below one, as a layer makes them.
    let scaled = numbers(2, rows * width).into_iter().map(|x| x / (width as f64).sqrt());
    let k = leaf(&rounded(scaled), by_key, dtype);
    let v = leaf(&numbers(3, rows * value_width), by_value, dtype);
    let fading = |count: usize| {
        let mut g = rounded(numbers(4, count).iter().map(|x| -0.3 * (x.abs() + 0.01)));
        g[count / 3] = -300.0; // wipes the state out
        g
    };
    let positive = |count: usize| -> Vec<f64> { numbers(5, count).iter().map(|x| x.abs()).collect() };
    let of_decay = match decay {
        Decay::None => LogDecay::None,
        Decay::Head => LogDecay::Head(leaf(&fading(rows), by_row, dtype)),
        Decay::Channel => LogDecay::Channel(leaf(&fading(rows * width), by_key, dtype)),
    };
    let of_gates = match write {
        Write::Add => Gates::Add,
        Write::Beta => Gates::Beta(leaf(&positive(rows), by_row, dtype)),
        Write::EraseWrite => Gates::EraseWrite {
            erase: leaf(&positive(rows * width), by_key, dtype),
            write: leaf(&numbers(6, rows * value_width), by_value, dtype),
        },
    };
    let states = batch * heads * width * value_width;
    let state = leaf(&numbers(7, states), by_state, dtype);
    let given = start.then(|| state.clone());
    let log_decay = match &of_decay {
        LogDecay::None => LogDecay::None,
        LogDecay::Head(g) => LogDecay::Head(g.clone().swap_dims(1, 2)),
        LogDecay::Channel(g) => LogDecay::Channel(g.clone().swap_dims(1, 2)),
    };
    let gates = match &of_gates {
        Gates::Add => Gates::Add,
        Gates::Beta(beta) => Gates::Beta(beta.clone().swap_dims(1, 2)),
        Gates::EraseWrite { erase, write } => {
            Gates::EraseWrite { erase: erase.clone().swap_dims(1, 2), write: write.clone().swap_dims(1, 2) }
        }
    };
    let [queries, keys, worth] = [&q, &k, &v].map(|x| x.clone().swap_dims(1, 2));
    let (out, last) = linear_attention(queries, keys, worth, &log_decay, &gates, given, LinearForm::Recurrent);
    let mut loss = (out.swap_dims(1, 2) * constant(&numbers(9, rows * value_width), by_value, dtype)).sum();
    if end {
        loss = loss + (last * constant(&numbers(8, states), by_state, dtype)).sum();
    }
    let all = loss.backward();
    let mut found = vec![
        ("queries", values(q.grad(&all).unwrap())),
        ("keys", values(k.grad(&all).unwrap())),
        ("values", values(v.grad(&all).unwrap())),
    ];
    match of_decay {
        LogDecay::None => {}
        LogDecay::Head(g) => found.push(("decays", values(g.grad(&all).unwrap()))),
        LogDecay::Channel(g) => found.push(("decays", values(g.grad(&all).unwrap()))),
    }
    match of_gates {
        Gates::Add => {}
        Gates::Beta(beta) => found.push(("β", values(beta.grad(&all).unwrap()))),
        Gates::EraseWrite { erase, write } => {
            found.push(("erase gates", values(erase.grad(&all).unwrap())));
            found.push(("write gates", values(write.grad(&all).unwrap())));
        }
    }
    if start {
        found.push(("the first state", values(state.grad(&all).unwrap())));
    }
    found
}

fn check(problem: Problem, times: &[usize], dtype: DType) {
    let (emulator, names) = (emulator(), Arc::new(Mutex::new(BTreeSet::new())));
    let named = names.clone();
    let emulator: Emulator = Arc::new(move |kernels, buffers| {
        named.lock().unwrap().insert(kernels[0].name.split(' ').next().unwrap().to_string());
        emulator(kernels, buffers)
    });
    for &time in times {
        let expected = by_reference(|| gradients(problem, time, DType::F64));
        let (found, ran) = trace(|| emulated(emulator.clone(), || gradients(problem, time, dtype)));
        assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
        let tolerance = match dtype {
            DType::F32 => 2e-5,
            // Products of 16-bit tiles.
            _ if in_tiles(problem) => 0.02,
            _ => 0.005,
        };
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let what = format!("the gradient of {name}, {time} tokens, {problem:?}, {dtype:?}");
            assert_close(&what, found, expected, tolerance);
        }
    }
    let on_tensor_cores = names.lock().unwrap().contains("delta_rule_token_grads");
    assert_eq!(on_tensor_cores, in_tiles(problem), "{problem:?}: {names:?}");
}

fn in_tiles(problem: Problem) -> bool {
    [64, 128].contains(&problem.width) && problem.decay != Decay::Channel && problem.write != Write::EraseWrite
}

#[test]
fn gradients_of_the_gated_delta_rule() {
    let problem =
        Problem { width: 36, value_width: 40, decay: Decay::Head, write: Write::Beta, start: true, end: true };
    check(problem, &[1, 75], DType::BF16);
    check(Problem { end: false, width: 8, value_width: 8, ..problem }, &[40], DType::F32);
}

#[test]
fn gradients_of_the_gated_delta_rule_on_tensor_cores() {
    let problem =
        Problem { width: 64, value_width: 68, decay: Decay::Head, write: Write::Beta, start: true, end: true };
    check(problem, &[75], DType::BF16);
}

#[test]
fn gradients_of_values_that_add_up_on_tensor_cores() {
    let problem = Problem { width: 64, value_width: 68, decay: Decay::Head, write: Write::Add, start: true, end: true };
    check(problem, &[75], DType::BF16);
}

#[test]
#[ignore = "a minute of C++ compilation: cargo test --workspace --test cuda -- --ignored --skip table"]
fn gradients_of_the_delta_rule_on_tensor_cores() {
    let problem =
        Problem { width: 64, value_width: 68, decay: Decay::None, write: Write::Beta, start: false, end: false };
    check(problem, &[16], DType::BF16);
    let wide = Problem { width: 128, value_width: 128, decay: Decay::Head, start: true, end: true, ..problem };
    check(wide, &[75], DType::BF16);
    check(Problem { write: Write::Add, ..problem }, &[16], DType::BF16);
    check(Problem { write: Write::Add, ..wide }, &[75], DType::BF16);
}

#[test]
fn gradients_by_channel() {
    let problem = Problem {
        width: 68,
        value_width: 20,
        decay: Decay::Channel,
        write: Write::EraseWrite,
        start: true,
        end: false,
    };
    check(problem, &[33], DType::F32);
    check(Problem { write: Write::Beta, width: 16, end: true, start: false, ..problem }, &[75], DType::F32);
}

#[test]
fn gradients_of_values_that_add_up() {
    let problem = Problem { width: 8, value_width: 32, decay: Decay::None, write: Write::Add, start: false, end: true };
    check(problem, &[65], DType::F32);
    check(Problem { decay: Decay::Channel, start: true, ..problem }, &[40], DType::F32);
}
