use super::{ExpertMatrices, Routing};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::silu};

/// Token by token.
pub fn route(shares: Tensor<2>, per_token: usize) -> Vec<i32> {
    let [_, experts] = shares.dims();
    let shares = numbers(shares);
    let best = |row: &[f64]| {
        let mut order: Vec<i32> = (0..experts as i32).collect();
        let share = |e: i32| row[e as usize];
        order.sort_by(|&a, &b| share(b).partial_cmp(&share(a)).expect("numbers"));
        order.truncate(per_token);
        order
    };
    shares.chunks(experts).flat_map(best).collect()
}

/// Shares in which what is no number is the lowest one.
pub(super) fn numbers(shares: Tensor<2>) -> Vec<f64> {
    let number = |share: f64| if share.is_nan() { f64::MIN } else { share.max(f64::MIN) };
    shares.into_data().iter::<f64>().map(number).collect()
}

pub fn experts(x: Tensor<2>, weights: Tensor<2>, routing: &Routing, matrices: &ExpertMatrices) -> Tensor<2> {
    let ([tokens, d], k, device) = (x.dims(), routing.per_token, x.device());
    // Tokens in the order of their experts, so that each expert works on one run of rows.
    let rows = x.select(0, ints(routing.places.iter().map(|place| place / k), &device));
    let worked = routing.busy().map(|(e, run)| {
        let [gate, up, down] = [&matrices.gate, &matrices.up, &matrices.down].map(|stack| -> Tensor<2> {
            let [_, rows, columns] = stack.dims();
            stack.clone().narrow(0, e, 1).reshape([rows, columns])
        });
        let mine = rows.clone().narrow(0, run.start, run.len());
        let hidden = silu(mine.clone().matmul(gate.transpose())) * mine.matmul(up.transpose());
        hidden.matmul(down.transpose())
    });
    let worked = Tensor::cat(worked.collect(), 0);
    let worked = worked.select(0, ints(routing.back().into_iter(), &device)).reshape([tokens, k, d]);
    (worked * weights.unsqueeze_dim::<3>(2)).sum_dim(1).reshape([tokens, d])
}

fn ints(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.map(|i| i as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
