//! A checkpoint of Hugging Face's writes on as its original would: with the prelude alone.

#[path = "../zoo/tests/common/mod.rs"]
mod common;

use attention::prelude::*;
use std::path::{Path, PathBuf};

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/data").join(family)
}

/// Every beginning of the reference's texts is a prompt, all of them one batch of unequal lengths; the
/// next token is the one to which the original gave its largest logit.
#[test]
fn the_next_token_is_the_originals_likeliest() {
    for family in common::PRETRAINED {
        let dir = folder(family);
        let (_, model) = Decoder::from_pretrained(&dir, &Device::flex()).unwrap();
        let (reference, _) = checkpoint::read(&dir.join("reference.safetensors")).unwrap();
        let [batch, time, vocabulary] = reference["logits"].shape().to_vec().try_into().unwrap();
        let ids: Vec<i32> = reference["ids"].iter::<i64>().map(|id| id as i32).collect();
        let logits: Vec<f32> = reference["logits"].iter::<f32>().collect();
        let (mut prompts, mut expected) = (Vec::new(), Vec::new());
        for (place, row) in logits.chunks_exact(vocabulary).enumerate() {
            prompts.push(ids[place / time * time..=place].to_vec());
            let likeliest = (0..vocabulary).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            expected.push(vec![likeliest as i32]);
        }
        assert_eq!(prompts.len(), batch * time);
        assert_eq!(model.generate(&prompts, &GenerateConfig::new(1)).unwrap(), expected, "{family}");
    }
}

#[test]
fn a_text_is_written_with_the_prelude() {
    let model = preset("gated", "nano").unwrap().init(0, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::bytes();
    let prompts = ["to be", "or"].map(|text| tokenizer.encode(text).unwrap());
    let sampling = Sampling::temperature(0.8).top_k(40);
    let config = GenerateConfig { sampling, seed: 1, ..GenerateConfig::new(12) };
    let mut texts = [tokenizer.stream(), tokenizer.stream()];
    let mut written = [String::new(), String::new()];
    for token in model.stream(&prompts, &config).unwrap() {
        let NewToken { sequence, id } = token.unwrap();
        written[sequence] += &texts[sequence].push(id).unwrap();
    }
    let whole = model.generate(&prompts, &config).unwrap();
    for ((stream, text), ids) in texts.into_iter().zip(written).zip(whole) {
        assert_eq!(text + &stream.finish().unwrap(), tokenizer.decode(&ids).unwrap());
    }
}
