//! Softmax attention's kernels, run on the CPU, against the reference in f64.

use crate::emulator::{Emulated, Grid};
use crate::numbers::*;
use kernels::softmax_attention::cuda::backward::Of;
use kernels::softmax_attention::cuda::launch::Call;
use kernels::softmax_attention::cuda::plan::{PLANES, Plan};
use kernels::softmax_attention::cuda::sources;
use kernels::{AttentionOptions, Normaliser, by_reference, softmax_attention};

/// The kernels of one plan.
struct Kernels {
    plan: Plan,
    forward: Emulated,
    delta: Emulated,
    query_grad: Emulated,
    key_value_grad: Vec<(Of, Emulated)>,
}

impl Kernels {
    fn compile(plan: Plan) -> Self {
        let of = if plan.split_gradients() { vec![Of::Key, Of::Value] } else { vec![Of::KeyAndValue] };
        let key_value_grad = |of| (of, Emulated::compile(&sources::key_value_grad(plan, of)));
        Self {
            plan,
            forward: Emulated::compile(&sources::forward(plan)),
            delta: Emulated::compile(&sources::delta(plan)),
            query_grad: Emulated::compile(&sources::query_grad(plan)),
            key_value_grad: of.into_iter().map(key_value_grad).collect(),
        }
    }
}

/// Every output and every gradient of `calls`, which differ in sizes only.
fn check(calls: &[Call]) {
    let kernels = Kernels::compile(calls[0].plan());
    calls.iter().for_each(|call| check_call(&kernels, call));
}

fn check_call(kernels: &Kernels, call: &Call) {
    assert_eq!(kernels.plan, call.plan());
    let &Call { batch, heads, kv_heads, time, source, width: d, value_width: dv, scale, window, softcap, .. } = call;
    let q = numbers(1, batch * heads * time * d);
    let k = numbers(2, batch * kv_heads * source * d);
    let v = numbers(3, batch * kv_heads * source * dv);
    let out_grad = numbers(4, batch * heads * time * dv);
    let slopes: Vec<f64> = (0..heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect();
    let sinks: Vec<f64> = (0..heads).map(|h| h as f64 - 0.5).collect();

    let tq = tensor(&q, [batch, heads, time, d]).require_grad();
    let tk = tensor(&k, [batch, kv_heads, source, d]).require_grad();
    let tv = tensor(&v, [batch, kv_heads, source, dv]).require_grad();
    let sink = tensor(&sinks, [1, heads, 1, 1]).require_grad();
    let options = AttentionOptions {
        window,
        softcap,
        slopes: call.slopes.then(|| slopes.clone()),
        normaliser: Normaliser::Softmax { sink: call.sinks.then(|| sink.clone()) },
        ..AttentionOptions::from(scale)
    };
    let expected = by_reference(|| softmax_attention(tq.clone(), tk.clone(), tv.clone(), options));
    let gradients = (expected.clone() * tensor(&out_grad, [batch, heads, time, dv])).sum().backward();

    let grid = |blocks: [u32; 3]| Grid { blocks, threads: [32, PLANES, 1] };
    let floats = call.floats();
    let integers = |heads: usize| [time as u32, source as u32, heads as u32, call.window()];
    let rows = batch * heads * time;
    let what = |name: &str| format!("{name} of {call:?}");

    let mut buffers = vec![
        halves(&q),
        halves(&k),
        halves(&v),
        singles(&slopes),
        singles(&sinks),
        unwritten(rows * dv, 2),
        unwritten(rows, 4),
    ];
    kernels.forward.run(&grid(call.blocks(time, heads)), &mut buffers, &floats[..2], &integers(kv_heads));
    let (log_sum, out) = (buffers.pop().unwrap(), buffers.pop().unwrap());
    assert_close(&what("the output"), &from_halves(&out), &values(expected), 0.01);

    let mut buffers =
        vec![out, halves(&out_grad), log_sum.clone(), singles(&sinks), unwritten(rows, 4), unwritten(rows, 4)];
    let planes = [(rows as u32).div_ceil(PLANES), 1, 1];
    kernels.delta.run(&grid(planes), &mut buffers, &[], &[rows as u32, heads as u32, time as u32]);
    let (sink_grad, delta) = (buffers.pop().unwrap(), buffers.pop().unwrap());
    if call.sinks {
        // The gradient is `−p Σ_j dO_j O_j` summed over rows, and its terms cancel: what rounding of O to 16 bits
        // leaves is a share of `p Σ_j |dO_j O_j|`.
        let products: Vec<f64> =
            from_halves(&buffers[0]).iter().zip(from_halves(&buffers[1])).map(|(o, d)| (o * d).abs()).collect();
        let largest = products.chunks(call.value_width).map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
        let (mut by_head, mut sizes) = (vec![0.0; heads], vec![0.0; heads]);
        for (row, (grad, delta)) in from_singles(&sink_grad).iter().zip(from_singles(&delta)).enumerate() {
            by_head[row / time % heads] += grad;
            sizes[row / time % heads] += (grad / delta).abs() * largest;
        }
        for (h, expected) in values(sink.grad(&gradients).unwrap()).into_iter().enumerate() {
            let (found, size) = (by_head[h], sizes[h]);
            let what = what("the sinks' gradient");
            assert!((found - expected).abs() <= 0.01 * size, "{what}[{h}]: {found}, expected {expected} (size {size})");
        }
    }

    let inputs = [halves(&q), halves(&k), halves(&v), singles(&slopes), halves(&out_grad), log_sum, delta];
    let mut buffers = inputs.to_vec();
    buffers.push(unwritten(rows * d, 2));
    kernels.query_grad.run(&grid(call.blocks(time, heads)), &mut buffers, &floats, &integers(kv_heads));
    let expected = values(tq.grad(&gradients).unwrap());
    assert_close(&what("the queries' gradient"), &from_halves(&buffers[7]), &expected, 0.02);

    for (of, kernel) in &kernels.key_value_grad {
        let mut buffers = inputs.to_vec();
        buffers.push(unwritten(batch * kv_heads * source * d, 2));
        buffers.push(unwritten(batch * kv_heads * source * dv, 2));
        kernel.run(&grid(call.blocks(source, kv_heads)), &mut buffers, &floats, &integers(heads));
        if of.key() {
            let expected = values(tk.grad(&gradients).unwrap());
            assert_close(&what("the keys' gradient"), &from_halves(&buffers[7]), &expected, 0.02);
        }
        if of.value() {
            let expected = values(tv.grad(&gradients).unwrap());
            assert_close(&what("the values' gradient"), &from_halves(&buffers[8]), &expected, 0.02);
        }
    }
}

const PLAIN: Call = Call {
    batch: 1,
    heads: 2,
    kv_heads: 1,
    time: 75,
    source: 75,
    width: 16,
    value_width: 16,
    scale: 0.4,
    window: None,
    softcap: None,
    slopes: false,
    sinks: false,
};
const EVERYTHING: Call = Call { window: Some(40), softcap: Some(1.5), slopes: true, sinks: true, ..PLAIN };

#[test]
fn odd_lengths_groups_of_heads_and_a_cache() {
    check(&[
        PLAIN,
        Call { time: 1, source: 1, ..PLAIN },
        Call { time: 1, source: 150, ..PLAIN },
        Call { time: 63, source: 63, batch: 2, heads: 4, kv_heads: 2, ..PLAIN },
        Call { time: 70, source: 133, ..PLAIN },
        Call { time: 200, source: 200, kv_heads: 2, ..PLAIN },
    ]);
}

#[test]
fn a_window_a_soft_cap_slopes_and_sinks() {
    check(&[
        EVERYTHING,
        Call { window: Some(1), time: 63, source: 63, ..EVERYTHING },
        Call { window: Some(3), time: 70, source: 200, batch: 2, heads: 4, kv_heads: 2, ..EVERYTHING },
        Call { window: Some(500), time: 130, source: 130, ..EVERYTHING },
        Call { window: Some(100), time: 1, source: 300, ..EVERYTHING },
        // Blocks of keys that no query sees: their gradients are zero, not what memory held.
        Call { window: Some(5), time: 3, source: 200, ..EVERYTHING },
    ]);
}

#[test]
fn widths_that_fill_no_tile_and_values_wider_than_keys() {
    check(&[Call { width: 20, value_width: 68, ..PLAIN }]);
}

#[test]
#[ignore = "a minute of C++ compilation"]
fn the_widest_heads_sum_their_gradients_in_two_kernels() {
    let wide = |width, value_width| Call { width, value_width, scale: 0.1, heads: 1, ..EVERYTHING };
    check(&[wide(256, 256)]);
    check(&[wide(128, 256)]);
    check(&[Call { time: 130, source: 140, ..wide(60, 100) }]);
    check(&[wide(64, 64)]);
    check(&[wide(128, 128)]);
}
