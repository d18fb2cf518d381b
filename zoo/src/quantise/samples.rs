//! Calibration vectors.

use super::ENCODED;
use crate::{Cache, Decoder, Silent, ZooError};
use burn::tensor::{Int, Tensor};
use std::collections::BTreeMap;

/// What the caches of a model are given while it reads a calibration text: exactly the vectors that a
/// codec will have to encode, keys after their rotation, from all blocks and heads.
#[derive(Clone, Debug, Default)]
pub struct CacheSamples {
    /// Each `[vectors, channels]`.
    slots: BTreeMap<&'static str, Vec<Tensor<2>>>,
}

impl CacheSamples {
    /// Reads token ids `[batch, time]` (made by [`Decoder::tokens`]) one by one, in full precision.
    pub fn read(&mut self, model: &Decoder, ids: &Tensor<2, Int>) {
        let mut caches = model.cache();
        for t in 0..ids.dims()[1] {
            model.step(ids.clone().narrow(1, t, 1), &mut caches, &mut Silent);
            caches.iter().for_each(|cache| self.observe(cache));
        }
    }

    /// Takes the newest token of every slot that can be encoded.
    pub fn observe(&mut self, cache: &Cache) {
        let slots: Vec<_> = cache.shapes().filter(|(slot, shape)| ENCODED.contains(slot) && shape.len() == 4).collect();
        for (slot, shape) in slots {
            let all = cache.get::<4>(slot).expect("named by the cache");
            // A view would hold the whole room, and the next token would be written to a copy of that.
            let newest = all.narrow(2, shape[2] - 1, 1).detach().mul_scalar(1.0);
            self.slots.entry(slot).or_default().push(newest.reshape([-1, shape[3] as i32]));
        }
    }

    /// All vectors of each slot.
    pub(super) fn vectors(&self) -> Result<Vec<(&'static str, Tensor<2>)>, ZooError> {
        let join = |(slot, parts): (&&'static str, &Vec<Tensor<2>>)| {
            let channels = parts[0].dims()[1];
            if let Some(other) = parts.iter().map(|part| part.dims()[1]).find(|&width| width != channels) {
                let problem =
                    format!("one codebook serves all blocks, but some have {channels} channels and some {other}");
                return Err(ZooError::Codebook { slot: slot.to_string(), problem });
            }
            Ok((*slot, Tensor::cat(parts.clone(), 0)))
        };
        self.slots.iter().map(join).collect()
    }
}
