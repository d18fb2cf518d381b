//! Caches of fewer bits: what attention has read is kept as codes.
//!
//! | [`CacheFormat`] | a vector of `d` channels becomes | source |
//! |---|---|---|
//! | `Full` | itself | |
//! | `Uniform` | `d` numbers of `bits` bits, with a scale and a minimum per token or per channel | KIVI, Liu et al. 2024, arXiv 2402.02750 |
//! | `Product` | `M` numbers of `bits` bits, each of a learned centroid of `d / M` channels | MILLION, Wang et al. 2025, arXiv 2504.03661 |
//!
//! The newest tokens stay in full precision: a buffer of `recent` tokens, the own token always among
//! them. When it is full and one more token comes, all of it is encoded as one block and the buffer
//! starts anew, so a text of up to `recent` tokens is computed exactly. [`Cache::bytes`] counts what
//! is stored: codes packed to the bit (every vector fills whole bytes), scales and minima in the
//! precision of what they scale, the buffer. Codebooks belong to the model
//! ([`Codebooks::bytes`](Codebooks::bytes)).
//!
//! ```text
//! let mut samples = CacheSamples::default();
//! samples.read(&model, text);                                  // what the caches get to see
//! let codec = CacheFormat::Product(ProductFormat::new(16, 8)).fit(&samples)?;
//! let mut cache = model.cache_with(&codec)?;                   // then as ever: model.step(…)
//! ```
//!
//! Slots of these names are encoded, `[batch, heads, time, channels]` each:
//! - `k`, `v`: keys (normed and rotated) and values, of every softmax mixer;
//! - `latent`: MLA's `[c ; k^R]`, which is key and value at once, stored as keys are;
//! - `past`: what Nexus keeps of all its loops (keys, values, raw queries), stored as keys are.
//!
//! Forgetting attention's `forget` (a running sum per head, whose small differences count) and the
//! last queries `q` of multi-token attention (a fixed number) are kept as they are, and so is
//! everything of constant size: states and convolution windows. A mixer with any other growing slot
//! is refused.

mod k_means;
mod pack;
mod product;
mod samples;
mod slot;
mod uniform;

pub use product::{Codebook, Codebooks, ProductFormat};
pub use samples::CacheSamples;
pub(crate) use slot::CodedSlot;
pub use uniform::{Axis, UniformFormat};

use crate::error::ZooError;
use crate::{Cache, Decoder, Silent};
use serde::{Deserialize, Serialize};
use slot::BlockCodec;
use std::collections::BTreeMap;
use std::fmt;

/// Growing slots that are encoded.
const ENCODED: [&str; 4] = ["k", "v", "latent", "past"];
/// Slots that may grow and are kept as they are.
const KEPT: [&str; 2] = ["forget", "q"];

/// How a cache stores keys and values, see the [module's table](self). In JSON:
/// `{"type": "uniform", "bits": 4, "keys": "channel", "values": "token"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CacheFormat {
    Full {},
    Uniform(UniformFormat),
    Product(ProductFormat),
}

impl CacheFormat {
    /// # Errors
    /// The value that does not fit, and what would.
    pub fn validate(&self) -> Result<(), ZooError> {
        match self {
            Self::Full {} => Ok(()),
            Self::Uniform(format) => format.validate(),
            Self::Product(format) => format.validate(),
        }
    }

    /// The codec of this format. Only `Product` has something to learn from the samples.
    ///
    /// # Errors
    /// An invalid format; fewer samples than centroids, or none.
    pub fn fit(&self, samples: &CacheSamples) -> Result<CacheCodec, ZooError> {
        self.validate()?;
        Ok(match self {
            Self::Full {} => CacheCodec::Full,
            Self::Uniform(format) => CacheCodec::Uniform(*format),
            Self::Product(format) => CacheCodec::Product(Codebooks::train(format, samples)?),
        })
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Full {} => write!(f, "full"),
            Self::Uniform(UniformFormat { bits, keys, values, recent }) if keys == values => {
                write!(f, "uniform by {keys}, {bits} bits, {recent} recent")
            }
            Self::Uniform(UniformFormat { bits, keys, values, recent }) => {
                write!(f, "uniform, keys by {keys}, values by {values}, {bits} bits, {recent} recent")
            }
            Self::Product(ProductFormat { subspaces, bits, recent, .. }) => {
                write!(f, "product {subspaces} × {bits} bits, {recent} recent")
            }
        }
    }
}

impl Decoder {
    /// Empty caches that store keys and values as `codec` says.
    ///
    /// # Errors
    /// An invalid codec; a slot that cannot be encoded, or whose codebook is missing or of another width.
    pub fn cache_with(&self, codec: &CacheCodec) -> Result<Vec<Cache>, ZooError> {
        codec.check(self)?;
        Ok(self.cache().iter().map(|_| Cache::new(codec.clone())).collect())
    }
}

/// A [`CacheFormat`] with all that it needs to encode.
#[derive(Clone, Debug, Default)]
pub enum CacheCodec {
    #[default]
    Full,
    Uniform(UniformFormat),
    Product(Codebooks),
}

impl CacheCodec {
    pub(crate) fn is_product(&self) -> bool {
        matches!(self, Self::Product(_))
    }

    /// How blocks of the slot are encoded and how many tokens make one; `None` where it is kept as it is.
    ///
    /// # Panics
    /// Without a codebook for the slot; [`Decoder::cache_with`] checks that there is one.
    pub(crate) fn block(&self, slot: &str) -> Option<(BlockCodec, usize)> {
        if !ENCODED.contains(&slot) {
            return None;
        }
        match self {
            Self::Full => None,
            Self::Uniform(format) => {
                let axis = if slot == "v" { format.values } else { format.keys };
                Some((BlockCodec::Uniform { bits: format.bits, axis }, format.recent))
            }
            Self::Product(books) => {
                let book = books.get(slot).unwrap_or_else(|e| panic!("{e}"));
                Some((BlockCodec::Product(book.clone()), books.format().recent))
            }
        }
    }

    /// Whether every slot that grows while `model` decodes is one that this codec can store.
    fn check(&self, model: &Decoder) -> Result<(), ZooError> {
        match self {
            Self::Full => return Ok(()),
            Self::Uniform(format) => format.validate()?,
            Self::Product(books) => books.format().validate()?,
        }
        // The mixers say what they keep by keeping it: what two tokens change in shape, grows.
        let mut caches = model.cache();
        let mut step = || {
            let id = model.tokens(&[0], [1, 1]).expect("a vocabulary has a first token");
            model.step(id, &mut caches, &mut Silent);
            let shapes = |cache: &Cache| cache.shapes().map(|(slot, shape)| (slot, shape.to_vec())).collect();
            caches.iter().map(shapes).collect::<Vec<BTreeMap<_, _>>>()
        };
        let (before, after) = (step(), step());
        for (layer, (before, after)) in before.iter().zip(&after).enumerate() {
            for (slot, shape) in after {
                let grows = before.get(slot) != Some(shape);
                self.check_slot(slot, shape, grows).map_err(|problem| ZooError::CacheSlot { layer, slot, problem })?;
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: &str, shape: &[usize], grows: bool) -> Result<(), String> {
        if KEPT.contains(&slot) || (!grows && !ENCODED.contains(&slot)) {
            return Ok(());
        }
        if !ENCODED.contains(&slot) {
            return Err(format!("grows, and only these can be encoded: {}", ENCODED.join(", ")));
        }
        let &[_, _, _, channels] = shape else {
            return Err(format!("has shape {shape:?}, expected [batch, heads, time, channels]"));
        };
        let Self::Product(books) = self else { return Ok(()) };
        let expected = books.get(slot).map_err(|e| e.to_string())?.channels();
        if channels != expected {
            return Err(format!("has {channels} channels, its codebook {expected}"));
        }
        Ok(())
    }
}
