use super::Update;
use burn::tensor::Tensor;

pub fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    moments: Option<[Tensor<1>; 2]>,
    update: Update,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let [beta1, beta2] = update.betas;
    let shape = gradient.dims();
    let mut g = gradient.reshape([-1]);
    if update.scale != 1.0 {
        g = g * update.scale;
    }
    let squared = g.clone().square() * (1.0 - beta2);
    let moments = match moments {
        Some([first, second]) => [first * beta1 + g * (1.0 - beta1), second * beta2 + squared],
        None => [g * (1.0 - beta1), squared],
    };
    let [first, second] = moments.clone();
    let step = first * update.size / (second.sqrt() * update.spread + update.epsilon);
    let weight = if update.keep == 1.0 { weight } else { weight * update.keep };
    (weight - step.reshape(shape), moments)
}

pub fn squares(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    Tensor::cat(tensors.into_iter().map(|x| x.square().sum()).collect(), 0)
}
