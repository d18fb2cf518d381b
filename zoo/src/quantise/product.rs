//! Product quantisation: sub-vectors become numbers of learned centroids.
//!
//! ```text
//! x = [x_1 … x_M],  x_m ∈ R^{d/M}        code_m = argmin_c |x_m − C_m[c]|²        x̂_m = C_m[code_m]
//! ```
//! `C_m` has `2^bits` centroids, found by k-means: one codebook for the keys and one for the values of
//! the whole model, over all layers and heads, as in the paper. A number takes `M · bits / d` bits,
//! and no scales are kept: a channel with large values spreads the centroids of its own sub-space
//! and leaves the others alone.

use super::k_means::{k_means, nearest};
use super::samples::CacheSamples;
use super::uniform::recent;
use crate::checkpoint::{self, Tensors};
use crate::error::{ZooError, positive};
use burn::tensor::{Device, FloatDType, Int, Tensor};
use kernels::ProductCodes;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFormat {
    /// `M`, parts of a vector.
    pub subspaces: usize,
    /// Of one code: 1 to 16, for `2^bits` centroids.
    pub bits: usize,
    /// Tokens in full precision at most, which are encoded as one block.
    #[serde(default = "recent")]
    pub recent: usize,
    /// Of k-means, at most.
    #[serde(default = "iterations")]
    pub iterations: usize,
    /// Vectors drawn from the samples for every centroid; all where there are fewer.
    #[serde(default = "per_centroid")]
    pub per_centroid: usize,
    /// Of the vectors drawn and of the first centroids.
    #[serde(default)]
    pub seed: u64,
}

fn iterations() -> usize {
    25
}
fn per_centroid() -> usize {
    256
}

impl ProductFormat {
    /// 25 iterations over 256 vectors a centroid and 128 recent tokens, as released.
    pub fn new(subspaces: usize, bits: usize) -> Self {
        Self { subspaces, bits, recent: recent(), iterations: iterations(), per_centroid: per_centroid(), seed: 0 }
    }

    pub fn validate(&self) -> Result<(), ZooError> {
        positive("subspaces", self.subspaces)?;
        positive("recent", self.recent)?;
        positive("iterations", self.iterations)?;
        positive("per_centroid", self.per_centroid)?;
        if !(1..=16).contains(&self.bits) {
            let (value, expected) = (self.bits.to_string(), "1 to 16".into());
            return Err(ZooError::Invalid { name: "bits of a product cache", value, expected });
        }
        Ok(())
    }

    /// `2^bits`.
    pub fn centroids(&self) -> usize {
        1 << self.bits
    }
}

/// The centroids of one slot.
#[derive(Clone, Debug)]
pub struct Codebook {
    /// `[subspaces, 2^bits, channels / subspaces]`.
    pub centroids: Tensor<3>,
}

impl Codebook {
    /// Codes `[batch, heads, time, subspaces]` of vectors `[batch, heads, time, channels]`.
    pub fn encode(&self, x: Tensor<4>) -> Tensor<4, Int> {
        let [batch, heads, time, channels] = x.dims();
        assert_eq!(channels, self.channels(), "vectors have {channels} channels, the codebook {}", self.channels());
        let [subspaces, _, width] = self.centroids.dims();
        let centroids = self.like(&x);
        let parts = x.reshape([batch * heads * time, subspaces, width]);
        let code = |m| {
            let part = parts.clone().narrow(1, m, 1).flatten(1, 2);
            nearest(part, centroids.clone().narrow(0, m, 1).squeeze_dim(0))
        };
        Tensor::stack::<2>((0..subspaces).map(code).collect(), 1).reshape([batch, heads, time, subspaces])
    }

    /// Codes with what they stand for, in the precision of `like`.
    pub(crate) fn codes(&self, codes: Tensor<4, Int>, like: &Tensor<4>) -> ProductCodes {
        ProductCodes { codes, centroids: self.like(like) }
    }

    pub fn channels(&self) -> usize {
        let [subspaces, _, width] = self.centroids.dims();
        subspaces * width
    }

    pub(super) fn subspaces(&self) -> usize {
        self.centroids.dims()[0]
    }

    pub(super) fn bits(&self) -> usize {
        self.centroids.dims()[1].ilog2() as usize
    }

    fn like(&self, x: &Tensor<4>) -> Tensor<3> {
        self.centroids.clone().cast(FloatDType::from(x.dtype()))
    }
}

/// A codebook for every slot that was sampled: `k` and `v` in most models.
#[derive(Clone, Debug)]
pub struct Codebooks {
    format: ProductFormat,
    books: BTreeMap<String, Codebook>,
}

impl Codebooks {
    /// # Errors
    /// No samples; fewer vectors than centroids; channels that do not divide into the sub-spaces or that
    /// differ between blocks; a sample that is not finite.
    pub fn train(format: &ProductFormat, samples: &CacheSamples) -> Result<Self, ZooError> {
        format.validate()?;
        let mut rng = StdRng::seed_from_u64(format.seed);
        let mut books = BTreeMap::new();
        for (slot, vectors) in samples.vectors()? {
            let [n, channels] = vectors.dims();
            let invalid = |problem: String| ZooError::Codebook { slot: slot.into(), problem };
            if !channels.is_multiple_of(format.subspaces) {
                return Err(invalid(format!(
                    "{channels} channels are not divisible by subspaces {}",
                    format.subspaces
                )));
            }
            let count = format.centroids();
            if n < count {
                return Err(invalid(format!("{n} calibration vectors are fewer than {count} centroids")));
            }
            if !vectors.clone().sum().into_data().iter::<f64>().all(f64::is_finite) {
                return Err(invalid("a calibration vector is not finite".into()));
            }
            let drawn = n.min(format.per_centroid.saturating_mul(count));
            let chosen: Vec<i64> = rand::seq::index::sample(&mut rng, n, drawn).iter().map(|i| i as i64).collect();
            let vectors = vectors.clone().select(0, Tensor::<1, Int>::from_data(&chosen[..], &vectors.device()));
            let width = channels / format.subspaces;
            let part = |m| k_means(&vectors.clone().narrow(1, m * width, width), count, format.iterations, &mut rng);
            let centroids = Tensor::stack((0..format.subspaces).map(part).collect(), 0);
            books.insert(slot.to_string(), Codebook { centroids });
        }
        if books.is_empty() {
            return Err(ZooError::Codebook { slot: "k".into(), problem: "no calibration vectors".into() });
        }
        Ok(Self { format: *format, books })
    }

    pub fn format(&self) -> &ProductFormat {
        &self.format
    }

    /// # Errors
    /// Names the slots that have a codebook.
    pub fn get(&self, slot: &str) -> Result<&Codebook, ZooError> {
        let valid = || self.books.keys().cloned().collect();
        self.books.get(slot).ok_or_else(|| ZooError::Unknown { what: "codebook", name: slot.into(), valid: valid() })
    }

    /// What the centroids take, once for the whole model.
    pub fn bytes(&self) -> usize {
        self.books.values().map(|b| b.centroids.shape().num_elements() * b.centroids.dtype().size()).sum()
    }

    /// Writes a safetensors file: a tensor per slot, the format as metadata.
    pub fn save(&self, path: &Path) -> Result<(), ZooError> {
        let tensors: Tensors = self.books.iter().map(|(slot, book)| (slot.clone(), book.centroids.to_data())).collect();
        let format = serde_json::to_string(&self.format)?;
        checkpoint::write(path, &tensors, HashMap::from([(FORMAT.into(), format)]))
    }

    /// # Errors
    /// A file that [`save`](Self::save) did not write, or centroids that are not finite, with its name.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ZooError> {
        let problem = |problem: String| ZooError::Checkpoint { path: path.into(), problem };
        let file = checkpoint::File::open(path)?;
        let metadata = file.metadata();
        let json = metadata.get(FORMAT).ok_or_else(|| problem(format!("no `{FORMAT}` in the metadata")))?;
        let format: ProductFormat = serde_json::from_str(json).map_err(|e| problem(format!("`{FORMAT}`: {e}")))?;
        format.validate().map_err(|e| problem(e.to_string()))?;
        let books = file.stored().into_keys().map(|slot| {
            let data = file.weight(&slot)?;
            let shape = data.shape().to_vec();
            match shape[..] {
                [subspaces, count, width]
                    if subspaces == format.subspaces && count == format.centroids() && width > 0 => {}
                _ => {
                    let expected = format!("[{}, {}, channels / subspaces]", format.subspaces, format.centroids());
                    return Err(problem(format!("{slot} has shape {shape:?}, expected {expected}")));
                }
            }
            let dtype = data.dtype();
            Ok((slot, Codebook { centroids: Tensor::from_data(data, (device, dtype)) }))
        });
        Ok(Self { format, books: books.collect::<Result<_, _>>()? })
    }
}

/// The key of the metadata.
const FORMAT: &str = "product_format";
