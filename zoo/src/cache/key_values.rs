//! Attention over what a cache holds.

use super::Cache;
use crate::Tap;
use crate::tap::Value;
use burn::tensor::Tensor;
use kernels::softmax_attention::{apply, gated, pattern, pattern_of};
use kernels::{AttentionOptions, ProductCodes};

/// Keys and values of all tokens so far, in the form in which the cache holds them.
#[allow(clippy::large_enum_variant)] // one a step
pub(crate) enum KeyValues {
    Whole {
        k: Tensor<4>,
        v: Tensor<4>,
    },
    /// Codes of a product quantiser, which attention can look up, and recent tokens.
    Product {
        k: (ProductCodes, Tensor<4>),
        v: (ProductCodes, Tensor<4>),
    },
}

impl KeyValues {
    /// Keys and values `[batch, kv_heads, time, d]` after those of the cache, if there is one. What lies
    /// before the last `window` tokens is not kept.
    pub fn of(k: Tensor<4>, v: Tensor<4>, cache: Option<&mut Cache>, window: Option<usize>) -> Self {
        let Some(cache) = cache else { return Self::Whole { k, v } };
        if !cache.codec.is_product() {
            return Self::Whole { k: cache.append_last("k", k, 2, window), v: cache.append_last("v", v, 2, window) };
        }
        cache.push("k", &k, 2, window);
        cache.push("v", &v, 2, window);
        let slots = ["k", "v"].map(|slot| cache.coded(slot).expect("pushed just before"));
        match slots.map(|slot| Some((slot.product_codes()?, slot.recent()))) {
            [Some(k), Some(v)] => Self::Product { k, v },
            _ => Self::Whole { k: slots[0].read(), v: slots[1].read() },
        }
    }

    pub fn source(&self) -> usize {
        match self {
            Self::Whole { k, .. } => k.dims()[2],
            Self::Product { k: (codes, recent), .. } => codes.codes.dims()[2] + recent.dims()[2],
        }
    }

    /// `[batch, kv_heads, source, d]`.
    pub fn keys(&self) -> Tensor<4> {
        match self {
            Self::Whole { k, .. } => k.clone(),
            Self::Product { k, .. } => reconstruct(k),
        }
    }

    pub fn values(&self) -> Tensor<4> {
        match self {
            Self::Whole { v, .. } => v.clone(),
            Self::Product { v, .. } => reconstruct(v),
        }
    }

    /// Attention of the last tokens' queries, whose pattern is offered under `name`: beside the operator
    /// to those who look, in its place to those who may change it.
    pub fn attend(
        self,
        q: Tensor<4>,
        options: impl Into<AttentionOptions>,
        name: &str,
        tap: &mut dyn Tap,
    ) -> Tensor<4> {
        let mut options = options.into();
        if tap.changes(name) {
            let gate = options.gate.take();
            let heads = apply(tap.at(name, pattern(q, self.keys(), options)), self.values());
            return gated(heads, gate);
        }
        if tap.wants(name) {
            let (heads, rows) = tap.part(name).within(q.dims()[1], q.dims()[2]);
            if !heads.is_empty() && !rows.is_empty() {
                let part = pattern_of(q.clone().detach(), self.keys().detach(), options.clone(), heads, rows);
                tap.visit_part(name, Value::new(part));
            }
        }
        match self {
            Self::Whole { k, v } => kernels::softmax_attention(q, k, v, options),
            Self::Product { k: (keys, k), v: (values, v) } => {
                kernels::product_attention(q, &keys, &values, (k, v), options)
            }
        }
    }
}

impl KeyValues {
    /// [`kernels::differential_attention`] of the last tokens' queries.
    pub fn attend_differential(self, q: Tensor<4>, lambda: Tensor<4>, scale: f64) -> Tensor<4> {
        let (codes, recent) = match self {
            Self::Whole { k, v } => return kernels::differential_attention(q, k, v, lambda, scale),
            // Halves of keys that differ, over the same values: codes are not looked up.
            Self::Product { ref k, ref v } if k.1.dims()[1] != v.1.dims()[1] => {
                return kernels::differential_attention(q, self.keys(), self.values(), lambda, scale);
            }
            Self::Product { k: (keys, k), v: (values, v) } => ((keys, values), (k, v)),
        };
        let both = kernels::product_attention(q, &codes.0, &codes.1, recent, scale);
        let [batch, heads, time, d] = both.dims();
        let pairs = both.reshape([batch, heads / 2, 2, time, d]);
        let half = |c| pairs.clone().narrow(2, c, 1).squeeze_dim::<4>(2);
        half(0) - half(1) * lambda
    }
}

fn reconstruct((codes, recent): &(ProductCodes, Tensor<4>)) -> Tensor<4> {
    Tensor::cat(vec![codes.reconstruct(), recent.clone()], 2)
}
