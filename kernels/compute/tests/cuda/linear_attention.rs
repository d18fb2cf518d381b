//! Linear attention's kernels, run on the CPU, against the recurrence in f64.

use crate::emulator::{Emulated, Grid};
use crate::numbers::*;
use kernels::linear_attention::cuda::chunks::{Chunks, chunk_sources};
use kernels::linear_attention::cuda::steps::{Decay, Steps, Write, steps_source};
use kernels::{Gates, LinearForm, LogDecay, by_reference, linear_attention};

fn check(width: usize, value_width: usize, decay: Decay, write: Write, start: bool) {
    let steps = Steps { width, value_width, decay, write, start };
    assert!(steps.fits());
    let kernel = Emulated::compile(&steps_source(steps));
    let (batch, heads) = (1, 2);
    for time in [1, 5, 75] {
        let rows = heads * time;
        let q = numbers(1, rows * width);
        // Keys of length below one, as a layer makes them: longer ones make the recurrence explode.
        let k: Vec<f64> = rounded(numbers(2, rows * width).iter().map(|x| x / (width as f64).sqrt()));
        let v = numbers(3, rows * value_width);
        let fading = |x: &f64| -(x.abs() + 0.01);
        let g: Vec<f64> = match decay {
            Decay::None => vec![0.0],
            Decay::Head => numbers(4, rows).iter().map(fading).collect(),
            Decay::Channel => numbers(4, rows * width).iter().map(fading).collect(),
        };
        let erase = match write {
            Write::Add => vec![0.0],
            Write::Beta => rounded(numbers(5, rows).iter().map(|x| x.abs())),
            Write::EraseWrite => rounded(numbers(5, rows * width).iter().map(|x| x.abs())),
        };
        let written = match write {
            Write::EraseWrite => numbers(6, rows * value_width),
            _ => vec![0.0],
        };
        let state = numbers(7, heads * width * value_width);

        let by_row = [batch, heads, time];
        let by_key = [batch, heads, time, width];
        let by_value = [batch, heads, time, value_width];
        let log_decay = match decay {
            Decay::None => LogDecay::None,
            Decay::Head => LogDecay::Head(tensor(&g, by_row)),
            Decay::Channel => LogDecay::Channel(tensor(&g, by_key)),
        };
        let gates = match write {
            Write::Add => Gates::Add,
            Write::Beta => Gates::Beta(tensor(&erase, by_row)),
            Write::EraseWrite => Gates::EraseWrite { erase: tensor(&erase, by_key), write: tensor(&written, by_value) },
        };
        let given = start.then(|| tensor(&state, [batch, heads, width, value_width]));
        let (out, end) = by_reference(|| {
            let (q, k, v) = (tensor(&q, by_key), tensor(&k, by_key), tensor(&v, by_value));
            linear_attention(q, k, v, &log_decay, &gates, given, LinearForm::Recurrent)
        });

        let mut buffers = vec![
            halves(&q),
            halves(&k),
            halves(&v),
            singles(&g),
            halves(&erase),
            halves(&written),
            singles(&state),
            unwritten(rows * value_width, 2),
            unwritten(heads * width * value_width, 4),
        ];
        let (blocks, threads) = steps.grid(heads);
        kernel.run(&Grid { blocks, threads }, &mut buffers, &[], &[time as u32]);
        let what = |name: &str| format!("{name} of {steps:?} after {time} tokens");
        assert_close(&what("the output"), &from_halves(&buffers[7]), &values(out), 0.005);
        assert_close(&what("the state"), &from_singles(&buffers[8]), &values(end), 1e-4);
    }
}

#[test]
fn gated_delta_rule() {
    check(16, 40, Decay::Head, Write::Beta, true);
}

#[test]
fn decay_and_gates_by_channel() {
    check(12, 20, Decay::Channel, Write::EraseWrite, false);
}

#[test]
fn values_that_add_up() {
    check(8, 32, Decay::None, Write::Add, false);
}

#[test]
fn the_gated_delta_rule_in_chunks() {
    let plan = Chunks { width: 64, value_width: 68, start: true };
    assert!(plan.fits());
    let (width, value_width) = (plan.width, plan.value_width);
    let [prepare, walk] = chunk_sources(plan).map(|source| Emulated::compile(&source));
    let (batch, heads) = (1, 2);
    for time in [1, 63, 150] {
        let rows = heads * time;
        let q = numbers(1, rows * width);
        // Keys of length one that look alike, which is what makes the inverse hard.
        let k: Vec<f64> = numbers(2, rows * width)
            .chunks(width)
            .flat_map(|row| {
                let row: Vec<f64> = row.iter().map(|x| x + 0.5).collect();
                let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                rounded(row.into_iter().map(move |x| x / length))
            })
            .collect();
        let v = numbers(3, rows * value_width);
        // One decay wipes the state out.
        let mut g: Vec<f64> = numbers(4, rows).iter().map(|x| -0.2 * (x.abs() + 0.01)).collect();
        g[rows / 3] = -300.0;
        let beta = rounded(numbers(5, rows).iter().map(|x| x.abs()));
        let state = numbers(7, heads * width * value_width);

        let by_row = [batch, heads, time];
        let by_key = [batch, heads, time, width];
        let (out, end) = by_reference(|| {
            linear_attention(
                tensor(&q, by_key),
                tensor(&k, by_key),
                tensor(&v, [batch, heads, time, value_width]),
                &LogDecay::Head(tensor(&g, by_row)),
                &Gates::Beta(tensor(&beta, by_row)),
                Some(tensor(&state, [batch, heads, width, value_width])),
                LinearForm::Recurrent,
            )
        });

        let [prepared, walked] = plan.blocks(heads, time).map(|blocks| Grid { blocks, threads: [32, 4, 1] });
        let mut buffers = vec![
            halves(&k),
            halves(&v),
            singles(&g),
            halves(&beta),
            unwritten(rows * value_width, 2),
            unwritten(rows * width, 2),
        ];
        prepare.run(&prepared, &mut buffers, &[], &[time as u32]);
        let (erased, new) = (buffers.pop().unwrap(), buffers.pop().unwrap());
        let mut buffers = vec![
            halves(&q),
            halves(&k),
            singles(&g),
            new,
            erased,
            singles(&state),
            unwritten(rows * value_width, 2),
            unwritten(heads * width * value_width, 4),
        ];
        walk.run(&walked, &mut buffers, &[], &[time as u32]);
        let what = |name: &str| format!("{name} after {time} tokens");
        assert_close(&what("the output"), &from_halves(&buffers[6]), &values(out), 0.02);
        assert_close(&what("the state"), &from_singles(&buffers[7]), &values(end), 0.02);
    }
}
