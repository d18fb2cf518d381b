use burn::tensor::Tensor;

pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let [out, width] = weight.dims();
    shape[D - 1] = out;
    let count: usize = shape[..D - 1].iter().product();
    // One flat product: a broadcast batch of small ones is slower on every backend.
    let y = x.reshape([count, width]).matmul(weight.transpose());
    let y = bias.map_or(y.clone(), |bias| y + bias.unsqueeze());
    y.reshape(shape)
}
