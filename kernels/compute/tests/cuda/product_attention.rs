//! Attention over codes as it runs on a GPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::{AttentionOptions, Because, Implementation, Normaliser, ProductCodes, Ran};
use kernels::{by_reference, product_attention, trace};

/// Sizes: sub-spaces, centroids in each, and channels of a centroid.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    key: [usize; 3],
    value: [usize; 3],
}

const SIZES: Sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, key: [8, 16, 8], value: [8, 16, 5] };

type Options = fn(AttentionOptions, DType) -> AttentionOptions;

/// What it gives, and what ran.
fn run(dtype: DType, sizes: Sizes, [time, coded, recent]: [usize; 3], options: Options) -> (Vec<f64>, Vec<Ran>) {
    let Sizes { batch, heads, kv_heads, key, value } = sizes;
    let tensor = |seed, shape: [usize; 4]| constant(&numbers(seed, shape.iter().product()), shape, dtype);
    let codes = |seed, of: [usize; 3], step: usize| {
        let shape = [batch, kv_heads, coded, of[0]];
        let codes: Vec<i64> = (0..shape.iter().product()).map(|i| (i * step % 61 % of[1]) as i64).collect();
        let codes = Tensor::<4, Int>::from_data(TensorData::new(codes, shape), &Device::flex());
        ProductCodes { codes, centroids: constant(&numbers(seed, of.iter().product()), of, dtype) }
    };
    let [width, value_width] = [key, value].map(|of| of[0] * of[2]);
    let q = tensor(1, [batch, heads, time, width]);
    let latest = (tensor(2, [batch, kv_heads, recent, width]), tensor(3, [batch, kv_heads, recent, value_width]));
    let (keys, values_) = (codes(4, key, 7), codes(5, value, 5));
    let (out, ran) = trace(|| product_attention(q, &keys, &values_, latest, options(0.3.into(), dtype)));
    (values(out), ran)
}

fn check(emulator: &Emulator, dtype: DType, sizes: Sizes, call: [usize; 3], options: Options) {
    let (expected, _) = by_reference(|| run(DType::F64, sizes, call, options));
    let (found, ran) = emulated(emulator.clone(), || run(dtype, sizes, call, options));
    assert_eq!(ran[0].implementation, Implementation::Cuda, "{}", ran[0]);
    let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.005 };
    assert_close(&format!("{call:?} in {dtype:?}"), &found, &expected, tolerance);
}

fn sink(shape: [usize; 4], dtype: DType) -> Normaliser {
    Normaliser::Softmax { sink: Some(constant(&numbers(6, shape.iter().product()), shape, dtype)) }
}

#[test]
fn a_query_over_codes_and_recent_keys() {
    let emulator = emulator();
    for call in [[1, 75, 3], [1, 600, 5], [3, 250, 7]] {
        check(&emulator, DType::BF16, SIZES, call, |plain, _| plain);
    }
    check(&emulator, DType::F32, SIZES, [2, 300, 3], |plain, _| plain);
}

#[test]
fn windows_caps_slopes_and_sinks() {
    let sizes = Sizes { batch: 1, kv_heads: 1, key: [4, 32, 4], ..SIZES };
    check(&emulator(), DType::BF16, sizes, [2, 300, 3], |plain, dtype| AttentionOptions {
        window: Some(12),
        softcap: Some(2.0),
        slopes: Some(vec![0.5, 0.25, 0.125, 0.0625]),
        normaliser: sink([1, 4, 1, 1], dtype),
        ..plain
    });
}

#[test]
fn weights_that_do_not_compete() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 2, ..SIZES };
    check(&emulator(), DType::BF16, sizes, [1, 300, 1], |plain, _| AttentionOptions {
        normaliser: Normaliser::Sigmoid,
        ..plain
    });
}

#[test]
fn what_there_is_no_kernel_for_is_refused_with_the_reason() {
    let because = |sizes, options: Options| {
        let (_, ran) = emulated(emulator(), || run(DType::F32, sizes, [1, 9, 2], options));
        ran[0].because
    };
    let bias: Options = |plain, dtype| AttentionOptions { bias: Some(constant(&[0.5], [1, 1, 1, 1], dtype)), ..plain };
    assert_eq!(because(SIZES, bias), Some(Because::NoKernel("a bias")));
    let each: Options = |plain, dtype| AttentionOptions { normaliser: sink([2, 4, 1, 1], dtype), ..plain };
    let reason = "a sink for every query; there is one for a sink for every head";
    assert_eq!(because(SIZES, each), Some(Because::NoKernel(reason)));
    let wide = Sizes { value: [8, 16, 40], ..SIZES };
    let reason = "values this wide; there is one for up to 256 channels";
    assert_eq!(because(wide, |plain, _| plain), Some(Because::NoKernel(reason)));
    let many = Sizes { key: [8, 6000, 1], ..SIZES };
    let reason = "this many centroids on this GPU: its blocks have too little shared memory";
    assert_eq!(because(many, |plain, _| plain), Some(Because::NoKernel(reason)));
}
