//! Linear mixers: a state `S` of constant size in place of a cache that grows.
//!
//! Every one is a row of one table (`o = Sᵀ q`; the update is `kernels::linear_attention`'s):
//!
//! | mixer | update of `S` | gates | q, k, v and output | state per head |
//! |---|---|---|---|---|
//! | [`LinearAttention`] | `S + k vᵀ` | – | `φ = elu + 1` on q, k; divided by `q · Σk` | `dk·(dv + 1)`, and to the next 4 |
//! | [`RetNet`] | `γ S + k vᵀ` | `γ_h = 1 − 2^{−5−h}`, fixed | RoPE; RMSNorm ⊙ silu gate; `dv = 2 dk` | `dk·dv` |
//! | [`Lightning`] | `γ S + k vᵀ` | `ln γ_h = −(8/H)(1 − l/L) h`, fixed | silu on q, k, v; RMSNorm over all heads ⊙ σ gate | `dk·dv` |
//! | [`Gla`] | `Diag(α) S + k vᵀ` | `α = σ(x W₁ᵀ W₂ᵀ + b)^{1/16}` | RMSNorm ⊙ silu gate; `dk = dv / 2` | `dk·dv` |
//! | [`Mamba2`] | `e^{ΔA} S + Δ B xᵀ` | `Δ = softplus(·)`, `A < 0` per head | conv; `B, C` shared by heads; `+ D x`; RMSNorm(o ⊙ silu gate) | `N·P` |
//! | [`DeltaNet`] | `(I − β k kᵀ) S + β k vᵀ` | `β = σ(·)` | conv, L2 norm of q, k; RMSNorm | `dk·dv` |
//! | [`GatedDelta`] | `α (I − β k kᵀ) S + β k vᵀ` | `α` per head, `β` | conv, L2 norm; RMSNorm ⊙ silu gate | `dk·dv` |
//! | [`Kda`] | `(I − β k kᵀ) Diag(α) S + β k vᵀ` | `α` per channel, `β` | conv, L2 norm; RMSNorm ⊙ σ gate | `dk·dv` |
//! | [`GatedDelta2`] | `(I − k (b ⊙ k)ᵀ) Diag(α) S + k (w ⊙ v)ᵀ` | `α`, `b` per key channel, `w` per value channel | as KDA | `dk·dv` |
//!
//! "Conv" is a causal depthwise convolution over a few tokens, then silu. The learned decays but GLA's are
//! `α = exp(−e^{A_log} softplus(· + dt_bias))`, started as [`gated_delta`](GatedDelta) says.

mod delta_net;
mod gated_delta;
mod gated_delta2;
mod gla;
mod kda;
mod lightning;
mod linear_attention;
mod mamba2;
mod ret_net;

pub use delta_net::{DeltaNet, DeltaNetConfig};
pub use gated_delta::{GatedDelta, GatedDeltaConfig};
pub use gated_delta2::{GatedDelta2, GatedDelta2Config};
pub use gla::{Gla, GlaConfig};
pub use kda::{Kda, KdaConfig};
pub use lightning::{Lightning, LightningConfig, LightningDecays};
pub use linear_attention::{FeatureMap, LinearAttention, LinearAttentionConfig};
pub use mamba2::{Mamba2, Mamba2Config};
pub use ret_net::{RetNet, RetNetConfig};

use super::{in_f32, merge_heads, split_heads};
use crate::error::{ZooError, divisible, positive};
use crate::{Cache, Init, Linear, RmsNorm, Tap};
use burn::module::Param;
use burn::tensor::{Tensor, TensorData, activation};
use kernels::linear_attention::effective_pattern;
use kernels::rms_norm::{Activation, GatePlace};
use kernels::{Gates, LinearForm, LogDecay, l2_norm, short_conv};
use rand::RngExt;

/// Convolves `parts` along time with one kernel per channel, and applies silu.
fn convolve<const N: usize>(
    parts: [Tensor<3>; N],
    conv: &Param<Tensor<2>>,
    bias: Option<&Param<Tensor<1>>>,
    cache: Option<&mut Cache>,
) -> [Tensor<3>; N] {
    let past: Option<Tensor<3>> = cache.as_ref().and_then(|cache| cache.get("conv"));
    let mut first = 0;
    // One by one: their kernels stand side by side, they themselves need not.
    let (out, next): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|part| {
            let (from, width) = (first, part.dims()[2]);
            first += width;
            let bias = bias.map(|bias| bias.val().narrow(0, from, width));
            let past = past.clone().map(|past| past.narrow(2, from, width));
            short_conv(part, conv.val().narrow(0, from, width), bias, past)
        })
        .unzip();
    if let Some(cache) = cache
        && conv.dims()[1] > 1
    {
        cache.set("conv", Tensor::cat(next, 2));
    }
    out.try_into().expect("as many parts as projections")
}

/// Queries, keys and values of the delta rule's mixers with as many key heads as value heads: convolved,
/// then queries and keys of unit length, queries scaled by `1/√d_k`.
fn delta_inputs(
    x: &Tensor<3>,
    projections: [&Linear; 3],
    conv: &Param<Tensor<2>>,
    heads: usize,
    cache: Option<&mut Cache>,
    tap: &mut dyn Tap,
) -> [Tensor<4>; 3] {
    let parts = convolve(Linear::all(projections, x.clone()), conv, None, cache);
    let [q, k, v] = parts.map(|part| split_heads(part, heads));
    let scale = (q.dims()[3] as f64).powf(-0.5);
    let q = tap.at("q", l2_norm(q, 1e-6, scale));
    let k = tap.at("k", l2_norm(k, 1e-6, 1.0));
    [q, k, tap.at("v", v)]
}

/// The uniform range of a depthwise convolution in PyTorch, ±1/√taps.
fn initial_conv(channels: usize, taps: usize, init: &mut Init) -> Param<Tensor<2>> {
    let bound = (taps as f64).powf(-0.5);
    init.uniform([channels, taps], -bound, bound)
}

/// Runs the operator from the state in `cache`, or over a whole sequence in chunks.
fn attend(
    [q, k, v]: [Tensor<4>; 3],
    decay: &LogDecay,
    gates: &Gates,
    chunk: usize,
    cache: Option<&mut Cache>,
    tap: &mut dyn Tap,
) -> Tensor<4> {
    let pattern = offered(cache.is_none(), || effective_pattern(q.clone(), k.clone(), decay, gates), tap);
    let changed = pattern.map(|pattern| pattern.matmul(gates.values(v.clone())));
    let o = run_state([q, k, v], decay, gates, chunk, cache, tap);
    changed.unwrap_or(o)
}

/// Offers the pattern of a `whole` sequence to those who look, and returns what comes back where it may
/// have been changed. The pattern describes a sequence from its beginning: a decoding step has only its state.
fn offered(whole: bool, pattern: impl FnOnce() -> Tensor<4>, tap: &mut dyn Tap) -> Option<Tensor<4>> {
    if whole { tap.patched("pattern", pattern) } else { None }
}

/// [`attend`] without the pattern.
fn run_state(
    [q, k, v]: [Tensor<4>; 3],
    decay: &LogDecay,
    gates: &Gates,
    chunk: usize,
    cache: Option<&mut Cache>,
    tap: &mut dyn Tap,
) -> Tensor<4> {
    // Taken out, so that the step changes the state where it lies.
    let (cache, state) = match cache {
        None => (None, None),
        Some(cache) => {
            let state = cache.take("state");
            (Some(cache), state)
        }
    };
    let form = if q.dims()[2] == 1 { LinearForm::Recurrent } else { LinearForm::Chunked(chunk) };
    let (o, state) = kernels::linear_attention(q, k, v, decay, gates, state, form);
    let state = tap.at("state", state);
    if let Some(cache) = cache {
        cache.set("state", state);
    }
    o
}

/// `(RMSNorm(o) ⊙ φ(z)) W_oᵀ`, or `RMSNorm(o ⊙ φ(z)) W_oᵀ`, with `o [batch, heads, time, d_v]` and
/// `z [batch, time, heads · d_v]`. The norm is one of every head or of all together, as wide as its weight.
fn norm_gate_project(
    o: Tensor<4>,
    norm: &RmsNorm,
    z: Tensor<3>,
    (activation, place): (Activation, GatePlace),
    o_proj: &Linear,
    tap: &mut dyn Tap,
) -> Tensor<3> {
    let [batch, heads, time, d_value] = o.dims();
    let o = merge_heads(o);
    let split = |x: Tensor<3>, size: usize| x.reshape([batch, time, heads * d_value / size, size]);
    let size = norm.weight.dims()[0];
    let gate = || match activation {
        Activation::Sigmoid => activation::sigmoid(z.clone()),
        Activation::Silu => activation::silu(z.clone()),
    };
    let patched = tap.patched("gate", || split(gate(), d_value));
    let patched = patched.map(|gate| gate.reshape([batch, time, heads * d_value]));
    let normed = match (patched, place) {
        (None, _) => norm.gated(split(o, size), split(z, size), activation, place),
        (Some(gate), GatePlace::Before) => norm.forward(split(o * gate, size)),
        (Some(gate), GatePlace::After) => norm.forward(split(o, size)) * split(gate, size),
    };
    tap.at("out", o_proj.forward(normed.reshape([batch, time, heads * d_value])))
}

/// `softplus(a + bias)`, in f32 where tokens have fewer bits: of small results they would keep too little.
fn step_size(a: Tensor<3>, bias: &Param<Tensor<1>>) -> Tensor<3> {
    softplus(in_f32(a) + in_f32(bias.val()).unsqueeze())
}

/// `e^a`, as precise as [`step_size`].
fn rate(a_log: &Param<Tensor<1>>) -> Tensor<1> {
    in_f32(a_log.val()).exp()
}

/// Offers `e^g`, what survives a step, and takes `g` back from who may have changed it.
fn tap_decay<const D: usize>(log_decay: Tensor<D>, tap: &mut dyn Tap) -> Tensor<D> {
    match tap.patched("decay", || log_decay.clone().exp()) {
        // A decay that underflowed is as good as none, and its logarithm must stay finite.
        Some(patched) => patched.clamp_min(1e-30).log(),
        None => log_decay,
    }
}

/// The same decay for every token, one per head, offered like one that the token chooses.
fn fixed_decay(log_decay: &[f64], like: &Tensor<4>, tap: &mut dyn Tap) -> LogDecay {
    let [batch, heads, time, _] = like.dims();
    let one = TensorData::new(log_decay.to_vec(), [1, heads, 1]);
    let log_decay = Tensor::<3>::from_data(one, (&like.device(), like.dtype())).expand([batch, heads, time]);
    LogDecay::Head(tap_decay(log_decay, tap))
}

/// `[batch, time, heads]` → `[batch, heads, time]`.
fn by_head(x: Tensor<3>) -> Tensor<3> {
    x.swap_dims(1, 2)
}

/// `log(1 + e^x)` without overflow for large `x` and without losing small results.
fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::relu(x.clone()) + x.abs().neg().exp().log1p()
}

/// `A ~ U(1, 16)`, as its logarithm.
fn initial_a_log(heads: usize, init: &mut Init) -> Param<Tensor<1>> {
    init.draw([heads], |rng| rng.random_range(1.0..16.0f64).ln())
}

/// `softplus⁻¹(dt)` for `dt` log-uniform in [0.001, 0.1].
fn initial_dt_bias(size: usize, init: &mut Init) -> Param<Tensor<1>> {
    init.draw([size], |rng| {
        let dt = (rng.random_range(0.001f64.ln()..0.1f64.ln())).exp().max(1e-4);
        dt + (-(-dt).exp_m1()).ln()
    })
}

/// Channels of a head: as configured (then not zero), or the head's share of `width`.
fn check_share(
    name: &'static str,
    configured: Option<usize>,
    (what, width): (&'static str, usize),
    heads: usize,
) -> Result<(), ZooError> {
    match configured {
        Some(channels) => positive(name, channels)?,
        None => divisible(what, width, "heads", heads)?,
    };
    Ok(())
}

fn check_chunk(chunk: usize) -> Result<(), ZooError> {
    match chunk.is_power_of_two() {
        true => Ok(()),
        false => Err(ZooError::Invalid { name: "chunk", value: chunk.to_string(), expected: "a power of two".into() }),
    }
}

fn default_conv() -> usize {
    4
}

fn default_chunk() -> usize {
    64
}

fn default_norm_eps() -> f64 {
    1e-5
}
