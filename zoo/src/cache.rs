//! What a mixer keeps of the past while it decodes one token at a time.

mod growing;
mod key_values;

use crate::quantise::{CacheCodec, CodedSlot};
use crate::tap::Value;
use burn::tensor::Tensor;
use growing::Growing;
pub(crate) use key_values::KeyValues;
use std::any::Any;
use std::collections::BTreeMap;

/// Runs code on the `Option<Tensor<_>>` that a `dyn Any` is. So it is compiled here for every rank: a function for
/// tensors of any rank is compiled where it is called, and a cell of a notebook would wait for all that is behind it.
macro_rules! by_rank {
    ($place:ident, |$tensor:ident| $code:expr) => { by_rank!($place, $tensor, $code; 1 2 3 4 5 6) };
    ($place:ident, $tensor:ident, $code:expr; $($rank:literal)+) => {
        $(if let Some($tensor) = $place.downcast_mut::<Option<Tensor<$rank>>>() { $code } else)+ {
            panic!("a cache holds tensors of 1 to 6 axes")
        }
    };
}

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
    Growing(Growing),
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
        let mut place = None::<Tensor<D>>;
        self.get_into(slot, &mut place);
        place
    }

    fn get_into(&self, slot: &str, place: &mut dyn Any) {
        by_rank!(place, |place| *place = self.read(slot));
    }

    fn read<const D: usize>(&self, slot: &str) -> Option<Tensor<D>> {
        self.slots.get(slot).map(|slot| match slot {
            Slot::Whole(value) => value.clone().tensor(),
            Slot::Growing(growing) => growing.last(growing.length()),
            Slot::Coded(coded) => Value::new(coded.read()).tensor(),
        })
    }

    /// What [`get`](Self::get) gives, which the cache holds no longer.
    pub fn take<const D: usize>(&mut self, slot: &'static str) -> Option<Tensor<D>> {
        let tensor = self.get(slot);
        self.forget(slot);
        tensor
    }

    fn forget(&mut self, slot: &str) {
        self.slots.remove(slot);
    }

    pub fn set<const D: usize>(&mut self, slot: &'static str, tensor: Tensor<D>) {
        self.set_from(slot, &mut Some(tensor));
    }

    fn set_from(&mut self, slot: &'static str, place: &mut dyn Any) {
        by_rank!(place, |place| if let Some(tensor) = place.take() {
            self.slots.insert(slot, Slot::Whole(Value::new(tensor)));
        });
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
        let mut place = Some(tensor);
        self.append_in(slot, &mut place, dim, most);
        place.expect("a tensor for a tensor")
    }

    fn append_in(&mut self, slot: &'static str, place: &mut dyn Any, dim: usize, most: Option<usize>) {
        by_rank!(place, |place| *place = place.take().map(|tensor| self.appended(slot, tensor, dim, most)));
    }

    fn appended<const D: usize>(
        &mut self,
        slot: &'static str,
        tensor: Tensor<D>,
        dim: usize,
        most: Option<usize>,
    ) -> Tensor<D> {
        let time = tensor.dims()[dim];
        // The first of several tokens sees as many as the last.
        let seen = most.map(|most| most + time - 1);
        if self.push(slot, &tensor, dim, most) {
            let all = self.read::<D>(slot).expect("pushed just before");
            let length = all.dims()[dim];
            return match seen {
                Some(seen) if seen < length => all.narrow(dim, length - seen, seen),
                _ => all,
            };
        }
        let held = match self.slots.remove(slot) {
            Some(Slot::Growing(growing)) => growing,
            Some(Slot::Whole(value)) => Growing::new(value.tensor::<D>(), dim),
            Some(Slot::Coded(_)) => unreachable!("`push` has encoded it"),
            None => {
                let kept = most.map_or(time, |most| most.min(time));
                let last = tensor.clone().narrow(dim, time - kept, kept);
                self.slots.insert(slot, Slot::Growing(Growing::new(last, dim)));
                return tensor;
            }
        };
        let mut growing = held.push(tensor);
        let last = growing.last(seen.map_or(growing.length(), |seen| seen.min(growing.length())));
        growing.keep(most);
        self.slots.insert(slot, Slot::Growing(growing));
        last
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
            Some(Slot::Growing(grown)) => Tensor::cat(vec![grown.last(grown.length()), tokens], 2),
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

    /// Bytes of what is kept, without the room for tokens to come: for an encoded slot its packed codes,
    /// its scales and its recent tokens.
    pub fn bytes(&self) -> usize {
        let bytes = |slot: &Slot| match slot {
            Slot::Whole(value) => value.bytes(),
            Slot::Growing(growing) => growing.bytes(),
            Slot::Coded(coded) => coded.bytes(),
        };
        self.slots.values().map(bytes).sum()
    }

    /// The part of [`bytes`](Self::bytes) that is codes and scales, and how many numbers it stands for.
    pub fn encoded(&self) -> (usize, usize) {
        let coded = self.slots.values().filter_map(|slot| match slot {
            Slot::Whole(_) | Slot::Growing(_) => None,
            Slot::Coded(coded) => Some(coded.encoded()),
        });
        coded.fold((0, 0), |(bytes, numbers), (more, of)| (bytes + more, numbers + of))
    }

    /// Names of the slots with the shapes of what they give back.
    pub fn shapes(&self) -> impl Iterator<Item = (&'static str, Vec<usize>)> {
        self.slots.iter().map(|(name, slot)| match slot {
            Slot::Whole(value) => (*name, value.shape().to_vec()),
            Slot::Growing(growing) => (*name, growing.shape()),
            Slot::Coded(coded) => (*name, coded.shape().to_vec()),
        })
    }
}
