use super::super::cross_entropy;
use super::device;
use burn::tensor::{Int, Tensor};

fn case() -> (Tensor<3>, Tensor<2, Int>) {
    let logits = Tensor::<3>::from_data([[[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -1.0, 2.0]]], &device());
    (logits, Tensor::from_data([[1, 2, 0]], &device()))
}

/// `log Σ e^z − z_target`, by hand.
fn expected(rows: &[(usize, f64)]) -> f64 {
    let logits = [[1.0f64, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -1.0, 2.0]];
    let targets = [1, 2, 0];
    let nll = |row: usize| logits[row].iter().map(|z| z.exp()).sum::<f64>().ln() - logits[row][targets[row]];
    let total: f64 = rows.iter().map(|(_, weight)| weight).sum();
    rows.iter().map(|&(row, weight)| weight * nll(row)).sum::<f64>() / total
}

fn loss(mask: &[f32]) -> f64 {
    let (logits, targets) = case();
    cross_entropy(logits, targets, mask).into_scalar::<f32>().into()
}

#[test]
fn the_loss_is_the_mean_negative_log_likelihood() {
    assert!((loss(&[1.0, 1.0, 1.0]) - expected(&[(0, 1.0), (1, 1.0), (2, 1.0)])).abs() < 1e-6);
}

#[test]
fn the_mean_is_over_the_mask() {
    assert!((loss(&[1.0, 0.0, 1.0]) - expected(&[(0, 1.0), (2, 1.0)])).abs() < 1e-6);
    assert!((loss(&[0.5, 0.0, 2.0]) - expected(&[(0, 0.5), (2, 2.0)])).abs() < 1e-6);
}

#[test]
fn a_mask_that_counts_nothing_gives_nan_rather_than_zero() {
    assert!(loss(&[0.0; 3]).is_nan());
}

#[test]
fn only_counted_rows_get_a_gradient_and_it_is_softmax_minus_target() {
    let (logits, targets) = case();
    let logits = logits.autodiff().require_grad();
    let gradients = cross_entropy(logits.clone(), targets, &[0.0, 1.0, 0.0]).backward();
    let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().iter().collect();
    let third = 1.0 / 3.0;
    let expected = [0.0, 0.0, 0.0, third, third, third - 1.0, 0.0, 0.0, 0.0];
    for (got, expected) in gradient.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-6, "{gradient:?}");
    }
}
