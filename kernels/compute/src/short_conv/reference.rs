use burn::tensor::{Tensor, activation::silu};

pub fn short_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    past: Option<Tensor<3>>,
) -> (Tensor<3>, Tensor<3>) {
    let [batch, time, channels] = x.dims();
    let [weight_channels, taps] = weight.dims();
    assert_eq!(
        channels, weight_channels,
        "expected [batch, time, {weight_channels}], got [{batch}, {time}, {channels}]"
    );
    let past = past.unwrap_or_else(|| Tensor::zeros([batch, taps - 1, channels], (&x.device(), x.dtype())));
    // One tap sees the current token alone: its past is empty and stays so.
    let padded = if taps == 1 { x } else { Tensor::cat(vec![past.clone(), x], 1) };
    let y = (0..taps)
        .map(|tap| padded.clone().narrow(1, tap, time) * weight.clone().narrow(1, tap, 1).reshape([1, 1, channels]))
        .reduce(|sum, term| sum + term)
        .expect("a kernel has at least one tap");
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    let past = if taps == 1 { past } else { padded.narrow(1, time, taps - 1) };
    (silu(y), past)
}
