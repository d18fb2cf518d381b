//! Causal attention with grouped keys: `softmax(cap(q kᵀ · scale) + bias + mask) v`, and what is
//! known to stand in the softmax's place.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use crate::cuda::with_gpu;
use crate::operator::{choose_with_cuda, run, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn_backend::TensorMetadata;
pub use reference::{apply, gated, pattern, pattern_of};
pub(crate) use reference::{products, scores};

/// What becomes of the scores.
///
/// `AttentionOptions::from(scale)` is plain causal attention.
#[derive(Clone, Debug)]
pub struct AttentionOptions {
    /// Multiplies `q kᵀ`; `1/√d` as a rule.
    pub scale: f64,
    /// How many keys a query sees at most, its own included; all of the past when absent.
    pub window: Option<usize>,
    /// Scores `s` become `c · tanh(s / c)` (Gemma 2).
    pub softcap: Option<f64>,
    /// Added to the capped scores; broadcast to `[batch, heads, time, source]`.
    pub bias: Option<Tensor<4>>,
    /// ALiBi: `slope_h · (s − t)` is added to the capped scores of head `h`; one slope per head.
    pub slopes: Option<Vec<f64>>,
    pub normaliser: Normaliser,
    /// Multiplies the output; broadcast to `[batch, heads, time, d_value]`.
    pub gate: Option<Tensor<4>>,
}

/// How a row of scores becomes a row of weights.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a call
pub enum Normaliser {
    /// `A_ts = e^{s_ts} / (e^{sink_t} + Σ_j e^{s_tj})`: with a sink (broadcast to
    /// `[batch, heads, time, 1]`) a row sums to less than one, without to one.
    Softmax { sink: Option<Tensor<4>> },
    /// `A_ts = σ(s_ts)`: no row sum at all.
    Sigmoid,
}

impl AttentionOptions {
    /// # Panics
    /// When no query could see its own key.
    pub(crate) fn check(&self) {
        assert!(self.window != Some(0), "a window of 0 keys: a query sees at least its own");
    }
}

impl From<f64> for AttentionOptions {
    fn from(scale: f64) -> Self {
        Self {
            scale,
            window: None,
            softcap: None,
            bias: None,
            slopes: None,
            normaliser: Normaliser::Softmax { sink: None },
            gate: None,
        }
    }
}

/// Shapes: `q [batch, heads, time, d]`, `k [batch, kv_heads, source, d]`,
/// `v [batch, kv_heads, source, d_value]` → `[batch, heads, time, d_value]`.
///
/// Query `t` sees the keys `0 ..= source − time + t`: with a cache the queries are the last ones.
/// Query head `h` reads key head `h / (heads / kv_heads)`. A number for `options` is the scale.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: impl Into<AttentionOptions>) -> Tensor<4> {
    plain(q, k, v, options.into())
}

fn plain(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: AttentionOptions) -> Tensor<4> {
    attend("softmax_attention", q, k, v, None, options, |q, k, v, _, options| {
        let gate = options.gate.clone();
        gated(apply(pattern(q, k, options), v), gate)
    })
}

/// Checks, and either `reference` or the tiles; with a λ there are two maps.
pub(crate) fn attend(
    name: &'static str,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    lambda: Option<Tensor<4>>,
    options: AttentionOptions,
    reference: impl FnOnce(Tensor<4>, Tensor<4>, Tensor<4>, Option<Tensor<4>>, AttentionOptions) -> Tensor<4>,
) -> Tensor<4> {
    let ([batch, q_heads, time, d], [_, k_heads, source, _], [_, kv_heads, ..]) = (q.dims(), k.dims(), v.dims());
    let maps = if lambda.is_some() { 2 } else { 1 };
    assert!(
        k.dims() == [batch, k_heads, source, d] && v.dims()[..3] == [batch, kv_heads, source],
        "queries {:?}, keys {:?} and values {:?} do not fit together",
        q.dims(),
        k.dims(),
        v.dims()
    );
    assert!(source >= time, "{time} queries but only {source} keys");
    options.check();
    assert!(
        q_heads.is_multiple_of(maps * kv_heads) && (k_heads == kv_heads || k_heads == maps * kv_heads),
        "{q_heads} query heads, {k_heads} key heads and {kv_heads} value heads do not fit together"
    );
    if let Some(bias) = &options.bias {
        let heads = q_heads / maps;
        let fits = bias.dims().iter().zip([batch, heads, time, source]).all(|(&n, all)| n == 1 || n == all);
        assert!(fits, "a bias {:?} on {:?} scores", bias.dims(), [batch, heads, time, source]);
    }
    if let Some(slopes) = &options.slopes {
        assert_eq!(slopes.len() * maps, q_heads, "one slope per head");
    }
    let AttentionOptions { scale, window, softcap, bias, slopes, normaliser, gate } = options;
    let (sink, sigmoid) = match normaliser {
        Normaliser::Softmax { sink } => (sink, false),
        Normaliser::Sigmoid => (None, true),
    };
    let inputs = [Some(q), Some(k), Some(v), bias, sink, lambda, gate].map(|x| x.map(Tensor::into_dispatch));
    let operator = cpu::Attend { scale, window, softcap, slopes, sigmoid };
    let shapes = inputs.each_ref().map(|x| x.as_ref().map(TensorMetadata::shape));
    let kernels = |asked: &_| cuda::permits(asked, &operator, shapes);
    match choose_with_cuda(name, inputs.iter().flatten(), kernels) {
        Implementation::Cpu => Tensor::from_dispatch(run_on_cpu(operator, inputs)),
        Implementation::Cuda => {
            with_gpu!(inputs, B => Tensor::from_dispatch(run::<B, _, 7>(cuda::Attend(operator), inputs)))
        }
        Implementation::Reference => {
            let cpu::Attend { scale, window, softcap, slopes, .. } = operator;
            let [q, k, v, bias, sink, lambda, gate] = inputs.map(|x| x.map(Tensor::from_dispatch));
            let normaliser = if sigmoid { Normaliser::Sigmoid } else { Normaliser::Softmax { sink } };
            let options = AttentionOptions { scale, window, softcap, bias, slopes, normaliser, gate };
            reference(q.expect(THERE), k.expect(THERE), v.expect(THERE), lambda, options)
        }
    }
}

const THERE: &str = "queries, keys and values are always there";

pub(crate) fn cases() -> Vec<Case> {
    type Shapes = ([usize; 4], [usize; 4], [usize; 4]);
    /// Batch, heads, key heads, queries, keys, d, d_value.
    fn shapes([batch, heads, kv_heads, time, source, d, d_value]: [usize; 7]) -> Shapes {
        ([batch, heads, time, d], [batch, kv_heads, source, d], [batch, kv_heads, source, d_value])
    }
    fn case(
        name: String,
        sizes: [usize; 7],
        more: &[(&'static str, [usize; 4])],
        options: impl Fn(&Inputs, f64) -> AttentionOptions + 'static,
    ) -> Case {
        let (q, k, v) = shapes(sizes);
        let scale = (q[3] as f64).powf(-0.5);
        let run =
            move |x: &Inputs| softmax_attention(x.get("q"), x.get("k"), x.get("v"), options(x, scale)).reshape([-1]);
        let mut inputs: Vec<(&'static str, &[usize])> = vec![("q", &q), ("k", &k), ("v", &v)];
        inputs.extend(more.iter().map(|(name, shape)| (*name, &shape[..])));
        Case::new("softmax_attention", name, &inputs, run)
    }
    let plain = |sizes: [usize; 7]| {
        let [_, _, _, time, source, d, d_value] = sizes;
        case(format!("{time} queries, {source} keys, d {d}, {d_value}"), sizes, &[], |_, scale| scale.into())
    };
    let sizes = [2, 4, 2, 75, 75, 16, 16];
    let views = |x: &Inputs| {
        let key = |name| x.get::<4>(name).narrow(2, 8, 75);
        softmax_attention(x.get::<4>("q").swap_dims(1, 2), key("k"), key("v"), 0.25).swap_dims(1, 2).reshape([-1])
    };
    let of_views: [(_, &[usize]); 3] = [("q", &[2, 70, 4, 16]), ("k", &[2, 2, 90, 16]), ("v", &[2, 2, 90, 20])];
    let softmax = |sink| Normaliser::Softmax { sink: Some(sink) };
    vec![
        plain([1, 1, 1, 1, 1, 16, 16]),
        plain([2, 2, 1, 63, 63, 60, 60]),
        plain([1, 4, 2, 75, 75, 64, 100]),
        plain([1, 2, 2, 75, 75, 128, 256]),
        plain([1, 2, 1, 500, 500, 16, 16]),
        plain([1, 4, 1, 3, 20, 16, 16]),
        Case::new("softmax_attention", "views of projections and of a cache", &of_views, views),
        case("window of 10".into(), sizes, &[], |_, scale| AttentionOptions { window: Some(10), ..scale.into() }),
        case("soft cap".into(), sizes, &[], |_, scale| AttentionOptions { softcap: Some(0.5), ..scale.into() }),
        case("ALiBi".into(), sizes, &[], |_, scale| AttentionOptions {
            slopes: Some(vec![0.5, 0.25, 0.125, 0.0625]),
            ..scale.into()
        }),
        case("a bias for every score, capped".into(), sizes, &[("bias", [2, 4, 75, 75])], |x, scale| {
            AttentionOptions { bias: Some(x.get("bias")), softcap: Some(2.0), ..scale.into() }
        }),
        case("a bias for every key".into(), sizes, &[("bias", [1, 4, 1, 75])], |x, scale| AttentionOptions {
            bias: Some(x.get("bias")),
            ..scale.into()
        }),
        case("a sink for every head".into(), sizes, &[("sink", [1, 4, 1, 1])], move |x, scale| AttentionOptions {
            normaliser: softmax(x.get("sink")),
            ..scale.into()
        }),
        case("a sink for every query, a window".into(), sizes, &[("sink", [2, 4, 75, 1])], move |x, scale| {
            AttentionOptions { normaliser: softmax(x.get("sink")), window: Some(7), ..scale.into() }
        }),
        case("sigmoid weights".into(), sizes, &[], |_, scale| AttentionOptions {
            normaliser: Normaliser::Sigmoid,
            ..scale.into()
        }),
        case("a gate for every channel".into(), sizes, &[("gate", [2, 4, 75, 16])], |x, scale| AttentionOptions {
            gate: Some(x.get("gate")),
            ..scale.into()
        }),
        case("a gate for every head".into(), sizes, &[("gate", [2, 4, 75, 1])], |x, scale| AttentionOptions {
            gate: Some(x.get("gate")),
            ..scale.into()
        }),
    ]
}
