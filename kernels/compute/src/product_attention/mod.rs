//! Attention over keys and values that are stored as codes of a product quantiser, without ever
//! reconstructing them (MILLION, Wang et al. 2025; asymmetric look-up as in Jégou et al. 2011).
//!
//! A vector of `d` channels is cut into `M` sub-vectors, each the number of a centroid
//! `C_m[c] ∈ R^{d/M}`. With codes `a_sm` of the keys and `b_sm` of the values,
//! ```text
//! T_m[c] = q_m · C^K_m[c]          s_s = Σ_m T_m[a_sm]                a table per query, M reads per key
//! w_m[c] = Σ_s p_s [b_sm = c]      o_m = Σ_c w_m[c] C^V_m[c]         weight gathers on centroids
//! ```
//! The newest keys and values stand beside in full precision. Each part is attended to alone, with
//! the logarithm `L = log Σ_s e^{s_s}` of its sum, and the two are merged by
//! `o = Σ_i e^{L_i − L} o_i`, `L = log Σ_i e^{L_i}` (a sink is a part without a value).

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{choose_untracked, input, run, run_on_cpu, whole, whole_numbers};
use crate::selftest::{Case, Inputs};
use crate::softmax_attention::gated;
use crate::trace::Implementation;
use crate::{AttentionOptions, Normaliser};
use burn::tensor::{Int, Tensor};
use burn_backend::TensorMetadata;
use std::sync::Arc;

/// Keys or values as codes.
#[derive(Clone, Debug)]
pub struct ProductCodes {
    /// Which centroid, `[batch, kv_heads, source, subspaces]`, each below the number of centroids.
    pub codes: Tensor<4, Int>,
    /// `[subspaces, centroids, width]`, where `subspaces · width` are the channels.
    pub centroids: Tensor<3>,
}

/// What [`softmax_attention`](crate::softmax_attention) gives over the reconstructed keys and values
/// followed by the `recent` ones.
///
/// Shapes: `q [batch, heads, time, d]`, `recent` keys and values `[batch, kv_heads, recent, d]` →
/// `[batch, heads, time, d_value]`. The queries are the last of all tokens, and their own keys are
/// among the recent ones: `time ≤ recent`.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn product_attention(
    q: Tensor<4>,
    keys: &ProductCodes,
    values: &ProductCodes,
    recent: (Tensor<4>, Tensor<4>),
    options: impl Into<AttentionOptions>,
) -> Tensor<4> {
    look_up(q, keys, values, recent, options.into())
}

fn look_up(
    q: Tensor<4>,
    keys: &ProductCodes,
    values: &ProductCodes,
    (recent_k, recent_v): (Tensor<4>, Tensor<4>),
    mut options: AttentionOptions,
) -> Tensor<4> {
    let ([batch, heads, time, d], [_, kv_heads, recent, _]) = (q.dims(), recent_k.dims());
    let coded = keys.codes.dims()[2];
    assert!(recent >= time, "{time} queries but only {recent} recent keys");
    options.check();
    let value_width = recent_v.dims()[3];
    for (what, codes, newest, channels) in [("keys", keys, &recent_k, d), ("values", values, &recent_v, value_width)] {
        let ([.., subspaces], [parts, _, width]) = (codes.codes.dims(), codes.centroids.dims());
        assert!(
            codes.codes.dims() == [batch, kv_heads, coded, parts]
                && newest.dims() == [batch, kv_heads, recent, channels]
                && parts * width == channels
                && heads.is_multiple_of(kv_heads),
            "{what} of {coded} tokens in {subspaces} codes of {parts} × {width} channels {:?}, recent ones {:?} and \
             queries {:?} do not fit together",
            codes.codes.dims(),
            newest.dims(),
            q.dims()
        );
    }
    let gate = options.gate.take();
    let dispatch = |x: &Option<Tensor<4>>| x.clone().and_then(input);
    let sink = match &options.normaliser {
        Normaliser::Softmax { sink } => sink,
        Normaliser::Sigmoid => &None,
    };
    let inputs = [
        input(q.clone()),
        input(recent_k.clone()),
        input(recent_v.clone()),
        input(keys.centroids.clone()),
        input(values.centroids.clone()),
        dispatch(&options.bias),
        dispatch(sink),
    ];
    let known = cpu::Options {
        coded,
        scale: options.scale,
        window: options.window,
        softcap: options.softcap,
        slopes: options.slopes.clone(),
        sigmoid: matches!(options.normaliser, Normaliser::Sigmoid),
    };
    let shapes = inputs.each_ref().map(|x| x.as_ref().map(TensorMetadata::shape));
    let kernels = |asked: &_| cuda::permits(asked, &known, shapes);
    let out = match choose_untracked("product_attention", inputs.iter().flatten(), kernels) {
        Implementation::Cpu => {
            let codes = |x: &ProductCodes| Arc::new(whole_numbers(x.codes.clone()));
            let operator = cpu::LookUp { keys: codes(keys), values: codes(values), options: known };
            Tensor::from_dispatch(run_on_cpu(operator, inputs))
        }
        Implementation::Cuda => with_gpu!(inputs, B => {
            let codes = |x: &ProductCodes| whole::<B, 4>(x.codes.clone());
            let operator = cuda::GpuLookUp::<B> { keys: codes(keys), values: codes(values), options: known };
            Tensor::from_dispatch(run::<B, _, 7>(operator, inputs))
        }),
        Implementation::Reference => reference::attend(q, keys, values, (recent_k, recent_v), options),
    };
    gated(out, gate)
}

pub(crate) fn cases() -> Vec<Case> {
    /// Batch, heads, key heads, queries, coded and recent tokens; subspaces and width of keys and values.
    fn case(
        name: &str,
        [batch, heads, kv_heads, time, coded, recent]: [usize; 6],
        [[k_parts, k_width], [v_parts, v_width]]: [[usize; 2]; 2],
        options: impl Fn(&Inputs) -> AttentionOptions + 'static,
    ) -> Case {
        const COUNT: usize = 32;
        let codes = move |parts: usize, step: usize, like: &Tensor<3>| {
            let shape = [batch, kv_heads, coded, parts];
            let codes: Vec<i32> = (0..shape.iter().product()).map(|i| (i * step % 61 % COUNT) as i32).collect();
            Tensor::from_data(burn::tensor::TensorData::new(codes, shape), &like.device())
        };
        let run = move |x: &Inputs| {
            // What decodes has no gradient.
            let centroids = |name| x.get::<3>(name).detach();
            let (keys, values) = (centroids("key_centroids"), centroids("value_centroids"));
            let keys = ProductCodes { codes: codes(k_parts, 7, &keys), centroids: keys };
            let values = ProductCodes { codes: codes(v_parts, 5, &values), centroids: values };
            let recent = (x.get::<4>("k").detach(), x.get::<4>("v").detach());
            let out = product_attention(x.get::<4>("q").detach(), &keys, &values, recent, options(x)).reshape([-1]);
            out + x.get::<4>("q").sum() * 0.0
        };
        let inputs: [(_, &[usize]); 6] = [
            ("q", &[batch, heads, time, k_parts * k_width]),
            ("k", &[batch, kv_heads, recent, k_parts * k_width]),
            ("v", &[batch, kv_heads, recent, v_parts * v_width]),
            ("key_centroids", &[k_parts, COUNT, k_width]),
            ("value_centroids", &[v_parts, COUNT, v_width]),
            ("sink", &[1, heads, 1, 1]),
        ];
        Case::new("product_attention", name, &inputs, run)
    }
    let plain = |_: &Inputs| AttentionOptions::from(0.3);
    vec![
        case("one query, 75 coded keys", [2, 4, 2, 1, 75, 3], [[8, 8], [4, 5]], plain),
        case("20 queries", [1, 2, 1, 20, 40, 23], [[4, 4], [4, 4]], plain),
        case("a sink, a window into the codes", [1, 4, 1, 2, 30, 3], [[4, 4], [8, 2]], |x| AttentionOptions {
            normaliser: Normaliser::Softmax { sink: Some(x.get::<4>("sink").detach()) },
            window: Some(12),
            ..0.3.into()
        }),
        case("soft cap, ALiBi", [1, 2, 2, 1, 30, 1], [[4, 4], [8, 2]], |_| AttentionOptions {
            softcap: Some(2.0),
            slopes: Some(vec![0.5, 0.25]),
            ..0.3.into()
        }),
        case("sigmoid weights", [1, 2, 2, 1, 30, 1], [[4, 4], [8, 2]], |_| AttentionOptions {
            normaliser: Normaliser::Sigmoid,
            ..0.3.into()
        }),
    ]
}
