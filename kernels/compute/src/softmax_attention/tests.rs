use super::*;
use burn::tensor::{DType, Device, TensorData};

/// Rows of small whole numbers: scores of any shape, f64.
fn numbers<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| ((i * 7 + 3) % 11) as f64 / 5.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

fn rows(pattern: Tensor<4>) -> Vec<Vec<f64>> {
    let width = pattern.dims()[3];
    let values: Vec<f64> = pattern.into_data().iter::<f64>().collect();
    values.chunks(width).map(<[f64]>::to_vec).collect()
}

fn options() -> AttentionOptions {
    AttentionOptions::from(0.7)
}

#[test]
fn a_window_of_w_sees_itself_and_the_w_minus_1_before_it() {
    let options = AttentionOptions { window: Some(3), ..options() };
    for (t, row) in rows(pattern(numbers([1, 1, 6, 4]), numbers([1, 1, 6, 4]), options)).iter().enumerate() {
        for (s, &weight) in row.iter().enumerate() {
            assert_eq!(weight > 0.0, s <= t && t < s + 3, "query {t}, key {s}: {weight}");
        }
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}

#[test]
fn queries_after_a_cache_are_the_last_rows_of_all_of_them() {
    let (q, k) = (numbers([1, 2, 7, 4]), numbers([1, 1, 7, 4]));
    for window in [None, Some(2), Some(7), Some(100)] {
        let options = AttentionOptions { window, ..options() };
        let whole = rows(pattern(q.clone(), k.clone(), options.clone()).narrow(2, 5, 2));
        assert_eq!(rows(pattern(q.clone().narrow(2, 5, 2), k.clone(), options)), whole, "{window:?}");
    }
}

#[test]
fn a_sink_takes_its_share_of_every_row() {
    let (q, k) = (numbers([1, 2, 5, 4]), numbers([1, 2, 5, 4]));
    let plain = rows(pattern(q.clone(), k.clone(), options()));
    let sink = Tensor::<4>::zeros([1, 1, 1, 1], (&q.device(), q.dtype()));
    let with = AttentionOptions { normaliser: Normaliser::Softmax { sink: Some(sink.clone()) }, ..options() };
    let scores = (q.clone() * 0.7).matmul(k.clone().transpose()).exp();
    for (i, (row, scores)) in rows(pattern(q.clone(), k.clone(), with)).iter().zip(rows(scores)).enumerate() {
        let total: f64 = scores[..=i % 5].iter().sum();
        let share = total / (1.0 + total); // what softmax-off-by-one leaves
        for (weight, plain) in row.iter().zip(&plain[i]) {
            assert!((weight - plain * share).abs() < 1e-12, "row {i}");
        }
    }
    let closed = AttentionOptions { normaliser: Normaliser::Softmax { sink: Some(sink - 1e4) }, ..options() };
    assert_eq!(rows(pattern(q, k, closed)), plain, "a sink far below the scores changes nothing");
}

#[test]
fn sigmoid_weights_do_not_compete_and_the_future_has_none() {
    let (q, k) = (numbers([1, 1, 4, 4]), numbers([1, 1, 4, 4]));
    let scores = rows((q.clone() * 0.7).matmul(k.clone().transpose()));
    let found = rows(pattern(q, k, AttentionOptions { normaliser: Normaliser::Sigmoid, ..options() }));
    for (t, (row, scores)) in found.iter().zip(scores).enumerate() {
        for (s, (weight, score)) in row.iter().zip(scores).enumerate() {
            let expected = if s <= t { 1.0 / (1.0 + (-score).exp()) } else { 0.0 };
            assert!((weight - expected).abs() < 1e-12, "query {t}, key {s}");
        }
    }
}

#[test]
fn a_soft_cap_bounds_the_scores_and_a_large_one_leaves_them() {
    let (q, k) = (numbers([1, 1, 4, 4]) * 100.0, numbers([1, 1, 4, 4]));
    let capped = rows(pattern(q.clone(), k.clone(), AttentionOptions { softcap: Some(1.0), ..options() }));
    // Scores in (−1, 1): no weight is more than e² times another.
    for (t, row) in capped.iter().enumerate() {
        let seen = &row[..=t];
        let (low, high) = (seen.iter().copied().fold(1.0, f64::min), seen.iter().copied().fold(0.0, f64::max));
        assert!(high / low <= 2f64.exp() + 1e-9, "row {t}: {row:?}");
    }
    let free = rows(pattern(q.clone() * 1e-2, k.clone(), options()));
    let loose = rows(pattern(q * 1e-2, k, AttentionOptions { softcap: Some(1e6), ..options() }));
    for (a, b) in free.concat().iter().zip(loose.concat()) {
        assert!((a - b).abs() < 1e-9);
    }
}

#[test]
fn the_tiles_agree_with_the_reference_in_the_output_and_every_gradient() {
    crate::selftest::agree(cases(), 1e-10);
}

#[test]
fn a_part_of_the_pattern_is_what_the_whole_has_there() {
    let (q, k) = (numbers([2, 4, 6, 4]), numbers([2, 2, 9, 4]));
    let options = AttentionOptions {
        window: Some(5),
        slopes: Some(vec![0.5, 0.4, 0.3, 0.2]),
        bias: Some(numbers([1, 4, 6, 9])),
        normaliser: Normaliser::Softmax { sink: Some(numbers([1, 4, 1, 1])) },
        ..options()
    };
    let whole = pattern(q.clone(), k.clone(), options.clone());
    for (heads, rows) in [(1..4, 2..5), (0..4, 5..6), (3..4, 0..6)] {
        let part = pattern_of(q.clone(), k.clone(), options.clone(), heads.clone(), rows.clone());
        let there = whole.clone().narrow(1, heads.start, heads.len()).narrow(2, rows.start, rows.len());
        assert_eq!(part.dims(), there.dims());
        let apart = (part - there).abs().max().into_scalar::<f64>();
        assert!(apart < 1e-14, "heads {heads:?}, rows {rows:?}: {apart}");
    }
}

#[test]
#[should_panic(expected = "a window of 0 keys")]
fn a_window_that_hides_a_query_s_own_key_is_refused() {
    let x = numbers([1, 1, 4, 4]);
    softmax_attention(x.clone(), x.clone(), x, AttentionOptions { window: Some(0), ..options() });
}

/// Padding: the lowest number or −∞ on keys that are not to be seen.
#[test]
fn a_bias_however_low_shows_no_future_key_and_makes_no_nan() {
    let x = numbers([1, 1, 3, 4]);
    for low in [f64::NEG_INFINITY, f64::MIN, f32::MIN.into(), -1e30] {
        let like = (&Device::flex(), DType::F64);
        let bias = |keys: [f64; 3]| Some(Tensor::<4>::from_data(TensorData::new(keys.to_vec(), [1, 1, 1, 3]), like));
        let with = |keys| AttentionOptions { bias: bias(keys), ..options() };
        let found = rows(pattern(x.clone(), x.clone(), with([low, 0.0, 0.0])));
        assert_eq!(found[0], [1.0, 0.0, 0.0], "query 0 sees key 0 alone, {low}");
        assert_eq!(found[1], [0.0, 1.0, 0.0], "{low}");
        // Where all keys are low, they share what there is among those that are no future.
        let found = rows(pattern(x.clone(), x.clone(), with([low; 3])));
        assert_eq!(found[0], [1.0, 0.0, 0.0], "{low}");
        assert!(found[2].iter().all(|weight| *weight > 0.0), "{low}: {found:?}");
        // The tiles agree.
        for keys in [[low, 0.0, 0.0], [low; 3]] {
            let fast = softmax_attention(x.clone(), x.clone(), x.clone(), with(keys));
            let slow = crate::by_reference(|| softmax_attention(x.clone(), x.clone(), x.clone(), with(keys)));
            let difference: f64 = (fast - slow).abs().max().into_scalar();
            assert!(difference < 1e-12, "{low}: {difference}");
        }
    }
}

#[test]
fn what_is_empty_has_an_empty_gradient() {
    let device = Device::flex().autodiff();
    for shape in [[0, 2, 4, 8], [1, 2, 0, 8]] {
        let [q, k, v] = [(); 3].map(|()| Tensor::<4>::zeros(shape, &device).require_grad());
        let gradients = softmax_attention(q.clone(), k.clone(), v.clone(), 1.0).sum().backward();
        for x in [q, k, v] {
            assert_eq!(x.grad(&gradients).expect("a gradient").dims(), shape);
        }
    }
}
