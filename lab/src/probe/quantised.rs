//! What a cache of fewer bits costs.

use crate::LabError;
use crate::table::{Row, columns};
use crate::train::cross_entropy;
use burn::module::Module;
use burn::tensor::Tensor;
use datasets::Batch;
use polars::prelude::DataFrame;
use serde::Serialize;
use zoo::{Cache, CacheCodec, CacheFormat, CacheSamples, Decoder, Silent};

/// A model that decodes a text from a cache of one format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheQuality {
    pub format: String,
    /// What the caches of all layers hold after the last token, for each token: codes, scales, recent
    /// tokens, states.
    pub bytes_per_token: f64,
    /// The same in bits for each number that a full cache would hold: recent tokens weigh the more the
    /// shorter the text.
    pub bits_per_number: f64,
    /// Bits of codes and scales for each number that was encoded, where any was: what long texts tend to.
    pub encoded_bits: Option<f64>,
    /// Codebooks, once for the model and not in the bytes above.
    pub codebook_bytes: usize,
    /// Mean of `|logit − logit with a full cache|` over all tokens and the vocabulary.
    pub logit_error: f64,
    /// Its maximum.
    pub largest_logit_error: f64,
    /// Over the counted positions, in nats per token.
    pub loss: f64,
    /// `loss` less that of a full cache.
    pub loss_change: f64,
}

impl CacheQuality {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// `loss / ln 2`: bits per byte where tokens are bytes.
    pub fn bits_per_token(&self) -> f64 {
        self.loss / std::f64::consts::LN_2
    }
}

impl Row for CacheQuality {
    fn table(rows: &[Self]) -> DataFrame {
        columns!(rows;
            "format" => |r| r.format.clone(),
            "bytes_per_token" => |r| r.bytes_per_token,
            "bits_per_number" => |r| r.bits_per_number,
            "encoded_bits" => |r| r.encoded_bits,
            "codebook_bytes" => |r| r.codebook_bytes as u64,
            "logit_error" => |r| r.logit_error,
            "largest_logit_error" => |r| r.largest_logit_error,
            "loss" => |r| r.loss,
            "loss_change" => |r| r.loss_change,
            "perplexity" => |r| r.perplexity(),
            "bits_per_token" => |r| r.bits_per_token(),
        )
    }
}

/// Decodes `text` token by token, each batch from empty caches, once with a full cache and beside it with
/// every format. Codebooks are trained on what a full cache is given while the model reads
/// `calibration`, which should be another text.
///
/// # Errors
/// A token outside the vocabulary, a format that does not fit the model, fewer calibration vectors than
/// centroids, a text without counted positions; [`LabError::Interrupted`].
pub fn cache_quality(
    model: &Decoder,
    calibration: &[Batch],
    text: &[Batch],
    formats: &[CacheFormat],
) -> Result<Vec<CacheQuality>, LabError> {
    let model = model.valid();
    let mut samples = CacheSamples::default();
    if formats.iter().any(|format| matches!(format, CacheFormat::Product(_))) {
        for batch in calibration {
            samples.read(&model, &model.tokens(&batch.ids, [batch.batch, batch.time])?);
        }
    }
    let codecs = formats.iter().map(|format| format.fit(&samples)).collect::<Result<Vec<_>, _>>()?;
    let mut full = Tally::default();
    let mut tallies = vec![Tally::default(); formats.len()];
    for batch in text {
        let ids = model.tokens(&batch.ids, [batch.batch, batch.time])?;
        let targets = model.tokens(&batch.targets, [batch.batch, batch.time])?;
        let mut full_cache = model.cache();
        let mut caches = codecs.iter().map(|codec| model.cache_with(codec)).collect::<Result<Vec<_>, _>>()?;
        for t in 0..batch.time {
            cell_runtime::check_interrupt()?;
            let (ids, targets) = (ids.clone().narrow(1, t, 1), targets.clone().narrow(1, t, 1));
            let mask: Vec<f32> = (0..batch.batch).map(|row| batch.mask[row * batch.time + t]).collect();
            let weight: f64 = mask.iter().map(|&m| f64::from(m)).sum();
            let loss = |logits: Tensor<3>| {
                if weight == 0.0 {
                    return 0.0; // the mean of none
                }
                weight * cross_entropy(logits, targets.clone(), &mask).into_scalar::<f64>()
            };
            let exact = model.step(ids.clone(), &mut full_cache, &mut Silent);
            full.loss += loss(exact.clone());
            full.weight += weight;
            full.logits += (batch.batch * model.vocab_size()) as f64;
            for (tally, cache) in tallies.iter_mut().zip(&mut caches) {
                let logits = model.step(ids.clone(), cache, &mut Silent);
                tally.loss += loss(logits.clone());
                let error = (logits - exact.clone()).abs();
                tally.error += error.clone().sum().into_scalar::<f64>();
                tally.largest = tally.largest.max(error.max().into_scalar());
            }
        }
        full.tokens += batch.batch * batch.time;
        full.numbers += numbers(&full_cache);
        for (tally, cache) in tallies.iter_mut().zip(&caches) {
            tally.bytes += cache.iter().map(Cache::bytes).sum::<usize>();
            for (bytes, numbers) in cache.iter().map(Cache::encoded) {
                tally.encoded_bytes += bytes;
                tally.numbers += numbers;
            }
        }
    }
    if full.weight == 0.0 {
        return crate::error::invalid("text", "no counted position", "at least one");
    }
    let row = |((format, codec), tally): ((&CacheFormat, &CacheCodec), &Tally)| CacheQuality {
        format: format.to_string(),
        bytes_per_token: tally.bytes as f64 / full.tokens as f64,
        bits_per_number: 8.0 * tally.bytes as f64 / full.numbers as f64,
        encoded_bits: (tally.numbers > 0).then(|| 8.0 * tally.encoded_bytes as f64 / tally.numbers as f64),
        codebook_bytes: match codec {
            CacheCodec::Product(books) => books.bytes(),
            CacheCodec::Full | CacheCodec::Uniform(_) => 0,
        },
        logit_error: tally.error / full.logits,
        largest_logit_error: tally.largest,
        loss: tally.loss / full.weight,
        loss_change: (tally.loss - full.loss) / full.weight,
    };
    Ok(formats.iter().zip(&codecs).zip(&tallies).map(row).collect())
}

/// Sums over the text.
#[derive(Clone, Debug, Default)]
struct Tally {
    loss: f64,
    weight: f64,
    error: f64,
    logits: f64,
    largest: f64,
    bytes: usize,
    tokens: usize,
    encoded_bytes: usize,
    /// That were encoded; of the full cache, all.
    numbers: usize,
}

fn numbers(caches: &[Cache]) -> usize {
    caches.iter().flat_map(Cache::shapes).map(|(_, shape)| shape.iter().product::<usize>()).sum()
}
