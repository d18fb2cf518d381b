//! The loss: cross-entropy where the mask counts.

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};

/// `Σ mask · −log softmax(logits)[target] / Σ mask`, in nats per counted token, `[1]`.
///
/// Shapes: `logits [batch, time, vocab]`, `targets [batch, time]`, `mask` of `batch · time` weights
/// in row-major order. Rows without weight are left out before the softmax, which is what makes a
/// task with a few answers and a large vocabulary cheap. NaN when no position counts.
///
/// # Panics
/// Where the shapes do not fit.
pub fn cross_entropy(logits: Tensor<3>, targets: Tensor<2, Int>, mask: &[f32]) -> Tensor<1> {
    let [batch, time, vocab] = logits.dims();
    let tokens = batch * time;
    assert_eq!([batch, time], targets.dims(), "logits are [batch {batch}, time {time}], targets {:?}", targets.dims());
    assert_eq!(tokens, mask.len(), "expected a mask of {tokens} weights, got {}", mask.len());
    let device = logits.device();
    let mut logits = logits.reshape([tokens, vocab]);
    let mut targets = targets.reshape([tokens]);
    let counted: Vec<i32> = (0..tokens as i32).filter(|&i| mask[i as usize] != 0.0).collect();
    if counted.is_empty() {
        return logits.sum() * f32::NAN;
    }
    let weights: Vec<f32> = counted.iter().map(|&i| mask[i as usize]).collect();
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let count = counted.len();
    if count < tokens {
        let rows = Tensor::<1, Int>::from_data(TensorData::new(counted, [count]), &device);
        logits = logits.select(0, rows.clone());
        targets = targets.select(0, rows);
    }
    let chosen = log_softmax(logits, 1).gather(1, targets.reshape([count, 1])).reshape([count]);
    if weights.iter().all(|&w| w == 1.0) {
        return chosen.sum() / -total;
    }
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [count]), (&device, chosen.dtype()));
    (chosen * weights).sum() / -total
}
