//! The update of a weight and the size of gradients, run on the CPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::adamw::{Update, cuda};
use kernels::{adamw, by_reference, squares};

#[test]
fn gradients_are_clipped_and_their_weight_is_updated_in_place() {
    let emulator = emulator();
    let counts = [3, 70_002, 20_000];
    let all = counts.len();
    let gradients: Vec<Vec<f64>> = counts.iter().enumerate().map(|(i, &count)| numbers(i + 1, count)).collect();
    let tensors = gradients.iter().map(|g| constant(g, [g.len()], DType::F64)).collect();
    let expected = values(by_reference(|| squares(tensors)));

    let mut sums = unwritten(all * cuda::PARTS, 4);
    for (i, gradient) in gradients.iter().enumerate() {
        let mut buffers = vec![halves(gradient), sums];
        emulator(&[cuda::sum_squares(gradient.len(), i, all, DType::BF16)], &mut buffers);
        sums = buffers.pop().unwrap();
    }
    let mut buffers = vec![sums, words(counts.map(cuda::parts)), unwritten(all, 4)];
    emulator(&[cuda::join_squares(all)], &mut buffers);
    let found = buffers.pop().unwrap();
    assert_close("squares", &from_singles(&found), &expected, 1e-5);

    let norm = expected.iter().sum::<f64>().sqrt();
    let scaled = |limit: f64| {
        let mut buffers = vec![found.clone(), unwritten(1, 4)];
        emulator(&[cuda::clip(all, limit)], &mut buffers);
        buffers.pop().unwrap()
    };
    assert_eq!(from_singles(&scaled(2.0 * norm)), [1.0]);
    let scale = scaled(0.7);
    assert_close("the clipping", &from_singles(&scale), &[0.7 / norm], 1e-5);

    let update =
        Update { betas: [0.9, 0.95], scale: 0.7 / norm, keep: 0.99, size: 0.1, spread: 1.0 / 0.3, epsilon: 1e-8 };
    for gradient in &gradients {
        let count = gradient.len().min(2002);
        let gradient = &gradient[..count];
        let (weight, first) = (numbers(5, count), numbers(6, count));
        let second: Vec<f64> = numbers(7, count).iter().map(|x| x.abs() * 1e-4).collect();
        let (new, moments) = by_reference(|| {
            let [weight, gradient, first, second] =
                [&weight, gradient, &first, &second].map(|x| constant(x, [count], DType::F64));
            adamw(weight, gradient, Some([first, second]), update)
        });
        let mut buffers = vec![singles(&weight), halves(gradient), singles(&first), singles(&second), scale.clone()];
        emulator(&[cuda::step(count, &update, DType::BF16)], &mut buffers);
        let [first, second] = moments.map(values);
        assert_close("the weight", &from_singles(&buffers[0]), &values(new), 1e-4);
        assert_close("the first moment", &from_singles(&buffers[2]), &first, 1e-5);
        assert_close("the second moment", &from_singles(&buffers[3]), &second, 1e-5);
    }
}
