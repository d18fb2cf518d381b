use burn::tensor::{Tensor, activation::silu};

pub fn short_conv(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>, past: Option<Tensor<3>>) -> Tensor<3> {
    let [batch, time, channels] = x.dims();
    let taps = weight.dims()[1];
    let past = past.unwrap_or_else(|| Tensor::zeros([batch, taps - 1, channels], (&x.device(), x.dtype())));
    let padded = if taps == 1 { x } else { Tensor::cat(vec![past, x], 1) };
    let y = (0..taps)
        .map(|tap| padded.clone().narrow(1, tap, time) * weight.clone().narrow(1, tap, 1).reshape([1, 1, channels]))
        .reduce(|sum, term| sum + term)
        .expect("a kernel has at least one tap");
    silu(match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    })
}
