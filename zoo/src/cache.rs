//! What a mixer keeps of the past while it decodes one token at a time.

use crate::tap::Value;
use burn::tensor::Tensor;
use std::collections::BTreeMap;

/// Named tensors of one mixer, and how many tokens it has seen.
///
/// Growing slots (keys, values) and slots of constant size (a state, a convolution's window) live
/// side by side, so a hybrid needs nothing special and memory is counted in one place.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    position: usize,
    slots: BTreeMap<&'static str, Value>,
}

impl Cache {
    /// Tokens seen so far: the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Counts tokens as seen. Called by the decoder once per step.
    pub fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    pub fn get<const D: usize>(&self, slot: &'static str) -> Option<Tensor<D>> {
        self.slots.get(slot).map(|v| v.clone().tensor())
    }

    pub fn set<const D: usize>(&mut self, slot: &'static str, tensor: Tensor<D>) {
        self.slots.insert(slot, Value::new(tensor));
    }

    /// Appends `tensor` to the slot along `dim` and returns all of it.
    pub fn append<const D: usize>(&mut self, slot: &'static str, tensor: Tensor<D>, dim: usize) -> Tensor<D> {
        let all = match self.get(slot) {
            Some(past) => Tensor::cat(vec![past, tensor], dim),
            None => tensor,
        };
        self.set(slot, all.clone());
        all
    }

    /// Appends `tensor` to the slot along `dim`, keeps the last `most` of it, and returns them.
    pub fn append_last<const D: usize>(
        &mut self,
        slot: &'static str,
        tensor: Tensor<D>,
        dim: usize,
        most: Option<usize>,
    ) -> Tensor<D> {
        let all = self.append(slot, tensor, dim);
        let length = all.dims()[dim];
        match most {
            Some(most) if most < length => {
                let last = all.narrow(dim, length - most, most);
                self.set(slot, last.clone());
                last
            }
            _ => all,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.slots.values().map(Value::bytes).sum()
    }

    /// Names of the slots with their shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&'static str, &[usize])> {
        self.slots.iter().map(|(name, value)| (*name, value.shape()))
    }
}
