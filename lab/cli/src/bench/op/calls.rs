//! One call of every operator at the sizes asked for.

use super::Arguments;
use attention::kernels::adamw::Update;
use attention::kernels::product_attention::ProductCodes;
use attention::kernels::rms_norm::{Activation, GatePlace};
use attention::kernels::rope::Pairs;
use attention::kernels::selftest::{Case, Inputs};
use attention::kernels::{self, ExpertMatrices, Gates, LinearForm, LogDecay};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use std::cell::RefCell;

pub struct Call {
    pub case: Case,
    /// Of the products of a forward pass, where there are any.
    pub flops: Option<f64>,
    /// Numbers read and written by a forward pass; where there is nothing to say of it, those that come in and go out.
    pub moved: Option<usize>,
    /// Whether it has a backward.
    pub trains: bool,
}

impl Call {
    /// An operator that trains.
    fn new(
        name: &'static str,
        inputs: &[(&'static str, &[usize])],
        flops: Option<f64>,
        run: impl Fn(&Inputs) -> Tensor<1> + 'static,
    ) -> Self {
        Self { case: Case::new(name, "", inputs, run), flops, moved: None, trains: true }
    }

    fn without_backward(self) -> Self {
        Self { trains: false, ..self }
    }

    fn moves(self, numbers: usize) -> Self {
        Self { moved: Some(numbers), ..self }
    }
}

type Make = fn(&Arguments) -> Call;

/// Every operator by name; one more is one line here and its call below.
pub const OPERATORS: &[(&str, Make)] = &[
    ("linear", linear),
    ("softmax_attention", softmax_attention),
    ("differential_attention", differential_attention),
    ("linear_attention", linear_attention),
    ("product_attention", product_attention),
    ("short_conv", short_conv),
    ("rms_norm", rms_norm),
    ("add_rms_norm", add_rms_norm),
    ("gated_rms_norm", gated_rms_norm),
    ("l2_norm", l2_norm),
    ("rope", rope),
    ("swiglu", swiglu),
    ("route", route),
    ("experts", experts),
    ("embedding", embedding),
    ("cross_entropy", cross_entropy),
    ("adamw", adamw),
    ("squares", squares),
];

impl Arguments {
    fn head_dim(&self) -> usize {
        self.d_model / self.heads
    }

    fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    /// Heads that lie side by side, as a projection gives them.
    fn side_by_side(&self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.head_dim()]
    }

    /// Of a query and a key that it sees, in all texts.
    fn pairs(&self) -> f64 {
        self.tokens() as f64 * (self.seq + 1) as f64 / 2.0
    }

    /// Ids below `below`, in no order.
    fn ids(&self, below: usize) -> Vec<i32> {
        crate::bench::step::noise(below, 0, self.tokens())
    }
}

/// `[batch, heads, time, d]`.
fn heads(x: &Inputs, name: &str) -> Tensor<4> {
    x.get::<4>(name).swap_dims(1, 2)
}

/// `[batch, heads, time, d]` as it lies when an operator has written it.
fn flat(x: Tensor<4>) -> Tensor<1> {
    x.swap_dims(1, 2).reshape([-1])
}

/// Into a feed-forward network.
fn linear(a: &Arguments) -> Call {
    let inputs = [("x", &[a.batch, a.seq, a.d_model][..]), ("weight", &[a.ffn, a.d_model])];
    let flops = 2.0 * (a.tokens() * a.d_model * a.ffn) as f64;
    Call::new("linear", &inputs, Some(flops), |x| kernels::linear(x.get::<3>("x"), x.get("weight"), None).reshape([-1]))
}

fn softmax_attention(a: &Arguments) -> Call {
    let (all, d) = (a.side_by_side(), a.head_dim());
    let scale = (d as f64).powf(-0.5);
    let flops = a.pairs() * (4 * a.heads * d) as f64;
    Call::new("softmax_attention", &[("q", &all), ("k", &all), ("v", &all)], Some(flops), move |x| {
        flat(kernels::softmax_attention(heads(x, "q"), heads(x, "k"), heads(x, "v"), scale))
    })
}

/// V1: half as many heads, each of two patterns over values of twice the width.
fn differential_attention(a: &Arguments) -> Call {
    let (maps, d) = (a.side_by_side(), a.head_dim());
    let values = [a.batch, a.seq, a.heads / 2, 2 * d];
    let scale = (d as f64).powf(-0.5);
    let flops = a.pairs() * (8 * (a.heads / 2) * d) as f64;
    let inputs = [("q", &maps[..]), ("k", &maps), ("v", &values), ("lambda", &[1, 1, 1, 1])];
    Call::new("differential_attention", &inputs, Some(flops), move |x| {
        let lambda = activation::sigmoid(x.get::<4>("lambda"));
        let [q, k, v] = ["q", "k", "v"].map(|name| heads(x, name));
        flat(kernels::differential_attention(q, k, v, lambda, scale))
    })
}

/// The gated delta rule, with the norms of its queries and keys.
fn linear_attention(a: &Arguments) -> Call {
    let (all, gate) = (a.side_by_side(), [a.batch, a.heads, a.seq]);
    let inputs = [("q", &all[..]), ("k", &all), ("v", &all), ("decay", &gate), ("beta", &gate)];
    let flops = (a.tokens() * 6 * a.d_model * a.head_dim()) as f64;
    Call::new("linear_attention", &inputs, Some(flops), |x| {
        let [q, k] = ["q", "k"].map(|name| kernels::l2_norm(heads(x, name), 1e-6, 1.0));
        let decay = LogDecay::Head(activation::sigmoid(x.get::<3>("decay")).neg());
        let gates = Gates::Beta(activation::sigmoid(x.get("beta")));
        let form = LinearForm::Chunked(64);
        flat(kernels::linear_attention(q, k, heads(x, "v"), &decay, &gates, None, form).0)
    })
}

/// One query in every text over `seq` tokens of keys and values in eight codes of 256 each, and a token more.
fn product_attention(a: &Arguments) -> Call {
    const CODES: usize = 256;
    let d = a.head_dim();
    let parts = if d.is_multiple_of(8) { 8 } else { 1 };
    let (one, centroids) = ([a.batch, a.heads, 1, d], [parts, CODES, d / parts]);
    let inputs = [("q", &one[..]), ("k", &one), ("v", &one), ("of_keys", &centroids), ("of_values", &centroids)];
    let shape = [a.batch, a.heads, a.seq, parts];
    let ids = crate::bench::step::noise(CODES, 0, shape.iter().product());
    let codes = Tensor::<4, Int>::from_data(TensorData::new(ids, shape), &Device::flex());
    let scale = (d as f64).powf(-0.5);
    Call::new("product_attention", &inputs, None, move |x| {
        let of = |name| {
            let centroids = x.get::<3>(name);
            ProductCodes { codes: codes.clone().to_device(&centroids.device()), centroids }
        };
        let recent = (x.get("k"), x.get("v"));
        kernels::product_attention(x.get("q"), &of("of_keys"), &of("of_values"), recent, scale).reshape([-1])
    })
    .without_backward()
}

/// Over queries, keys and values at once, with four taps.
fn short_conv(a: &Arguments) -> Call {
    let inputs = [("x", &[a.batch, a.seq, 3 * a.d_model][..]), ("weight", &[3 * a.d_model, 4])];
    Call::new("short_conv", &inputs, None, |x| {
        kernels::short_conv(x.get("x"), x.get("weight"), None, None).0.reshape([-1])
    })
}

fn rms_norm(a: &Arguments) -> Call {
    let inputs = [("x", &[a.batch, a.seq, a.d_model][..]), ("weight", &[a.d_model])];
    Call::new("rms_norm", &inputs, None, |x| kernels::rms_norm(x.get::<3>("x"), x.get("weight"), 1e-6).reshape([-1]))
}

/// As between a block's halves.
fn add_rms_norm(a: &Arguments) -> Call {
    let all = [a.batch, a.seq, a.d_model];
    Call::new("add_rms_norm", &[("x", &all), ("more", &all), ("weight", &[a.d_model])], None, |x| {
        let both = kernels::add_rms_norm(x.get::<3>("x"), x.get("more"), x.get("weight"), 1e-6);
        Tensor::cat(both.map(|x| x.reshape([-1])).into(), 0)
    })
}

/// Of every head, as after the delta rule.
fn gated_rms_norm(a: &Arguments) -> Call {
    let (all, d) = (a.side_by_side(), a.head_dim());
    Call::new("gated_rms_norm", &[("x", &all), ("z", &all), ("weight", &[d])], None, |x| {
        let ([x, z], weight) = (["x", "z"].map(|name| heads(x, name)), x.get("weight"));
        flat(kernels::gated_rms_norm(x, z, weight, Activation::Silu, GatePlace::After, 1e-6))
    })
}

fn l2_norm(a: &Arguments) -> Call {
    Call::new("l2_norm", &[("x", &a.side_by_side())], None, |x| flat(kernels::l2_norm(heads(x, "x"), 1e-6, 1.0)))
}

fn rope(a: &Arguments) -> Call {
    let (time, half) = (a.seq, a.head_dim() / 2);
    Call::new("rope", &[("x", &a.side_by_side())], None, move |x| {
        let x = heads(x, "x");
        let table = Tensor::full([time, half], 0.5f64.sqrt(), &x.device());
        flat(kernels::rope(x, table.clone(), table, Pairs::HalfSplit))
    })
}

fn swiglu(a: &Arguments) -> Call {
    let hidden = [a.batch, a.seq, a.ffn];
    Call::new("swiglu", &[("gate", &hidden), ("up", &hidden)], None, |x| {
        kernels::swiglu(x.get::<3>("gate"), x.get("up")).reshape([-1])
    })
}

const ALL: usize = 8;
const EACH: usize = 2;

/// Two of eight for every token.
fn route(a: &Arguments) -> Call {
    let call = Call::new("route", &[("shares", &[a.tokens(), ALL])], None, |x| {
        kernels::route(x.get("shares"), EACH).reshape([-1]).float()
    });
    call.without_backward()
}

/// Two of eight, which have half the width each.
fn experts(a: &Arguments) -> Call {
    let (tokens, d, width) = (a.tokens(), a.d_model, a.ffn.div_ceil(2));
    let wide = [ALL, width, d];
    let inputs = [
        ("x", &[tokens, d][..]),
        ("weights", &[tokens, EACH]),
        ("gate", &wide),
        ("up", &wide),
        ("down", &[ALL, d, width]),
    ];
    let firsts = a.ids(ALL);
    let chosen = firsts.iter().flat_map(|&e| (0..EACH).map(move |i| (e + 3 * i as i32) % ALL as i32));
    let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [tokens, EACH]);
    Call::new("experts", &inputs, Some((6 * tokens * EACH * d * width) as f64), move |x| {
        let matrices = ExpertMatrices { gate: x.get("gate"), up: x.get("up"), down: x.get("down") };
        let tokens = x.get::<2>("x");
        let chosen = Tensor::<2, Int>::from_data(chosen.clone(), &tokens.device().without_autodiff());
        kernels::experts(tokens, x.get("weights"), chosen, matrices).reshape([-1])
    })
}

fn embedding(a: &Arguments) -> Call {
    let (ids, shape) = (a.ids(a.vocab), [a.batch, a.seq]);
    let call = Call::new("embedding", &[("table", &[a.vocab, a.d_model])], None, move |x| {
        let table = x.get::<2>("table");
        let device = table.device().without_autodiff();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), shape), &device);
        kernels::embedding(table, ids).reshape([-1])
    });
    call.moves(2 * a.tokens() * a.d_model)
}

fn cross_entropy(a: &Arguments) -> Call {
    let (tokens, targets) = (a.tokens(), a.ids(a.vocab));
    let inputs = [("hidden", &[tokens, a.d_model][..]), ("weight", &[a.vocab, a.d_model])];
    Call::new("cross_entropy", &inputs, Some((2 * tokens * a.d_model * a.vocab) as f64), move |x| {
        kernels::cross_entropy(x.get("hidden"), x.get("weight"), &targets, &vec![1.0; tokens])
    })
}

/// A matrix of a feed-forward network, updated where it lies.
fn adamw(a: &Arguments) -> Call {
    let (shape, count) = ([a.ffn, a.d_model], a.ffn * a.d_model);
    let update = Update { betas: [0.9, 0.95], scale: 0.5, keep: 0.999, size: 1e-3, spread: 1.0, epsilon: 1e-8 };
    let state = RefCell::new(None);
    let call = Call::new("adamw", &[("weight", &shape), ("gradient", &shape)], None, move |x| {
        let (weight, moments) = state.take().unwrap_or_else(|| (x.get::<2>("weight"), None));
        let (weight, moments) = kernels::adamw(weight, x.get("gradient"), moments, update);
        // Gone before the next update, which is then the only holder again.
        let result = weight.clone().reshape([-1]);
        state.replace(Some((weight, Some(moments))));
        result
    });
    call.moves(7 * count).without_backward()
}

/// Of the gradients of two such matrices.
fn squares(a: &Arguments) -> Call {
    let shape = [a.ffn * a.d_model];
    let call =
        Call::new("squares", &[("a", &shape), ("b", &shape)], None, |x| kernels::squares(vec![x.get("a"), x.get("b")]));
    call.without_backward()
}
