//! Nexus, higher-order attention (arXiv 2512.03377): queries and keys are themselves the outputs of
//! inner attention.
//!
//! **There is no public code, and the formula is reconstructed from two secondary readings of the
//! paper that do not agree.** Both are here ([`NexusInner`]); neither has been confirmed.
//!
//! ```text
//! values (default)    X¹ = X,  X^{l+1} = concat_h( softmax(Q^l K^lᵀ/√d + M) V )
//!                     Q^l = X^l W_Qᵀ,  K^l = X^l W_Kᵀ,  V = X W_Vᵀ
//! queries and keys    Q¹ = X W_Qᵀ,  Q^{l+1} = softmax(Q^l Q^lᵀ/√d + M) Q^l,  and the same for K
//! both                out = concat_h( softmax(Q^m K^mᵀ/√d + M) V ) W_oᵀ
//! ```
//! with the causal mask `M` in every loop and the order `m`: 1 is softmax attention, exactly. What is
//! not refined ([`NexusRefine`]) stays at level 1. Over values, an inner output takes the place of `X`,
//! hence `H·d = D`, and inner loops may have weights of their own ([`NexusConfig::shared`]): then the
//! loop that refines queries and the one that refines keys are two, each of order `m − 1` with three
//! matrices of its own, `2^m − 1` attentions in all when both are refined. With shared weights there
//! are `m`. Over queries and keys an inner loop has no weights, and there are up to `2m − 1`.
//!
//! QK-norm stands after every projection. Positions enter the last queries and keys alone unless
//! [`NexusConfig::inner_position`] is set.
//!
//! Shapes: `q [batch, heads, time, d]`, `k, v [batch, kv_heads, time, d]` at every level.
//!
//! Parameters: those of softmax attention when shared. Otherwise `D·d·(H + 2·H_kv)` (and `2·d` with
//! QK-norm) for each inner loop: `m − 1` with one side refined, `2^m − 2` with both.
//!
//! Decoding keeps the keys of every level and `V` (shared), or those of every loop; over queries and
//! keys, all levels of both and `V`.

use super::{SoftmaxConfig, check_heads, merge_heads, normed_heads, split_heads};
use crate::cache::KeyValues;
use crate::error::{ZooError, positive};
use crate::{Cache, Init, Linear, Mixer, Position, RmsNorm, Silent, Tap};
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::AttentionOptions;
use serde::{Deserialize, Serialize};

/// What an inner loop gathers, see the [module's formulas](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NexusInner {
    /// Values, from which the next queries and keys are projected.
    #[default]
    Values,
    /// Queries by queries and keys by keys.
    QueriesAndKeys,
}

/// What is refined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NexusRefine {
    Queries,
    Keys,
    #[default]
    Both,
}

impl NexusRefine {
    fn queries(self) -> bool {
        self != Self::Keys
    }
    fn keys(self) -> bool {
        self != Self::Queries
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NexusConfig {
    pub heads: usize,
    /// Key and value heads; `heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Channels of a head; `d_model / heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries and keys are normed per head, before rotation.
    #[serde(default = "yes")]
    pub qk_norm: bool,
    #[serde(default)]
    pub position: Position,
    /// Whether positions enter the inner loops too.
    #[serde(default)]
    pub inner_position: bool,
    /// `m`; 1 is softmax attention.
    #[serde(default = "two")]
    pub order: usize,
    #[serde(default)]
    pub refine: NexusRefine,
    #[serde(default)]
    pub inner: NexusInner,
    /// Whether inner loops use the weights of the outer one.
    #[serde(default = "yes")]
    pub shared: bool,
}

fn yes() -> bool {
    true
}
fn two() -> usize {
    2
}

/// Loops grow as a power of two; no text has gone further than 3.
const MOST: usize = 6;

impl NexusConfig {
    /// Order 2, queries and keys refined by loops over values with shared weights: no parameter more
    /// than softmax attention.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            kv_heads: None,
            head_dim: None,
            qk_norm: true,
            position: Position::default(),
            inner_position: false,
            order: two(),
            refine: NexusRefine::default(),
            inner: NexusInner::default(),
            shared: true,
        }
    }

    /// The outer attention.
    pub fn attention(&self) -> SoftmaxConfig {
        SoftmaxConfig {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            qk_norm: self.qk_norm,
            position: self.position,
            ..SoftmaxConfig::new(self.heads)
        }
    }

    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        self.attention().validate(d_model)?;
        let invalid =
            |name, value: String, expected: &str| Err(ZooError::Invalid { name, value, expected: expected.into() });
        if !(1..=MOST).contains(&positive("order", self.order)?) {
            return invalid("order", self.order.to_string(), "between 1 and 6");
        }
        let width = self.heads * check_heads(d_model, self.heads, self.kv_heads(), self.head_dim)?;
        match self.inner {
            NexusInner::Values if self.order > 1 && width != d_model => {
                let expected = format!("d_model {d_model}, for an inner output takes the place of the input");
                invalid("heads · head_dim", width.to_string(), &expected)
            }
            NexusInner::QueriesAndKeys if !self.shared => {
                invalid("shared", "false".into(), "true where loops gather queries and keys: they have no weights")
            }
            _ => Ok(()),
        }
    }

    /// Inner loops with weights of their own.
    fn loops(&self) -> usize {
        match (self.shared, self.refine) {
            (true, _) => 0,
            (false, NexusRefine::Both) => (1 << self.order) - 2,
            (false, _) => self.order - 1,
        }
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        let d = self.attention().head_dim(d_model);
        let norms = if self.qk_norm { 2 * d } else { 0 };
        let inner = d_model * d * (self.heads + 2 * self.kv_heads()) + norms;
        self.attention().parameters(d_model) + self.loops() * inner
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> Nexus {
        let attention = self.attention();
        let width = self.heads * attention.head_dim(d_model);
        let outer = NexusProjections::new(&attention, d_model, init);
        let o_proj = Linear::residual(width, d_model, init);
        let loops = (0..self.loops()).map(|_| NexusProjections::new(&attention, d_model, init)).collect();
        Nexus { outer, o_proj, loops, config: self.clone() }
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }
}

/// Queries, keys and values of one loop.
#[derive(Module, Debug)]
pub struct NexusProjections {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
}

impl NexusProjections {
    fn new(config: &SoftmaxConfig, d_model: usize, init: &mut Init) -> Self {
        let (d, heads, kv_heads) = (config.head_dim(d_model), config.heads, config.kv_heads());
        Self {
            q_proj: Linear::new(d_model, heads * d, init),
            k_proj: Linear::new(d_model, kv_heads * d, init),
            v_proj: Linear::new(d_model, kv_heads * d, init),
            q_norm: config.qk_norm.then(|| RmsNorm::new(d, config.norm_eps, init)),
            k_norm: config.qk_norm.then(|| RmsNorm::new(d, config.norm_eps, init)),
            heads,
            kv_heads,
        }
    }

    fn queries(&self, x: Tensor<3>) -> Tensor<4> {
        normed_heads(self.q_proj.forward(x), self.heads, &self.q_norm)
    }
    fn keys(&self, x: Tensor<3>) -> Tensor<4> {
        normed_heads(self.k_proj.forward(x), self.kv_heads, &self.k_norm)
    }
    fn values(&self, x: Tensor<3>) -> Tensor<4> {
        split_heads(self.v_proj.forward(x), self.kv_heads)
    }
}

#[derive(Module, Debug)]
pub struct Nexus {
    pub outer: NexusProjections,
    pub o_proj: Linear,
    /// The inner loops with weights of their own, in the order in which they are entered: from the
    /// outermost inwards, the one of the queries before the one of the keys.
    pub loops: Vec<NexusProjections>,
    #[module(skip)]
    config: NexusConfig,
}

impl Nexus {
    /// Loops over values: the output `[batch, heads, time, d]` of attention of the given order.
    #[allow(clippy::too_many_arguments)]
    fn over_values(
        &self,
        x: &Tensor<3>,
        order: usize,
        weights: &NexusProjections,
        v: Option<Tensor<4>>,
        pass: &mut Pass,
        tap: &mut dyn Tap,
        name: Option<&str>,
    ) -> Tensor<4> {
        let NexusConfig { refine, shared, order: outermost, .. } = self.config;
        let last = order == outermost;
        let v = v.unwrap_or_else(|| {
            let v = weights.values(x.clone());
            pass.extend(if last { tap.at("v", v) } else { v })
        });
        let (mut for_queries, mut for_keys) = (x.clone(), x.clone());
        // A pattern deeper than the first inner one has no name.
        let named = |name| last.then_some(name);
        if order > 1 && shared {
            let name = named("inner_pattern");
            let inner = merge_heads(self.over_values(x, order - 1, weights, Some(v.clone()), pass, tap, name));
            if refine.queries() {
                for_queries = inner.clone();
            }
            if refine.keys() {
                for_keys = inner;
            }
        } else if order > 1 {
            if refine.queries() {
                let own = &self.loops[pass.enter()];
                for_queries =
                    merge_heads(self.over_values(x, order - 1, own, None, pass, tap, named("inner_pattern_q")));
            }
            if refine.keys() {
                let own = &self.loops[pass.enter()];
                for_keys = merge_heads(self.over_values(x, order - 1, own, None, pass, tap, named("inner_pattern_k")));
            }
        }
        let (q, k) = (weights.queries(for_queries), weights.keys(for_keys));
        if last {
            return self.outermost(q, k, v, pass, tap);
        }
        let place = self.inner_position();
        let k = pass.extend(place.rotate(k, pass.start));
        attend(place.rotate(q, pass.start), k, v, place, name, tap)
    }

    /// Loops over queries and over keys.
    fn over_queries_and_keys(&self, x: Tensor<3>, pass: &mut Pass, tap: &mut dyn Tap) -> Tensor<4> {
        let NexusConfig { refine, order, .. } = self.config;
        let mut q = self.outer.queries(x.clone());
        let mut k = self.outer.keys(x.clone());
        let v = pass.extend(tap.at("v", self.outer.values(x)));
        let place = self.inner_position();
        let mut refined = |x: Tensor<4>, name, tap: &mut dyn Tap| {
            let all = pass.extend(x.clone());
            attend(place.rotate(x, pass.start), place.rotate(all.clone(), 0), all, place, Some(name), tap)
        };
        for _ in 1..order {
            if refine.queries() {
                q = refined(q, "inner_pattern_q", tap);
            }
            if refine.keys() {
                k = refined(k, "inner_pattern_k", tap);
            }
        }
        self.outermost(q, k, v, pass, tap)
    }

    fn outermost(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, pass: &mut Pass, tap: &mut dyn Tap) -> Tensor<4> {
        let place = self.config.position;
        let q = tap.at("q", place.rotate(q, pass.start));
        let k = tap.at("k", place.rotate(k, pass.start));
        attend(q, pass.extend(k), v, place, Some("pattern"), tap)
    }

    fn inner_position(&self) -> Position {
        if self.config.inner_position { self.config.position } else { Position::None {} }
    }

    fn run(&self, x: Tensor<3>, mut cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let mut pass = Pass {
            start: cache.as_ref().map_or(0, |c| c.position()),
            past: cache.as_ref().and_then(|c| c.get("past")),
            new: Vec::new(),
            entered: 0,
        };
        let heads = match self.config.inner {
            NexusInner::Values => self.over_values(&x, self.config.order, &self.outer, None, &mut pass, tap, None),
            NexusInner::QueriesAndKeys => self.over_queries_and_keys(x, &mut pass, tap),
        };
        if let Some(cache) = cache.as_mut() {
            cache.append("past", Tensor::cat(pass.new, 1), 2);
        }
        tap.at("out", self.o_proj.forward(merge_heads(heads)))
    }
}

/// `softmax(q kᵀ/√d + M) v`, whose pattern is offered under `name`.
fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    place: Position,
    name: Option<&str>,
    tap: &mut dyn Tap,
) -> Tensor<4> {
    let [_, heads, _, d] = q.dims();
    let options = AttentionOptions { slopes: place.slopes(heads), ..(d as f64).powf(-0.5).into() };
    let past = KeyValues::Whole { k, v };
    match name {
        Some(name) => past.attend(q, options, name, tap),
        None => past.attend(q, options, "", &mut Silent),
    }
}

/// One walk through the loops. Whatever later tokens need of these (keys, values, raw queries) has
/// `d` channels and lies side by side, as more heads, in one slot of the cache.
struct Pass {
    /// Position of the first token.
    start: usize,
    /// What the cache held before: `[batch, heads of all loops, past, d]`.
    past: Option<Tensor<4>>,
    /// What these tokens add, in the order of asking.
    new: Vec<Tensor<4>>,
    /// Loops entered so far.
    entered: usize,
}

impl Pass {
    /// `x [batch, heads, time, d]` after what the same place gave for earlier tokens.
    fn extend(&mut self, x: Tensor<4>) -> Tensor<4> {
        let before: usize = self.new.iter().map(|x| x.dims()[1]).sum();
        self.new.push(x.clone());
        match &self.past {
            Some(past) => Tensor::cat(vec![past.clone().narrow(1, before, x.dims()[1]), x], 2),
            None => x,
        }
    }

    fn enter(&mut self) -> usize {
        self.entered += 1;
        self.entered - 1
    }
}

impl Mixer for Nexus {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, None, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(x, Some(cache), tap)
    }
}
