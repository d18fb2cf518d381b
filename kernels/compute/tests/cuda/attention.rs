//! Softmax attention's kernels, run on the CPU, against the reference in f64.

use crate::emulator::{Emulated, Grid};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use kernels::softmax_attention::cuda::backward::Of;
use kernels::softmax_attention::cuda::plan::{PLANES, Plan, ROWS};
use kernels::softmax_attention::cuda::{LOG2_E, sources};
use kernels::{AttentionOptions, Normaliser, by_reference, softmax_attention};

#[derive(Clone, Copy, Debug)]
struct Problem {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    time: usize,
    source: usize,
    window: Option<usize>,
    cap: Option<f64>,
    slopes: bool,
    sinks: bool,
}

/// Numbers of a known sequence in (−1, 1) that bf16 holds exactly.
fn numbers(seed: usize, count: usize) -> Vec<f64> {
    let mut state = seed as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64 / (1u64 << 24) as f64) * 2.0 - 1.0
    };
    (0..count).map(|_| bf16::from_f64(next()).to_f64()).collect()
}

fn halves(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect()
}

fn singles(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
}

fn from_halves(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
}

fn from_singles(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
}

/// As many bytes as `numbers` take, all of them NaN.
fn unwritten(numbers: usize, bytes: usize) -> Vec<u8> {
    vec![0xff; numbers * bytes]
}

fn tensor(values: &[f64], shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex().autodiff(), DType::F64))
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    // Relative to the largest: what rounding of inputs to 16 bits leaves is of that size.
    let size = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * size, "{what}[{i}]: {f}, expected {e} (largest {size})");
    }
}

/// Every output and every gradient of `problem` with the kernels of `plan`.
fn check(width: usize, value_width: usize, problems: &[Problem]) {
    let mut plans: Vec<(Plan, Emulated, Emulated, Emulated, Vec<(Of, Emulated)>)> = Vec::new();
    for &problem in problems {
        let plan = Plan {
            width,
            value_width,
            window: problem.window.is_some(),
            softcap: problem.cap.is_some(),
            slopes: problem.slopes,
            sinks: problem.sinks,
        };
        if !plans.iter().any(|(p, ..)| *p == plan) {
            let of = if plan.split_gradients() { vec![Of::Key, Of::Value] } else { vec![Of::KeyAndValue] };
            plans.push((
                plan,
                Emulated::compile(&sources::forward(plan)),
                Emulated::compile(&sources::delta(plan)),
                Emulated::compile(&sources::query_grad(plan)),
                of.into_iter().map(|of| (of, Emulated::compile(&sources::key_value_grad(plan, of)))).collect(),
            ));
        }
        let (_, forward, delta, query_grad, key_value_grad) = plans.iter().find(|(p, ..)| *p == plan).unwrap();
        check_problem(plan, problem, forward, delta, query_grad, key_value_grad);
    }
}

fn check_problem(
    plan: Plan,
    problem: Problem,
    forward: &Emulated,
    delta: &Emulated,
    query_grad: &Emulated,
    key_value_grad: &[(Of, Emulated)],
) {
    let Problem { batch, heads, kv_heads, time, source, window, cap, .. } = problem;
    let (d, dv) = (plan.width, plan.value_width);
    let scale = 1.7 / (d as f64).sqrt();
    let q = numbers(1, batch * heads * time * d);
    let k = numbers(2, batch * kv_heads * source * d);
    let v = numbers(3, batch * kv_heads * source * dv);
    let out_grad = numbers(4, batch * heads * time * dv);
    let slopes: Vec<f64> = (0..heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect();
    let sinks: Vec<f64> = (0..heads).map(|h| h as f64 - 0.5).collect();

    // The reference, in f64.
    let tracked = |values: &[f64], shape| tensor(values, shape).require_grad();
    let tq = tracked(&q, [batch, heads, time, d]);
    let tk = tracked(&k, [batch, kv_heads, source, d]);
    let tv = tracked(&v, [batch, kv_heads, source, dv]);
    let tsink = tracked(&sinks, [1, heads, 1, 1]);
    let options = AttentionOptions {
        window,
        softcap: cap,
        slopes: problem.slopes.then(|| slopes.clone()),
        normaliser: Normaliser::Softmax { sink: problem.sinks.then(|| tsink.clone()) },
        ..AttentionOptions::from(scale)
    };
    let expected = by_reference(|| softmax_attention(tq.clone(), tk.clone(), tv.clone(), options));
    let gradients = (expected.clone() * tensor(&out_grad, [batch, heads, time, dv])).sum().backward();
    let vec = |x: Tensor<4>| x.into_data().iter::<f64>().collect::<Vec<f64>>();

    let grid = |rows: usize, heads: usize| Grid {
        blocks: [(rows as u32).div_ceil(ROWS), heads as u32, batch as u32],
        threads: [32, PLANES, 1],
    };
    let floats = [(scale * LOG2_E as f64) as f32, cap.map_or(0.0, |c| (c * LOG2_E as f64) as f32), scale as f32];
    let integers = |heads: usize| [time as u32, source as u32, heads as u32, window.unwrap_or(0) as u32];
    let rows = batch * heads * time;
    let what = |name: &str| format!("{name} of {problem:?}, widths {d} and {dv}");

    let mut buffers = vec![
        halves(&q), halves(&k), halves(&v), singles(&slopes), singles(&sinks),
        unwritten(rows * dv, 2), unwritten(rows, 4),
    ];
    forward.run(&grid(time, heads), &mut buffers, &floats[..2], &integers(kv_heads));
    let (log_sum, out) = (buffers.pop().unwrap(), buffers.pop().unwrap());
    assert_close(&what("the output"), &from_halves(&out), &vec(expected.inner()), 0.01);

    let mut buffers = vec![
        out, halves(&out_grad), log_sum.clone(), singles(&sinks), unwritten(rows, 4), unwritten(rows, 4),
    ];
    let planes = Grid { blocks: [(rows as u32).div_ceil(PLANES), 1, 1], threads: [32, PLANES, 1] };
    delta.run(&planes, &mut buffers, &[], &[rows as u32, heads as u32, time as u32]);
    let (sink_grad, deltas) = (buffers.pop().unwrap(), buffers.pop().unwrap());
    if problem.sinks {
        let mut by_head = vec![0.0; heads];
        for (row, grad) in from_singles(&sink_grad).iter().enumerate() {
            by_head[row / time % heads] += grad;
        }
        assert_close(&what("the sinks' gradient"), &by_head, &vec(tsink.grad(&gradients).unwrap()), 0.02);
    }

    let inputs = [halves(&q), halves(&k), halves(&v), singles(&slopes), halves(&out_grad), log_sum, deltas];
    let mut buffers = inputs.to_vec();
    buffers.push(unwritten(rows * d, 2));
    query_grad.run(&grid(time, heads), &mut buffers, &floats, &integers(kv_heads));
    let found = from_halves(&buffers[7]);
    assert_close(&what("the queries' gradient"), &found, &vec(tq.grad(&gradients).unwrap()), 0.02);

    for (of, kernel) in key_value_grad {
        let mut buffers = inputs.to_vec();
        buffers.push(unwritten(batch * kv_heads * source * d, 2));
        buffers.push(unwritten(batch * kv_heads * source * dv, 2));
        kernel.run(&grid(source, kv_heads), &mut buffers, &floats, &integers(heads));
        if *of != Of::Value {
            let found = from_halves(&buffers[7]);
            assert_close(&what("the keys' gradient"), &found, &vec(tk.grad(&gradients).unwrap()), 0.02);
        }
        if *of != Of::Key {
            let found = from_halves(&buffers[8]);
            assert_close(&what("the values' gradient"), &found, &vec(tv.grad(&gradients).unwrap()), 0.02);
        }
    }
}

const PLAIN: Problem = Problem {
    batch: 1,
    heads: 2,
    kv_heads: 1,
    time: 75,
    source: 75,
    window: None,
    cap: None,
    slopes: false,
    sinks: false,
};

#[test]
fn plain_attention_of_odd_lengths() {
    check(16, 16, &[
        PLAIN,
        Problem { time: 1, source: 1, ..PLAIN },
        Problem { time: 1, source: 150, ..PLAIN },
        Problem { time: 63, source: 63, batch: 2, heads: 4, kv_heads: 2, ..PLAIN },
        Problem { time: 70, source: 133, ..PLAIN },
        Problem { time: 200, source: 200, kv_heads: 2, ..PLAIN },
    ]);
}

const EVERYTHING: Problem =
    Problem { window: Some(40), cap: Some(1.5), slopes: true, sinks: true, ..PLAIN };

#[test]
fn a_window_a_soft_cap_slopes_and_sinks() {
    check(16, 16, &[
        EVERYTHING,
        Problem { window: Some(1), time: 63, source: 63, ..EVERYTHING },
        Problem { window: Some(3), time: 70, source: 200, batch: 2, heads: 4, kv_heads: 2, ..EVERYTHING },
        Problem { window: Some(500), time: 130, source: 130, ..EVERYTHING },
        Problem { window: Some(100), time: 1, source: 300, ..EVERYTHING },
    ]);
    // A window that leaves whole blocks of keys unseen: their gradients are zero, not what memory held.
    check(16, 16, &[Problem { window: Some(5), time: 3, source: 200, ..PLAIN }]);
}

#[test]
fn widths_that_fill_no_tile_and_values_wider_than_keys() {
    check(60, 100, &[PLAIN, Problem { time: 130, source: 140, kv_heads: 2, ..PLAIN }]);
}

#[test]
fn the_widest_heads_sum_their_gradients_in_two_kernels() {
    check(256, 256, &[Problem { heads: 1, ..PLAIN }]);
}
