//! Caches of fewer bits: one suite for all mixers, and what the formats promise.

#[path = "../common/mod.rs"]
mod common;

mod codecs;
mod mixers;
mod models;

use burn::tensor::Tensor;
use zoo::*;

fn uniform(bits: usize, keys: Axis, values: Axis, recent: usize) -> CacheCodec {
    CacheCodec::Uniform(UniformFormat { bits, keys, values, recent })
}

fn observed(x: &Tensor<4>) -> CacheSamples {
    let (mut samples, mut cache) = (CacheSamples::default(), Cache::default());
    for t in 0..x.dims()[2] {
        cache.append("k", x.clone().narrow(2, t, 1), 2);
        samples.observe(&cache);
    }
    samples
}
