use burn::tensor::{FloatDType, Int, Tensor, TensorData, activation::log_softmax};

/// The loss of logits `[tokens, vocab]`; see [`cross_entropy`](super::cross_entropy()).
///
/// Rows without weight are left out before the softmax, which is what makes a task with a few answers
/// and a large vocabulary cheap. Logits of 16 bits have a loss in f32.
pub fn of_logits(logits: Tensor<2>, targets: Tensor<1, Int>, weights: &[f32]) -> Tensor<1> {
    let [tokens, _] = logits.dims();
    assert!(
        targets.dims() == [tokens] && weights.len() == tokens,
        "logits of {tokens} tokens, {:?} targets and {} weights do not fit together",
        targets.dims(),
        weights.len()
    );
    let device = logits.device();
    let (mut logits, mut targets) = (logits, targets);
    let counted: Vec<i32> = (0..tokens as i32).filter(|&i| weights[i as usize] != 0.0).collect();
    if counted.is_empty() {
        return in_f32(logits).sum() * f32::NAN;
    }
    let weights: Vec<f32> = counted.iter().map(|&i| weights[i as usize]).collect();
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let count = counted.len();
    if count < tokens {
        let rows = Tensor::<1, Int>::from_data(TensorData::new(counted, [count]), &device);
        logits = logits.select(0, rows.clone());
        targets = targets.select(0, rows);
    }
    let chosen = log_softmax(in_f32(logits), 1).gather(1, targets.reshape([count, 1])).reshape([count]);
    // Not a division: burn's backward of it rounds the divisor to f32.
    if weights.iter().all(|&w| w == 1.0) {
        return chosen.sum() * -total.recip();
    }
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [count]), (&device, chosen.dtype()));
    (chosen * weights).sum() * -total.recip()
}

fn in_f32(logits: Tensor<2>) -> Tensor<2> {
    if logits.dtype().size() < 4 { logits.cast(FloatDType::F32) } else { logits }
}
