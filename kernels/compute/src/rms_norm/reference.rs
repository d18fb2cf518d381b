use super::{Activation, Beside, GatePlace, cpu::Norm};
use burn::tensor::{Tensor, activation};

pub fn norm<const D: usize>(norm: &Norm, x: Tensor<D>, weight: Option<Tensor<1>>, z: Option<Tensor<D>>) -> Tensor<D> {
    let gate = |x: Tensor<D>, place: GatePlace| match (&z, norm.beside.and_then(Beside::gate)) {
        (Some(z), Some((Activation::Silu, there))) if there == place => x * activation::silu(z.clone()),
        (Some(z), Some((Activation::Sigmoid, there))) if there == place => x * activation::sigmoid(z.clone()),
        _ => x,
    };
    let x = gate(x, GatePlace::Before);
    let squares = x.clone().square();
    let size = if norm.mean { squares.mean_dim(D - 1) } else { squares.sum_dim(D - 1) };
    let y = x * (size + norm.eps).sqrt().recip();
    let y = match weight {
        Some(weight) => y * (weight + norm.offset).unsqueeze(),
        None => y,
    };
    gate(y * norm.scale, GatePlace::After)
}
