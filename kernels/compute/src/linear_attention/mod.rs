//! Linear attention: a state of constant size, decayed, erased and written once per token.
//!
//! ```text
//! S_t = (I − k_t (b_t ⊙ k_t)ᵀ) Diag(e^{g_t}) S_{t−1} + k_t (w_t ⊙ v_t)ᵀ        o_t = S_tᵀ q_t
//! ```
//! with a state `S ∈ R^{d_key × d_value}` per head: the state decays, what it holds under `k_t` is
//! read and erased, and a value is written there. Which parts there are makes the family:
//!
//! | decay `g` | [`Gates`] | models |
//! |---|---|---|
//! | none | `Add` | linear attention |
//! | per head | `Add` | RetNet, Lightning (`g` fixed); Mamba-2 (`v` times its step size) |
//! | per key channel | `Add` | gated linear attention |
//! | none | `Beta` | DeltaNet |
//! | per head | `Beta` | Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464) |
//! | per key channel | `Beta` | Kimi Delta Attention (arXiv 2510.26692) |
//! | per key channel | `EraseWrite` | Gated DeltaNet-2 |
//!
//! `q` arrives already scaled.

mod chunked;
mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod recurrent;

use crate::cuda::with_gpu;
use crate::operator::{Second, choose_with_cuda, run, run_on_cpu};
use crate::selftest::{Case, Inputs};
use crate::trace::Implementation;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use burn_backend::TensorMetadata;
use burn_dispatch::DispatchAutodiffContext;
pub use chunked::inverse_unit_lower;

/// How the reference runs through the tokens; the result is the same, and the fast form has a way of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearForm {
    /// Token after token, as the equation reads: the truth.
    Recurrent,
    /// In chunks of this many tokens (a power of two) through the WY/UT representation:
    /// matrix products inside a chunk, one state passed from chunk to chunk.
    Chunked(usize),
}

/// The logarithm `g ≤ 0` of what survives a step.
#[derive(Clone, Debug)]
pub enum LogDecay {
    /// Nothing fades.
    None,
    /// One number per head, `[batch, heads, time]`.
    Head(Tensor<3>),
    /// One per row of the state, `[batch, heads, time, d_key]`.
    Channel(Tensor<4>),
}

/// What is erased and how much is written.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a call
pub enum Gates {
    /// `b = 0`, `w = 1`: values add up.
    Add,
    /// `b = w = β`, one number per head, `[batch, heads, time]`: the delta rule. Up to `β = 1` the
    /// old value shrinks; at `β = 1` it is replaced; up to `β = 2` it changes its sign.
    Beta(Tensor<3>),
    /// `erase = b [batch, heads, time, d_key]` and `write = w [batch, heads, time, d_value]` apart.
    EraseWrite { erase: Tensor<4>, write: Tensor<4> },
}

impl Gates {
    /// `b ⊙ k`, where anything is erased.
    fn erased(&self, k: &Tensor<4>) -> Option<Tensor<4>> {
        match self {
            Self::Add => None,
            Self::Beta(beta) => Some(k.clone() * beta.clone().unsqueeze_dim::<4>(3)),
            Self::EraseWrite { erase, .. } => Some(k.clone() * erase.clone()),
        }
    }

    /// `w ⊙ v`.
    fn written(&self, v: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Add => v,
            Self::Beta(beta) => v * beta.clone().unsqueeze_dim::<4>(3),
            Self::EraseWrite { write, .. } => v * write.clone(),
        }
    }

    /// The values that [`effective_pattern`] weighs: `v`, but `w ⊙ v` where every channel of a value
    /// has a write gate of its own. (With that gate inside, every channel had another pattern.)
    pub fn values(&self, v: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Add | Self::Beta(_) => v,
            Self::EraseWrite { .. } => self.written(v),
        }
    }
}

/// Shapes: `q, k [batch, heads, time, d_key]`, `v [batch, heads, time, d_value]`,
/// `state [batch, heads, d_key, d_value]` (zeros when absent) → the output
/// `[batch, heads, time, d_value]` and the state after the last token.
///
/// # Panics
/// When shapes or dtypes do not fit together.
pub fn linear_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: &LogDecay,
    gates: &Gates,
    state: Option<Tensor<4>>,
    form: LinearForm,
) -> (Tensor<4>, Tensor<4>) {
    check(&q, &k, &v, decay, gates, state.as_ref());
    let as_channel = |x: &Tensor<3>| x.clone().unsqueeze_dim::<4>(3);
    let log_decay = match decay {
        LogDecay::None => None,
        LogDecay::Head(g) => Some(as_channel(g)),
        LogDecay::Channel(g) => Some(g.clone()),
    };
    let (erase, write) = match gates {
        Gates::Add => (None, None),
        Gates::Beta(beta) => (Some(as_channel(beta)), None),
        Gates::EraseWrite { erase, write } => (Some(erase.clone()), Some(write.clone())),
    };
    let inputs = [Some(q), Some(k), Some(v), log_decay, erase, write, state].map(|x| x.map(Tensor::into_dispatch));
    let shapes = inputs.each_ref().map(|x| x.as_ref().map(TensorMetadata::shape));
    let mut on_cuda = None;
    let kernels = |asked: &_| {
        on_cuda = Some(cuda::form(asked, shapes)?);
        Ok(())
    };
    match choose_with_cuda("linear_attention", inputs.iter().flatten(), kernels) {
        Implementation::Cpu => {
            let tracked = inputs.iter().flatten().any(|x| x.autodiff != DispatchAutodiffContext::Disabled);
            let end = Second::default();
            let out = run_on_cpu(cpu::LinearAttention { tracked, end: end.clone() }, inputs);
            let end = end.beside(&out);
            (Tensor::from_dispatch(out), Tensor::from_dispatch(end))
        }
        Implementation::Cuda => with_gpu!(inputs, B => {
            let (form, end) = (on_cuda.expect("the form that was chosen"), Second::default());
            let out = run::<B, _, 7>(cuda::LinearAttention { form, end: end.clone() }, inputs);
            let end = end.beside(&out);
            (Tensor::from_dispatch(out), Tensor::from_dispatch(end))
        }),
        Implementation::Reference => {
            let [q, k, v, .., state] = inputs.map(|x| x.map(Tensor::<4>::from_dispatch));
            let there = "queries, keys and values are always there";
            reference(q.expect(there), k.expect(there), v.expect(there), decay, gates, state, form)
        }
    }
}

fn reference(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: &LogDecay,
    gates: &Gates,
    state: Option<Tensor<4>>,
    form: LinearForm,
) -> (Tensor<4>, Tensor<4>) {
    let [batch, heads, time, d_key] = q.dims();
    let state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, d_key, v.dims()[3]], (&q.device(), q.dtype())));
    match form {
        LinearForm::Recurrent => recurrent::run(q, k, v, decay, gates, state),
        LinearForm::Chunked(chunk) => {
            // A chunk longer than the sequence would be padding.
            let chunk = chunk.min(time.next_power_of_two());
            chunked::run(q, k, v, decay, gates, state, chunk)
        }
    }
}

/// # Panics
/// When a shape is not the one that the queries and values ask for.
fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, decay: &LogDecay, gates: &Gates, state: Option<&Tensor<4>>) {
    let ([batch, heads, time, d_key], d_value) = (q.dims(), v.dims()[3]);
    let (per_token, per_key) = (vec![batch, heads, time], vec![batch, heads, time, d_key]);
    let per_value = vec![batch, heads, time, d_value];
    let mut shapes = vec![("keys", k.dims().to_vec(), &per_key), ("values", v.dims().to_vec(), &per_value)];
    match decay {
        LogDecay::None => {}
        LogDecay::Head(g) => shapes.push(("decays", g.dims().to_vec(), &per_token)),
        LogDecay::Channel(g) => shapes.push(("decays", g.dims().to_vec(), &per_key)),
    }
    match gates {
        Gates::Add => {}
        Gates::Beta(beta) => shapes.push(("beta", beta.dims().to_vec(), &per_token)),
        Gates::EraseWrite { erase, write } => {
            shapes.push(("erase gates", erase.dims().to_vec(), &per_key));
            shapes.push(("write gates", write.dims().to_vec(), &per_value));
        }
    }
    let per_state = vec![batch, heads, d_key, d_value];
    shapes.extend(state.map(|state| ("state", state.dims().to_vec(), &per_state)));
    for (what, got, expected) in shapes {
        assert_eq!(&got, expected, "{what} to queries {:?} and values {:?}", q.dims(), v.dims());
    }
}

/// The weights with which the values enter the outputs when the state starts empty, erase term
/// included: the output is the pattern times [`Gates::values`]. Rows need not sum to one and entries
/// may be negative. `[batch, heads, time, time]`.
pub fn effective_pattern(q: Tensor<4>, k: Tensor<4>, decay: &LogDecay, gates: &Gates) -> Tensor<4> {
    let pattern = chunked::pattern(q, k, decay, gates);
    match gates {
        Gates::Beta(beta) => pattern * beta.clone().unsqueeze_dim::<4>(2),
        Gates::Add | Gates::EraseWrite { .. } => pattern,
    }
}

/// Every member of the family; lengths around those of chunks; keys and values of different widths.
pub(crate) fn cases() -> Vec<Case> {
    fn case(
        [batch, heads, time, d_key, d_value]: [usize; 5],
        decay: &'static str,
        gates: &'static str,
        with_state: bool,
    ) -> Case {
        // As projections give them.
        let (head, key, value) = ([batch, time, heads], [batch, time, heads, d_key], [batch, time, heads, d_value]);
        let state = [batch, heads, d_key, d_value];
        let mut inputs: Vec<(&'static str, &[usize])> = vec![("q", &key), ("k", &key), ("v", &value)];
        match decay {
            "none" => {}
            "head" => inputs.push(("decay", &head)),
            _ => inputs.push(("decay", &key)),
        }
        match gates {
            "add" => {}
            "beta" => inputs.push(("beta", &head)),
            _ => inputs.extend([("erase", &key[..]), ("write", &value[..])]),
        }
        if with_state {
            inputs.push(("state", &state));
        }
        let run = move |x: &Inputs| {
            let unit = |x: Tensor<4>| x.clone() / (x.square().sum_dim(3) + 0.1).sqrt();
            let by_heads = |x: Tensor<4>| x.swap_dims(1, 2);
            let decay = match decay {
                "none" => LogDecay::None,
                "head" => LogDecay::Head((x.get::<3>("decay").abs() * -0.1).swap_dims(1, 2)),
                _ => LogDecay::Channel(by_heads(x.get::<4>("decay").abs() * -0.1)),
            };
            let gates = match gates {
                "add" => Gates::Add,
                "beta" => Gates::Beta(sigmoid(x.get::<3>("beta")).swap_dims(1, 2)),
                _ => Gates::EraseWrite {
                    erase: by_heads(sigmoid(x.get("erase"))),
                    write: by_heads(sigmoid(x.get("write"))),
                },
            };
            let state = with_state.then(|| x.get("state"));
            let [q, k, v] = [unit(x.get("q")), unit(x.get("k")), x.get("v")].map(by_heads);
            let (out, end) = linear_attention(q, k, v, &decay, &gates, state, LinearForm::Chunked(64));
            Tensor::cat(vec![out.reshape([-1]), end.reshape([-1])], 0)
        };
        let state = if with_state { ", from a state" } else { "" };
        let name = format!("{time} tokens, d {d_key}, {d_value}; decay: {decay}; gates: {gates}{state}");
        Case::new("linear_attention", name, &inputs, run)
    }
    vec![
        case([1, 1, 1, 16, 16], "head", "beta", true),
        case([2, 3, 63, 16, 16], "none", "add", true),
        case([1, 2, 63, 60, 100], "head", "beta", false),
        case([1, 2, 150, 128, 128], "head", "beta", true),
        case([1, 2, 75, 100, 60], "channel", "split", true),
        case([2, 2, 75, 16, 16], "none", "beta", true),
        case([1, 2, 75, 16, 60], "head", "add", true),
        case([1, 2, 75, 64, 64], "head", "beta", true),
        case([1, 2, 75, 64, 64], "channel", "beta", true),
        case([1, 1, 75, 60, 16], "channel", "add", true),
        case([1, 1, 63, 16, 64], "none", "split", false),
        case([1, 1, 63, 64, 16], "head", "split", true),
        case([1, 1, 75, 128, 256], "head", "beta", false),
        case([1, 1, 500, 16, 16], "channel", "beta", true),
        case([1, 2, 75, 64, 68], "none", "add", true),
        case([1, 2, 75, 64, 68], "channel", "add", false),
        case([1, 2, 75, 64, 68], "channel", "split", true),
    ]
}

#[cfg(test)]
mod tests;
