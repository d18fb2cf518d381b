//! The definition: one token after the other.

use super::{Gates, LogDecay};
use burn::tensor::Tensor;

pub fn run(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: &LogDecay,
    gates: &Gates,
    mut state: Tensor<4>,
) -> (Tensor<4>, Tensor<4>) {
    let time = q.dims()[2];
    let (erased, written) = (gates.erased(&k), gates.written(v));
    let mut out = Vec::with_capacity(time);
    for t in 0..time {
        let at = |x: &Tensor<4>| x.clone().narrow(2, t, 1); // [batch, heads, 1, d]
        state = match decay {
            LogDecay::None => state,
            LogDecay::Head(g) => state * g.clone().narrow(2, t, 1).unsqueeze_dim::<4>(3).exp(),
            LogDecay::Channel(g) => state * at(g).transpose().exp(),
        };
        let new = match &erased {
            None => at(&written),
            Some(erased) => at(&written) - at(erased).matmul(state.clone()),
        };
        state = state + at(&k).transpose().matmul(new);
        out.push(at(&q).matmul(state.clone()));
    }
    (Tensor::cat(out, 2), state)
}
