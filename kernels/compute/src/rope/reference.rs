use super::Pairs;
use burn::tensor::Tensor;

pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, pairs: Pairs) -> Tensor<4> {
    let [batch, heads, time, d] = x.dims();
    let half = cos.dims()[1];
    let (cos, sin) = (cos.unsqueeze::<4>(), sin.unsqueeze::<4>());
    let turn = |first: Tensor<4>, second: Tensor<4>| {
        let to_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        (to_first, second * cos.clone() + first * sin.clone())
    };
    let head = x.clone().narrow(3, 0, 2 * half);
    let head = match pairs {
        Pairs::HalfSplit => {
            let (first, second) = turn(head.clone().narrow(3, 0, half), head.narrow(3, half, half));
            Tensor::cat(vec![first, second], 3)
        }
        Pairs::Interleaved => {
            let pairs = head.reshape([batch, heads, time, half, 2]);
            let part = |i| pairs.clone().narrow(4, i, 1).reshape([batch, heads, time, half]);
            let (first, second) = turn(part(0), part(1));
            Tensor::stack::<5>(vec![first, second], 4).reshape([batch, heads, time, 2 * half])
        }
    };
    if 2 * half == d {
        return head;
    }
    Tensor::cat(vec![head, x.narrow(3, 2 * half, d - 2 * half)], 3)
}
