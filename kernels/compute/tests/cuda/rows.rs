//! Norms, rotation and SwiGLU as they run on a GPU, against the references in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Tensor};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::rms_norm::{Activation, GatePlace, NormOptions};
use kernels::rope::Pairs;
use kernels::{Implementation, add_rms_norm, by_reference, gated_rms_norm, l2_norm, rms_norm, rope, swiglu, trace};

/// Inputs by name, which become leaves of a tape.
type Inputs<'a> = [(&'static str, &'a [usize])];

/// The output of `run` and the gradient of every input.
fn results<const D: usize>(
    inputs: &Inputs,
    dtype: DType,
    run: &impl Fn(&dyn Fn(usize) -> Tensor<1>) -> Tensor<D>,
) -> Vec<(&'static str, Vec<f64>)> {
    let count = |shape: &[usize]| shape.iter().product();
    let leaves: Vec<Tensor<1>> = inputs
        .iter()
        .enumerate()
        .map(|(i, (_, shape))| leaf(&numbers(i + 1, count(shape)), [count(shape)], dtype))
        .collect();
    let out = run(&|i| leaves[i].clone());
    let weights = constant(&numbers(9, out.shape().num_elements()), out.dims(), dtype);
    let gradients = (out.clone() * weights).sum().backward();
    let mut found = vec![("the output", values(out))];
    for ((name, _), leaf) in inputs.iter().zip(leaves) {
        found.push((name, values(leaf.grad(&gradients).unwrap())));
    }
    found
}

fn check<const D: usize>(
    emulator: &Emulator,
    what: &str,
    dtype: DType,
    inputs: &Inputs,
    run: impl Fn(&dyn Fn(usize) -> Tensor<1>) -> Tensor<D>,
) {
    let expected = by_reference(|| results(inputs, DType::F64, &run));
    let (found, ran) = trace(|| emulated(emulator.clone(), || results(inputs, dtype, &run)));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{what}: {}", ran[0]);
    let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.008 };
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert_close(&format!("{name}, {what}, {dtype:?}"), found, expected, tolerance);
    }
}

fn check_norm(rows: usize, width: usize, dtype: DType, zero_centred: bool) {
    let emulator = emulator();
    let what = format!("{rows} rows of {width}");
    check(&emulator, &what, dtype, &[("x", &[rows, width]), ("weight", &[width])], |x| {
        rms_norm(x(0).reshape([rows, width]), x(1), NormOptions { eps: 1e-3, zero_centred })
    });
}

#[test]
fn norms_of_heads() {
    for dtype in [DType::BF16, DType::F32] {
        check_norm(75, 60, dtype, false);
    }
    let emulator = emulator();
    check(&emulator, "of unit length", DType::F32, &[("x", &[13, 33])], |x| {
        l2_norm(x(0).reshape([13, 33]), 1e-3, 0.125)
    });
}

#[test]
fn norms_of_tokens_whose_rows_take_several_planes() {
    // More rows than all cubes have at a time; a row of nearly all units of a cube.
    check_norm(1030, 516, DType::F32, true);
    check_norm(3, 5001, DType::BF16, false);
}

#[test]
fn norms_of_sums_and_the_sums() {
    let emulator = emulator();
    for (rows, width, dtype) in [(21, 66, DType::BF16), (40, 513, DType::F32)] {
        let inputs: &Inputs = &[("x", &[rows, width]), ("more", &[rows, width]), ("weight", &[width])];
        let run = |x: &dyn Fn(usize) -> Tensor<1>| {
            let [a, more] = [x(0), x(1)].map(|x| x.reshape([rows, width]));
            add_rms_norm(a, more, x(2), 1e-3)
        };
        check(&emulator, "the norm of a sum, and the sum", dtype, inputs, |x| Tensor::cat(run(x).into(), 0));
        check(&emulator, "the norm of a sum alone", dtype, inputs, |x| run(x)[0].clone());
    }
}

#[test]
fn gated_norms() {
    use {Activation::*, GatePlace::*};
    let emulator = emulator();
    for (activation, place, width, dtype) in [(Silu, After, 66, DType::BF16), (Sigmoid, Before, 100, DType::F32)] {
        let inputs: &Inputs = &[("x", &[21, width]), ("z", &[21, width]), ("weight", &[width])];
        check(&emulator, &format!("{activation:?} {place:?}"), dtype, inputs, |x| {
            let [a, z] = [x(0), x(1)].map(|x| x.reshape([21, width]));
            gated_rms_norm(a, z, x(2), activation, place, 1e-3)
        });
    }
}

#[test]
fn rotation_and_back() {
    let emulator = emulator();
    for (width, half, pairs, dtype) in [
        (60, 30, Pairs::HalfSplit, DType::BF16),
        (100, 13, Pairs::HalfSplit, DType::F32),
        (64, 8, Pairs::HalfSplit, DType::BF16),
        (63, 9, Pairs::Interleaved, DType::F32),
    ] {
        let (batch, heads, time) = (2, 3, 25);
        let what = format!("{} of {width}, {pairs:?}", 2 * half);
        check(&emulator, &what, dtype, &[("x", &[batch, time, heads, width])], |x| {
            let x = x(0).reshape([batch, time, heads, width]).swap_dims(1, 2);
            let dtype = x.dtype();
            let table = |seed| constant(&numbers(seed, time * half), [time, half], dtype);
            rope::rope(x, table(7), table(8), pairs)
        });
    }
}

#[test]
fn swiglu_of_two_factors_and_of_halves_of_one_projection() {
    let emulator = emulator();
    for (rows, width, dtype) in [(1, 16, DType::BF16), (75, 60, DType::BF16), (13, 33, DType::F32)] {
        let what = format!("halves of {rows} rows of {width}");
        check(&emulator, &what, dtype, &[("both", &[rows, 2 * width])], |x| {
            let both = x(0).reshape([rows, 2 * width]);
            swiglu(both.clone().narrow(1, 0, width), both.narrow(1, width, width))
        });
    }
}

#[test]
fn swiglu_reads_rows_that_lie_apart() {
    use kernels::swiglu::cuda::kernels::Call;
    let emulator = emulator();
    let (rows, width, stride) = (75, 60, 122);
    let call = Call { rows, width, stride, dtype: DType::F32 };
    // A buffer ends where the last number is, so that nothing beyond it is read.
    let reach = (rows - 1) * stride + width;
    let (gate, up) = (numbers(1, reach), numbers(2, reach));
    let tight = |x: &[f64]| -> Vec<f64> { x.chunks(stride).flat_map(|row| row[..width].to_vec()).collect() };
    let mut buffers = [singles(&gate), singles(&up), singles(&vec![f64::NAN; rows * width])];
    emulator(&[call.forward()], &mut buffers);
    let expected: Vec<f64> = tight(&gate).iter().zip(tight(&up)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    assert_close("the output", &from_singles(&buffers[2]), &expected, 1e-5);
}
