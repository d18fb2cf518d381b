//! Attention over codes, run on the CPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::product_attention::cuda::{Call, Plan};
use kernels::{AttentionOptions, Normaliser, ProductCodes, by_reference, product_attention};

const PLAIN: Plan = Plan {
    key: [8, 16, 8],
    value: [8, 16, 5],
    window: false,
    softcap: false,
    slopes: false,
    sinks: false,
    sigmoid: false,
};

fn check(plan: Plan, [batch, heads, kv_heads]: [usize; 3], calls: &[[usize; 3]]) {
    let emulator = emulator();
    let (scale, cap, window) = (0.3, 2.0, 12);
    for &[time, coded, recent] in calls {
        let span = if plan.window { window } else { 0 };
        let call = Call { batch, heads, kv_heads, time, coded, recent, scale, cap, span, plan, dtype: DType::BF16 };
        let (width, value_width, groups) = (plan.width(), plan.value_width(), batch * kv_heads);
        let rows = batch * heads * time;
        let codes = |[parts, count, _]: [usize; 3], step: usize| -> Vec<usize> {
            (0..groups * coded * parts).map(|i| i * step % 61 % count).collect()
        };
        let (key_codes, value_codes) = (codes(plan.key, 7), codes(plan.value, 5));
        let q = numbers(1, rows * width);
        let (k, v) = (numbers(2, groups * recent * width), numbers(3, groups * recent * value_width));
        let centroids = |seed, of: [usize; 3]| numbers(seed, of.iter().product());
        let (key_centroids, value_centroids) = (centroids(4, plan.key), centroids(5, plan.value));
        let slopes: Vec<f64> = (0..heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect();
        let sinks = numbers(6, heads);
        let out = by_reference(|| {
            let coded = |codes: &[usize], centroids: &[f64], of: [usize; 3]| {
                let codes: Vec<i32> = codes.iter().map(|&code| code as i32).collect();
                let codes = TensorData::new(codes, [batch, kv_heads, coded, of[0]]);
                let codes = Tensor::<4, Int>::from_data(codes, &Device::flex());
                ProductCodes { codes, centroids: constant(centroids, of, DType::F64) }
            };
            let keys = coded(&key_codes, &key_centroids, plan.key);
            let values = coded(&value_codes, &value_centroids, plan.value);
            let latest = |x: &[f64], width| constant(x, [batch, kv_heads, recent, width], DType::F64);
            let sink = plan.sinks.then(|| constant(&sinks, [1, heads, 1, 1], DType::F64));
            let options = AttentionOptions {
                window: plan.window.then_some(window),
                softcap: plan.softcap.then_some(cap),
                slopes: plan.slopes.then(|| slopes.clone()),
                normaliser: if plan.sigmoid { Normaliser::Sigmoid } else { Normaliser::Softmax { sink } },
                ..scale.into()
            };
            let q = constant(&q, [batch, heads, time, width], DType::F64);
            product_attention(q, &keys, &values, (latest(&k, width), latest(&v, value_width)), options)
        });

        let [sums, weighed] = call.scratch();
        let mut buffers = vec![
            halves(&q),
            words(key_codes),
            words(value_codes),
            halves(&key_centroids),
            halves(&value_centroids),
            halves(&k),
            halves(&v),
            singles(&slopes),
            unwritten(sums, 4),
            unwritten(weighed, 4),
        ];
        emulator(&[call.attend()], &mut buffers);
        let (weighed, sums) = (buffers.pop().unwrap(), buffers.pop().unwrap());
        let mut buffers = vec![sums, weighed, singles(&sinks), unwritten(rows * value_width, 2)];
        emulator(&[call.merge()], &mut buffers);
        assert_close(&format!("the output of {call:?}"), &from_halves(&buffers[3]), &values(out), 0.005);
    }
}

#[test]
fn a_query_over_codes_and_recent_keys() {
    check(PLAIN, [2, 4, 2], &[[1, 75, 3], [1, 600, 5], [3, 250, 7]]);
}

#[test]
fn windows_caps_slopes_and_sinks() {
    let all = Plan { window: true, softcap: true, slopes: true, sinks: true, key: [4, 32, 4], ..PLAIN };
    check(all, [1, 4, 1], &[[2, 300, 3]]);
}

#[test]
fn weights_that_do_not_compete() {
    check(Plan { sigmoid: true, ..PLAIN }, [1, 2, 2], &[[1, 300, 1]]);
}
