//! Every mixer decodes from every format.

use super::common::*;
use super::uniform;
use burn::tensor::{Device, Tensor};
use zoo::*;

/// Outputs of `[batch, time, d_model]` decoded token by token, and the cache at the end.
fn decode(mixer: &AnyMixer, x: &Tensor<3>, codec: &CacheCodec, tap: &mut dyn Tap) -> (Tensor<3>, Cache) {
    let mut cache = Cache::new(codec.clone());
    let steps = (0..x.dims()[1]).map(|t| {
        let y = mixer.step(x.clone().narrow(1, t, 1), &mut cache, tap);
        cache.advance(1);
        y
    });
    (Tensor::cat(steps.collect(), 1), cache)
}

/// What a mixer keeps of `x`, seen `times` times.
fn samples(mixer: &AnyMixer, x: &Tensor<3>, times: usize) -> CacheSamples {
    let mut samples = CacheSamples::default();
    for _ in 0..times {
        let mut cache = Cache::default();
        for t in 0..x.dims()[1] {
            mixer.step(x.clone().narrow(1, t, 1), &mut cache, &mut Silent);
            cache.advance(1);
            samples.observe(&cache);
        }
    }
    samples
}

/// A product codec with `2^bits` centroids in two or three sub-spaces, whichever the channels allow,
/// from `x` seen as often as gives a vector for each; `None` for a mixer without keys.
fn product(mixer: &AnyMixer, x: &Tensor<3>, bits: usize, recent: usize) -> Option<CacheCodec> {
    let format = |subspaces| CacheFormat::Product(ProductFormat { recent, ..ProductFormat::new(subspaces, bits) });
    [1, 2, 4, 8, 16, 32].into_iter().find_map(|times| {
        let samples = samples(mixer, x, times);
        [2, 3].into_iter().find_map(|subspaces| format(subspaces).fit(&samples).ok())
    })
}

#[test]
fn a_text_no_longer_than_the_recent_window_is_computed_exactly() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(31, [2, 7, D_MODEL], &device);
        let (exact, _) = decode(&mixer, &x, &CacheCodec::Full, &mut Silent);
        let coded = [uniform(2, Axis::Token, Axis::Token, 7), uniform(2, Axis::Channel, Axis::Channel, 7)];
        for codec in coded.into_iter().chain(product(&mixer, &x, 2, 7)) {
            let (found, _) = decode(&mixer, &x, &codec, &mut Silent);
            assert_eq!(largest(exact.clone() - found), 0.0, "{name}, {codec:?}");
        }
    }
}

#[test]
fn with_a_centroid_for_every_vector_nothing_is_lost() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(32, [1, 8, D_MODEL], &device);
        let (exact, _) = decode(&mixer, &x, &CacheCodec::Full, &mut Silent);
        let Some(codec) = product(&mixer, &x, 8, 3) else {
            assert!(config.is_linear(), "{name} has keys to encode");
            continue;
        };
        let (found, _) = decode(&mixer, &x, &codec, &mut Silent);
        let error = largest(exact - found);
        assert!(error < 1e-9, "{name}: off by {error:e}");
    }
}

#[test]
fn finer_codes_come_closer_to_the_exact_step() {
    let device = Device::flex();
    for (name, config) in mixers().into_iter().filter(|(_, config)| !config.is_linear()) {
        let mixer = build(&config, &device);
        let x = numbers(33, [2, 13, D_MODEL], &device);
        let (exact, _) = decode(&mixer, &x, &CacheCodec::Full, &mut Silent);
        let error = |codec| {
            let (found, _) = decode(&mixer, &x, &codec, &mut Silent);
            largest(exact.clone() - found) / largest(exact.clone())
        };
        // Another choice of blocks is no small error.
        let chooses = matches!(config, MixerConfig::Moba(_));
        for (keys, values) in [(Axis::Token, Axis::Token), (Axis::Channel, Axis::Token)] {
            let errors = [8, 4, 2].map(|bits| error(uniform(bits, keys, values, 3)));
            assert!(errors[0] < 0.01 && errors[0] < 0.2 * errors[1], "{name}: {errors:?}");
            assert!(chooses || (errors[1] < 0.1 && errors[1] < errors[2]), "{name}: {errors:?}");
        }
        let errors = [5, 1].map(|bits| error(product(&mixer, &x, bits, 3).expect("keys")));
        assert!(chooses || errors[0] < errors[1], "{name}: {errors:?}");
    }
}

#[test]
fn watching_a_quantised_step_changes_nothing_and_shows_its_pattern() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(34, [2, 9, D_MODEL], &device);
        let coded = [uniform(4, Axis::Channel, Axis::Token, 3)];
        for codec in coded.into_iter().chain(product(&mixer, &x, 3, 3)) {
            let ((silent, _), ran) = kernels::trace(|| decode(&mixer, &x, &codec, &mut Silent));
            let (watched, _) = decode(&mixer, &x, &codec, &mut Record::new(&["*"]));
            let error = largest(silent - watched);
            assert!(error < 1e-10, "{name}: off by {error:e}");
            // Where attention is plain, the codes are looked up and not decoded.
            use MixerConfig::*;
            let plain = match &config {
                Softmax(_) | Gated(_) | Forgetting(_) | Moba(_) => true,
                Differential(config) => config.version == DifferentialVersion::V2,
                _ => false,
            };
            let looked_up = ran.iter().any(|ran| ran.operator == "product_attention");
            assert_eq!(looked_up, plain && matches!(codec, CacheCodec::Product(_)), "{name}");
        }
    }
}

#[test]
fn bytes_are_those_of_packed_codes_scales_and_recent_tokens() {
    let device = Device::flex();
    let attention = SoftmaxConfig { kv_heads: Some(2), head_dim: Some(8), ..SoftmaxConfig::new(4) };
    let mixer = build(&MixerConfig::Softmax(attention), &device);
    let x = numbers(35, [1, 10, D_MODEL], &device);
    let (slots_and_heads, float) = (2 * 2, size_of::<f64>());
    // Blocks of 4: eight tokens are encoded, two recent.
    let recent = 2 * 8 * float;
    let product = {
        let samples = samples(&mixer, &x, 1);
        let format = ProductFormat { recent: 4, ..ProductFormat::new(4, 3) };
        CacheFormat::Product(format).fit(&samples).unwrap()
    };
    for (codec, coded) in [
        (CacheCodec::Full, 8 * 8 * float),
        (uniform(3, Axis::Token, Axis::Token, 4), 8 * (3 + 2 * float)), // 8 numbers of 3 bits
        (uniform(4, Axis::Channel, Axis::Channel, 4), 8 * 4 + 2 * 8 * 2 * float),
        (uniform(4, Axis::Channel, Axis::Token, 4), 8 * 4 + (2 * 8 * 2 + 8 * 2) * float / 2), // half keys
        (product, 8 * 2),                                                                     // 4 numbers of 3 bits
    ] {
        let (_, cache) = decode(&mixer, &x, &codec, &mut Silent);
        assert_eq!(cache.bytes(), slots_and_heads * (coded + recent), "{codec:?}");
        let shapes: Vec<_> = cache.shapes().collect();
        assert_eq!(shapes, [("k", vec![1, 2, 10, 8]), ("v", vec![1, 2, 10, 8])]);
    }
}

#[test]
fn a_window_bounds_an_encoded_cache_too() {
    let device = Device::flex();
    let attention = SoftmaxConfig { window: Some(5), ..SoftmaxConfig::new(4) };
    let mixer = build(&MixerConfig::Softmax(attention), &device);
    let x = numbers(36, [1, 30, D_MODEL], &device);
    let codecs = [uniform(4, Axis::Channel, Axis::Token, 2), product(&mixer, &x, 2, 2).unwrap()];
    for codec in codecs {
        let held = |time| decode(&mixer, &x.clone().narrow(1, 0, time), &codec, &mut Silent).1;
        for time in [12, 29, 30] {
            let held = held(time).shapes().map(|(_, shape)| shape[2]).max();
            // The window's five tokens, and at most one more in the oldest block.
            assert!((5..=6).contains(&held.unwrap()), "{codec:?}: {held:?} tokens after {time}");
        }
    }
}

#[test]
fn a_state_of_constant_size_stays_in_full_precision() {
    let device = Device::flex();
    for (name, config) in mixers().into_iter().filter(|(_, config)| config.is_linear()) {
        let mixer = build(&config, &device);
        let x = numbers(37, [1, 5, D_MODEL], &device);
        let (exact, full) = decode(&mixer, &x, &CacheCodec::Full, &mut Silent);
        let (found, coded) = decode(&mixer, &x, &uniform(2, Axis::Token, Axis::Token, 1), &mut Silent);
        assert_eq!((largest(exact - found), coded.bytes()), (0.0, full.bytes()), "{name}");
    }
}
