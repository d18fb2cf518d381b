//! The short convolution's kernels, run on the CPU, against the reference in f64.

use crate::emulator::{Emulated, Grid};
use crate::numbers::*;
use kernels::short_conv::cuda::{UNITS, sources};
use kernels::{by_reference, short_conv};

#[test]
fn the_convolution_and_its_gradients() {
    let taps = 4;
    let kernels = sources(taps as u32).map(|source| Emulated::compile(&source));
    for (batch, time, channels) in [(1, 1, 3), (2, 75, 20), (1, 2, 5)] {
        let count = batch * time * channels;
        let x = numbers(1, count);
        let weight = numbers(2, channels * taps);
        let bias = numbers(3, channels);
        let past = numbers(4, batch * (taps - 1) * channels);
        let y_grad = numbers(5, count);

        let tx = tensor(&x, [batch, time, channels]).require_grad();
        let tw = tensor(&weight, [channels, taps]).require_grad();
        let tb = tensor(&bias, [channels]).require_grad();
        let tp = tensor(&past, [batch, taps - 1, channels]);
        let (y, _) = by_reference(|| short_conv(tx.clone(), tw.clone(), Some(tb.clone()), Some(tp)));
        let gradients = (y.clone() * tensor(&y_grad, [batch, time, channels])).sum().backward();

        let what = |name: &str| format!("{name} of {batch} × {time} × {channels}");
        let units = Grid { blocks: [(count as u32).div_ceil(UNITS), 1, 1], threads: [UNITS, 1, 1] };
        let sizes = [batch as u32, time as u32, channels as u32];
        let inputs = [halves(&x), halves(&weight), halves(&bias), halves(&past)];

        let mut buffers = inputs.to_vec();
        buffers.push(unwritten(count, 2));
        kernels[0].run(&units, &mut buffers, &[], &sizes);
        assert_close(&what("the output"), &from_halves(&buffers[4]), &values(y), 0.005);

        let mut buffers = inputs.to_vec();
        buffers.push(halves(&y_grad));
        buffers.push(unwritten(count, 4));
        kernels[1].run(&units, &mut buffers, &[], &sizes);
        let sum_grad = buffers.pop().unwrap();

        let mut buffers = vec![halves(&weight), sum_grad.clone(), unwritten(count, 2)];
        kernels[2].run(&units, &mut buffers, &[], &sizes);
        let found = from_halves(&buffers[2]);
        assert_close(&what("the input's gradient"), &found, &values(tx.grad(&gradients).unwrap()), 0.005);

        let mut buffers =
            vec![halves(&x), halves(&past), sum_grad, unwritten(channels * taps, 4), unwritten(channels, 4)];
        let planes = Grid { blocks: [channels as u32, 1, 1], threads: [32, taps as u32 + 1, 1] };
        kernels[3].run(&planes, &mut buffers, &[], &sizes);
        let expected = values(tw.grad(&gradients).unwrap());
        assert_close(&what("the weights' gradient"), &from_singles(&buffers[3]), &expected, 1e-5);
        let expected = values(tb.grad(&gradients).unwrap());
        assert_close(&what("the bias's gradient"), &from_singles(&buffers[4]), &expected, 1e-5);
    }
}
