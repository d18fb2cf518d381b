//! What a mixer keeps of the past while it decodes one token at a time.

use crate::Tap;
use crate::quantise::{CacheCodec, CodedSlot};
use crate::tap::Value;
use burn::tensor::Tensor;
use kernels::softmax_attention::{apply, pattern, pattern_of};
use kernels::{AttentionOptions, ProductCodes};
use std::collections::BTreeMap;

/// Named tensors of one mixer, and how many tokens it has seen.
///
/// Growing slots (keys, values) and slots of constant size (a state, a convolution's window) live
/// side by side, so a hybrid needs nothing special and memory is counted in one place. A mixer
/// appends and reads tensors; how they are stored in between is the [codec](crate::quantise)'s.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    position: usize,
    codec: CacheCodec,
    slots: BTreeMap<&'static str, Slot>,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a few per block
enum Slot {
    Whole(Value),
    Coded(CodedSlot),
}

impl Cache {
    /// An empty cache that stores keys and values as `codec` says; [`Decoder::cache_with`](crate::Decoder::cache_with)
    /// makes one for every block and checks that the codec fits the model. One that does not fit panics
    /// at the first `append`.
    pub fn new(codec: CacheCodec) -> Self {
        Self { codec, ..Self::default() }
    }

    /// Tokens seen so far: the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Counts tokens as seen. Called by the decoder once per step.
    pub fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    pub fn get<const D: usize>(&self, slot: &'static str) -> Option<Tensor<D>> {
        self.slots.get(slot).map(|slot| match slot {
            Slot::Whole(value) => value.clone().tensor(),
            Slot::Coded(coded) => Value::new(coded.read()).tensor(),
        })
    }

    pub fn set<const D: usize>(&mut self, slot: &'static str, tensor: Tensor<D>) {
        self.slots.insert(slot, Slot::Whole(Value::new(tensor)));
    }

    /// Appends `tensor` to the slot along `dim` and returns all of it.
    pub fn append<const D: usize>(&mut self, slot: &'static str, tensor: Tensor<D>, dim: usize) -> Tensor<D> {
        self.append_last(slot, tensor, dim, None)
    }

    /// Appends `tensor` to the slot along `dim` and keeps what a query that sees `most` tokens, its own
    /// included, will need. Returns what the tokens appended see: the first of several sees as many
    /// before it as the last.
    pub fn append_last<const D: usize>(
        &mut self,
        slot: &'static str,
        tensor: Tensor<D>,
        dim: usize,
        most: Option<usize>,
    ) -> Tensor<D> {
        let time = tensor.dims()[dim];
        let coded = self.push(slot, &tensor, dim, most);
        let all = match self.get(slot) {
            Some(all) if coded => all,
            Some(past) => Tensor::cat(vec![past, tensor], dim),
            None => tensor,
        };
        let last = |most: usize| {
            let length = all.dims()[dim];
            if most < length { all.clone().narrow(dim, length - most, most) } else { all.clone() }
        };
        if !coded {
            self.set(slot, most.map_or(all.clone(), last));
        }
        most.map_or(all.clone(), |most| last(most + time - 1))
    }

    /// Appends to a slot that the codec encodes, and says whether it is one.
    fn push<const D: usize>(
        &mut self,
        slot: &'static str,
        tensor: &Tensor<D>,
        dim: usize,
        most: Option<usize>,
    ) -> bool {
        let Some((codec, block)) = self.codec.block(slot) else { return false };
        assert!(D == 4 && dim == 2, "slot `{slot}` of rank {D} grows along {dim}; only rank 4 along 2 can be encoded");
        let tokens: Tensor<4> = Value::new(tensor.clone()).tensor();
        let first = match self.slots.get_mut(slot) {
            Some(Slot::Coded(coded)) => {
                let time = tokens.dims()[2];
                coded.push(tokens, most.map(|most| most + time - 1));
                return true;
            }
            Some(Slot::Whole(set)) => Tensor::cat(vec![set.clone().tensor(), tokens], 2),
            None => tokens,
        };
        self.slots.insert(slot, Slot::Coded(CodedSlot::new(codec, block, first)));
        true
    }

    fn coded(&self, slot: &str) -> Option<&CodedSlot> {
        match self.slots.get(slot) {
            Some(Slot::Coded(coded)) => Some(coded),
            _ => None,
        }
    }

    /// Bytes held: for an encoded slot its packed codes, its scales and its recent tokens.
    pub fn bytes(&self) -> usize {
        let bytes = |slot: &Slot| match slot {
            Slot::Whole(value) => value.bytes(),
            Slot::Coded(coded) => coded.bytes(),
        };
        self.slots.values().map(bytes).sum()
    }

    /// The part of [`bytes`](Self::bytes) that is codes and scales, and how many numbers it stands for.
    pub fn encoded(&self) -> (usize, usize) {
        let coded = self.slots.values().filter_map(|slot| match slot {
            Slot::Whole(_) => None,
            Slot::Coded(coded) => Some(coded.encoded()),
        });
        coded.fold((0, 0), |(bytes, numbers), (more, of)| (bytes + more, numbers + of))
    }

    /// Names of the slots with the shapes of what they give back.
    pub fn shapes(&self) -> impl Iterator<Item = (&'static str, &[usize])> {
        self.slots.iter().map(|(name, slot)| match slot {
            Slot::Whole(value) => (*name, value.shape()),
            Slot::Coded(coded) => (*name, &coded.shape()[..]),
        })
    }
}

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
            let part = pattern_of(q.clone().detach(), self.keys().detach(), options.clone(), heads, rows);
            tap.at(name, part);
        }
        match self {
            Self::Whole { k, v } => kernels::softmax_attention(q, k, v, options),
            Self::Product { k: (keys, k), v: (values, v) } => {
                let gate = options.gate.take();
                gated(kernels::product_attention(q, &keys, &values, (k, v), options), gate)
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

fn gated(heads: Tensor<4>, gate: Option<Tensor<4>>) -> Tensor<4> {
    match gate {
        Some(gate) => heads * gate,
        None => heads,
    }
}

fn reconstruct((codes, recent): &(ProductCodes, Tensor<4>)) -> Tensor<4> {
    Tensor::cat(vec![codes.reconstruct(), recent.clone()], 2)
}
