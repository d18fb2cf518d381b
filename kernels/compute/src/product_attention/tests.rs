use super::reference::{log_sum_exp, merge};
use super::*;
use crate::Normaliser;
use crate::softmax_attention::{products, softmax_attention};
use burn::tensor::{DType, Device, TensorData, activation::softmax};

fn numbers<const D: usize>(seed: usize, shape: [usize; D]) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| ((i * 7919 + seed * 104_729 + 3) % 1009) as f64 / 300.0 - 1.7).collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

/// Codes below `count` of `source` tokens in two sequences.
fn codes(seed: usize, kv_heads: usize, source: usize, subspaces: usize, count: usize, width: usize) -> ProductCodes {
    let shape = [2, kv_heads, source, subspaces];
    let values: Vec<i64> = (0..shape.iter().product()).map(|i| ((i * 31 + seed * 17 + i / 5) % count) as i64).collect();
    ProductCodes {
        codes: Tensor::from_data(TensorData::new(values, shape), &Device::flex()),
        centroids: numbers(seed + 9, [subspaces, count, width]),
    }
}

fn largest(x: Tensor<4>) -> f64 {
    x.abs().max().into_scalar()
}

#[test]
fn codes_stand_for_their_centroids_side_by_side() {
    let keys = codes(1, 2, 5, 3, 4, 2);
    let codes: Vec<i64> = keys.codes.clone().into_data().iter().collect();
    let centroids: Vec<f64> = keys.centroids.clone().into_data().iter().collect();
    let vectors: Vec<f64> = keys.reconstruct().into_data().iter().collect();
    for (i, value) in vectors.iter().enumerate() {
        let (row, channel) = (i / 6, i % 6);
        let (subspace, place) = (channel / 2, channel % 2);
        let code = codes[row * 3 + subspace] as usize;
        assert_eq!(*value, centroids[(subspace * 4 + code) * 2 + place], "row {row}, channel {channel}");
    }
}

#[test]
fn looking_up_equals_attention_over_the_reconstructed_keys_and_values() {
    let sink = numbers(8, [1, 4, 1, 1]);
    let plain = AttentionOptions::from(0.4);
    let softmax = |sink| Normaliser::Softmax { sink };
    let cases: Vec<(&str, AttentionOptions)> = vec![
        ("plain", plain.clone()),
        ("soft cap", AttentionOptions { softcap: Some(0.7), ..plain.clone() }),
        ("window that cuts the codes", AttentionOptions { window: Some(7), ..plain.clone() }),
        ("window within the recent", AttentionOptions { window: Some(2), ..plain.clone() }),
        ("sink", AttentionOptions { normaliser: softmax(Some(sink)), ..plain.clone() }),
        ("bias", AttentionOptions { bias: Some(numbers(5, [1, 4, 1, 13])), ..plain.clone() }),
        (
            "bias that is the same for all keys",
            AttentionOptions { bias: Some(numbers(5, [1, 4, 1, 1])), ..plain.clone() },
        ),
        ("gate", AttentionOptions { gate: Some(numbers(5, [1, 4, 1, 8])), ..plain.clone() }),
        ("sigmoid", AttentionOptions { normaliser: Normaliser::Sigmoid, ..plain.clone() }),
        ("sharp", AttentionOptions { scale: 300.0, ..plain }),
    ];
    for kv_heads in [1, 2, 4] {
        let (keys, values) = (codes(2, kv_heads, 9, 3, 5, 2), codes(3, kv_heads, 9, 2, 7, 4));
        let recent = (numbers(6, [2, kv_heads, 4, 6]), numbers(7, [2, kv_heads, 4, 8]));
        let k = Tensor::cat(vec![keys.reconstruct(), recent.0.clone()], 2);
        let v = Tensor::cat(vec![values.reconstruct(), recent.1.clone()], 2);
        for time in [1, 3] {
            let q = numbers(4, [2, 4, time, 6]);
            for (name, options) in &cases {
                let whole = softmax_attention(q.clone(), k.clone(), v.clone(), options.clone());
                let (found, ran) =
                    crate::trace(|| product_attention(q.clone(), &keys, &values, recent.clone(), options.clone()));
                assert_eq!(ran.last().map(|ran| ran.operator), Some("product_attention"));
                let error = largest(whole - found);
                assert!(error < 1e-10, "{name}, {kv_heads} key heads, {time} queries: off by {error:e}");
            }
        }
    }
}

#[test]
fn two_halves_merged_by_their_sums_are_the_whole() {
    let (q, k, v) = (numbers(1, [1, 2, 1, 4]) * 5.0, numbers(2, [1, 2, 11, 4]), numbers(3, [1, 2, 11, 3]));
    let scores = products(q, k);
    let whole = softmax(scores.clone(), 3).matmul(v.clone());
    let half = |first: usize, count: usize| {
        let scores = scores.clone().narrow(3, first, count);
        (softmax(scores.clone(), 3).matmul(v.clone().narrow(2, first, count)), log_sum_exp(scores))
    };
    let ((left, left_sum), (right, right_sum)) = (half(0, 4), half(4, 7));
    assert!(largest(whole - merge([left, right], [left_sum, right_sum], None)) < 1e-12);
}

#[test]
#[should_panic(expected = "3 queries but only 2 recent keys")]
fn a_query_whose_own_key_is_coded_already_is_refused() {
    let recent = || numbers(1, [2, 1, 2, 6]);
    let (keys, values) = (codes(2, 1, 9, 3, 5, 2), codes(3, 1, 9, 3, 5, 2));
    product_attention(numbers(4, [2, 2, 3, 6]), &keys, &values, (recent(), recent()), 1.0);
}

#[test]
fn the_look_up_in_loops_agrees_with_the_reference() {
    crate::selftest::agree(cases(), 1e-12);
}

#[test]
#[should_panic(expected = "values of 3 tokens in 3 codes of 3 × 4 channels [1, 1, 3, 3], recent ones [1, 1, 1, 8]")]
fn values_of_other_widths_are_refused() {
    let codes = |parts: usize, width: usize| ProductCodes {
        codes: Tensor::from_data(TensorData::new(vec![0i64; 3 * parts], [1, 1, 3, parts]), &Device::flex()),
        centroids: numbers(1, [parts, 4, width]),
    };
    let recent = (numbers(2, [1, 1, 1, 4]), numbers(3, [1, 1, 1, 8]));
    product_attention(numbers(4, [1, 1, 1, 4]), &codes(2, 2), &codes(3, 4), recent, 1.0);
}
