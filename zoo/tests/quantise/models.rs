//! Formats, codebooks and whole models.

use super::common::numbers;
use super::observed;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use zoo::*;

/// What the caches of a model see of `4 · time` tokens.
fn read(model: &Decoder, time: usize) -> CacheSamples {
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

fn notes(grows: bool) -> Decoder {
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
