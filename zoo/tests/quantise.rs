//! Caches of fewer bits: one suite for all mixers, and what the formats promise.

mod common;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use common::*;
use zoo::quantise::Codebook;
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

fn uniform(bits: usize, keys: Axis, values: Axis, recent: usize) -> CacheCodec {
    CacheCodec::Uniform(UniformFormat { bits, keys, values, recent })
}

/// `[1, 1, rows, width]` through a slot of keys.
fn stored(x: &Tensor<4>, codec: &CacheCodec) -> Tensor<4> {
    let mut cache = Cache::new(codec.clone());
    for t in 0..x.dims()[2] {
        cache.append("k", x.clone().narrow(2, t, 1), 2);
    }
    cache.get("k").expect("appended")
}

fn observed(x: &Tensor<4>) -> CacheSamples {
    let (mut samples, mut cache) = (CacheSamples::default(), Cache::default());
    for t in 0..x.dims()[2] {
        cache.append("k", x.clone().narrow(2, t, 1), 2);
        samples.observe(&cache);
    }
    samples
}

/// Sums of twelve numbers in (−1, 1), which lie like a bell.
fn bell(shape: [usize; 4]) -> Tensor<4> {
    (0..12).map(|seed| numbers(seed + 50, shape, &Device::flex())).reduce(|a, b| a + b).expect("twelve")
}

fn mean_square(x: Tensor<4>) -> f64 {
    x.square().mean().into_scalar()
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
        assert_eq!(shapes, [("k", &[1, 2, 10, 8][..]), ("v", &[1, 2, 10, 8][..])]);
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

#[test]
fn a_uniform_code_is_off_by_half_a_step_at_most_and_the_ends_come_back() {
    let x = numbers(38, [2, 3, 12, 8], &Device::flex());
    for (axis, dim) in [(Axis::Token, 3), (Axis::Channel, 2)] {
        for bits in [2, 3, 4, 8] {
            let found = stored(&Tensor::cat(vec![x.clone(), x.clone()], 2), &uniform(bits, axis, axis, 12));
            let found = found.narrow(2, 0, 12); // the second half is recent
            let step = (x.clone().max_dim(dim) - x.clone().min_dim(dim)) / ((1 << bits) - 1) as f64;
            let error = (x.clone() - found.clone()).abs();
            assert!(largest((error - step * 0.5).clamp_min(0.0)) < 1e-12, "{bits} bits by {axis}");
            let ends = largest(x.clone().max_dim(dim) - found.clone().max_dim(dim))
                + largest(x.clone().min_dim(dim) - found.min_dim(dim));
            assert!(ends < 1e-12, "{bits} bits by {axis}");
        }
    }
}

#[test]
fn equal_numbers_come_back_as_they_are() {
    let x = Tensor::<4>::full([1, 1, 9, 4], 1.7, (&Device::flex(), DType::F64));
    for axis in [Axis::Token, Axis::Channel] {
        assert_eq!(largest(stored(&x, &uniform(2, axis, axis, 4)) - x.clone()), 0.0, "{axis}");
    }
}

#[test]
fn a_centroid_comes_back_as_itself() {
    let x = bell([1, 1, 300, 6]);
    let CacheCodec::Product(books) = CacheFormat::Product(ProductFormat::new(3, 4)).fit(&observed(&x)).unwrap() else {
        panic!("asked for a product")
    };
    let Codebook { centroids } = books.get("k").unwrap().clone();
    assert_eq!(centroids.dims(), [3, 16, 2]);
    let vectors = centroids.swap_dims(0, 1).reshape([1, 1, 16, 6]);
    let twice = Tensor::cat(vec![vectors.clone(), vectors.clone()], 2);
    let format = ProductFormat { recent: 16, ..*books.format() };
    let codec = CacheFormat::Product(format).fit(&observed(&x)).unwrap();
    assert_eq!(largest(stored(&twice, &codec) - twice), 0.0);
}

#[test]
fn learned_levels_are_closer_than_even_ones() {
    // Sub-spaces of one channel: k-means chooses 16 levels where the numbers are, a uniform code
    // spaces them evenly from end to end.
    let x = bell([1, 1, 512, 4]);
    let format = CacheFormat::Product(ProductFormat { recent: 256, ..ProductFormat::new(4, 4) });
    let learned = mean_square(stored(&x, &format.fit(&observed(&x)).unwrap()) - x.clone());
    let even = mean_square(stored(&x, &uniform(4, Axis::Channel, Axis::Channel, 256)) - x);
    assert!(learned < 0.8 * even, "{learned} against {even}");
}

#[test]
fn a_large_channel_harms_the_others_by_token_and_neither_by_channel_nor_in_sub_spaces() {
    let x = bell([1, 1, 512, 8]);
    let large = x.clone()
        * Tensor::<4>::from_floats([[[[1., 1., 1., 1., 1., 1., 1., 100.]]]], &Device::flex()).cast(DType::F64);
    // Of the channels that did not grow, as a multiple of what it was before the eighth did.
    let harm = |codec: &dyn Fn(&Tensor<4>) -> CacheCodec| {
        let error = |x: &Tensor<4>| mean_square((stored(x, &codec(x)) - x.clone()).narrow(3, 0, 6));
        error(&large) / error(&x)
    };
    let by = |axis| move |_: &Tensor<4>| uniform(4, axis, axis, 128);
    let product = |x: &Tensor<4>| {
        CacheFormat::Product(ProductFormat { recent: 128, ..ProductFormat::new(4, 6) }).fit(&observed(x)).unwrap()
    };
    assert!(harm(&by(Axis::Token)) > 100.0);
    assert!((harm(&by(Axis::Channel)) - 1.0).abs() < 1e-9);
    assert!((harm(&product) - 1.0).abs() < 0.2);
}

/// What the caches of a model see of `4 · time` tokens.
fn read(model: &Decoder<impl Mixer>, time: usize) -> CacheSamples {
    let ids: Vec<i32> = (0..4 * time).map(|i| (i * i * 7 + i) as i32 % 256).collect();
    let mut samples = CacheSamples::default();
    samples.read(model, &model.tokens(&ids, [4, time]).unwrap());
    samples
}

fn nano(variant: &str) -> Decoder {
    preset(variant, "nano").unwrap().init(3, &Device::flex()).unwrap()
}

#[test]
fn every_variant_decodes_from_every_format_in_fewer_bytes() {
    for variant in presets::VARIANTS {
        let model = nano(variant);
        let samples = read(&model, 16);
        let ids = model.tokens(&(40..60).collect::<Vec<_>>(), [1, 20]).unwrap();
        let bytes = |codec| {
            let mut cache = model.cache_with(&codec).unwrap();
            for t in 0..20 {
                let logits = model.step(ids.clone().narrow(1, t, 1), &mut cache, &mut Silent);
                assert!(logits.into_data().iter::<f64>().all(f64::is_finite), "{variant}, {codec:?}");
            }
            cache.iter().map(Cache::bytes).sum::<usize>()
        };
        let full = bytes(CacheCodec::Full);
        let linear = preset(variant, "nano").unwrap().pattern.iter().all(MixerConfig::is_linear);
        for format in [
            CacheFormat::Uniform(UniformFormat { recent: 4, ..UniformFormat::kivi(2) }),
            CacheFormat::Product(ProductFormat { recent: 4, ..ProductFormat::new(4, 5) }),
        ] {
            match format.fit(&samples) {
                Ok(codec) if linear => assert_eq!(bytes(codec), full, "{variant}, {format}"),
                Ok(codec) => assert!(bytes(codec) < full, "{variant}, {format}"),
                Err(e) => assert!(linear && e.to_string().contains("no calibration vectors"), "{variant}: {e}"),
            }
        }
    }
}

/// A mixer that this crate does not know, which grows a slot of its own beside keys.
#[derive(Module, Debug)]
struct Notes {
    slot: Param<Tensor<1>>,
}

impl Mixer for Notes {
    fn forward(&self, x: Tensor<3>, _: &mut dyn Tap) -> Tensor<3> {
        x
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, _: &mut dyn Tap) -> Tensor<3> {
        cache.append("k", x.clone().unsqueeze_dim::<4>(1), 2);
        if self.slot.val().into_scalar::<f32>() > 0.0 {
            cache.append("notes", x.clone(), 1);
        }
        cache.set("last", x.clone());
        x
    }
}

fn notes(grows: bool) -> Decoder<Notes> {
    let config = ModelConfig::new(24, 24, 2, vec![]);
    let mixer = |_, init: &mut Init| Notes { slot: init.constant([1], if grows { 1.0 } else { 0.0 }) };
    Decoder::with_mixers(&config, 0, &Device::flex(), mixer).unwrap()
}

#[test]
fn a_growing_slot_that_no_format_knows_is_refused_by_name() {
    let codec = CacheCodec::Uniform(UniformFormat::new(4, Axis::Token));
    assert!(notes(false).cache_with(&codec).is_ok(), "`k` is encoded, `last` has a constant size");
    assert!(notes(true).cache_with(&CacheCodec::Full).is_ok());
    let error = notes(true).cache_with(&codec).unwrap_err().to_string();
    assert!(error.contains("block 0") && error.contains("`notes` grows") && error.contains("k, v"), "{error}");
}

#[test]
fn a_codec_of_another_model_is_refused_with_both_numbers() {
    let fit = |subspaces, variant| {
        CacheFormat::Product(ProductFormat::new(subspaces, 3)).fit(&read(&nano(variant), 4)).unwrap()
    };
    let error = nano("latent").cache_with(&fit(2, "baseline")).unwrap_err().to_string();
    assert!(error.contains("`latent`") && error.contains("valid: k, v"), "{error}");
    let error = notes(false).cache_with(&fit(2, "baseline")).unwrap_err().to_string();
    assert!(error.contains("slot `k` has 24 channels, its codebook 16"), "{error}");
}

#[test]
fn what_cannot_be_trained_names_the_numbers() {
    let samples = read(&nano("baseline"), 4);
    let fit = |format: ProductFormat| CacheFormat::Product(format).fit(&samples).unwrap_err().to_string();
    let error = fit(ProductFormat::new(2, 12));
    assert!(error.contains("`k`") && error.contains("128 calibration vectors are fewer than 4096"), "{error}");
    assert!(fit(ProductFormat::new(3, 2)).contains("16 channels are not divisible by subspaces 3"));
    assert!(fit(ProductFormat::new(2, 17)).contains("1 to 16, got 17"));
    assert!(fit(ProductFormat { recent: 0, ..ProductFormat::new(2, 2) }).contains("recent must be at least 1"));
    let uniform = |bits, recent| {
        let format = UniformFormat { recent, ..UniformFormat::new(bits, Axis::Token) };
        nano("baseline").cache_with(&CacheCodec::Uniform(format)).unwrap_err().to_string()
    };
    assert!(uniform(5, 8).contains("2, 3, 4 or 8, got 5"));
    assert!(uniform(4, 0).contains("recent must be at least 1"));
    let broken = Tensor::<4>::full([1, 1, 9, 4], f64::NAN, (&Device::flex(), DType::F64));
    let error = CacheFormat::Product(ProductFormat::new(2, 2)).fit(&observed(&broken)).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn the_same_text_and_seed_give_the_same_codebooks_and_a_file_gives_them_back() {
    let samples = read(&nano("hybrid"), 16);
    let train = |seed| Codebooks::train(&ProductFormat { seed, ..ProductFormat::new(4, 4) }, &samples).unwrap();
    let data = |books: &Codebooks| ["k", "v"].map(|slot| books.get(slot).unwrap().centroids.to_data());
    let books = train(1);
    assert_eq!(data(&books), data(&train(1)));
    assert_ne!(data(&books), data(&train(2)));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("codebooks.safetensors");
    books.save(&path).unwrap();
    let back = Codebooks::load(&path, &Device::flex()).unwrap();
    assert_eq!((data(&back), back.format(), back.bytes()), (data(&books), books.format(), books.bytes()));

    let (mut tensors, metadata) = checkpoint::read(&path).unwrap();
    let refuse = |tensors: &checkpoint::Tensors, metadata| {
        checkpoint::write(&path, tensors, metadata).unwrap();
        Codebooks::load(&path, &Device::flex()).unwrap_err().to_string()
    };
    let error = refuse(&tensors, Default::default());
    assert!(error.contains("codebooks.safetensors") && error.contains("product_format"), "{error}");
    tensors.insert("k".into(), numbers(1, [4, 8, 2], &Device::flex()).into_data());
    let error = refuse(&tensors, metadata);
    assert!(error.contains("k has shape [4, 8, 2], expected [4, 16,"), "{error}");
}

#[test]
fn a_format_survives_json_and_a_misspelt_key_does_not() {
    let formats = [
        CacheFormat::Full {},
        CacheFormat::Uniform(UniformFormat::kivi(4)),
        CacheFormat::Product(ProductFormat { seed: 3, ..ProductFormat::new(16, 8) }),
    ];
    for format in formats {
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(serde_json::from_str::<CacheFormat>(&json).unwrap(), format);
    }
    let short: CacheFormat = serde_json::from_str(r#"{"type": "product", "subspaces": 16, "bits": 8}"#).unwrap();
    assert_eq!(short, CacheFormat::Product(ProductFormat::new(16, 8)));
    let misspelt = serde_json::from_str::<CacheFormat>(r#"{"type": "product", "subspaces": 16, "bit": 8}"#);
    assert!(misspelt.unwrap_err().to_string().contains("`bit`"));
}
