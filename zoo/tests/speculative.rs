//! Speculative decoding: the text is the trunk's, whatever the draft.

mod common;

use burn::tensor::Device;
use common::double;
use zoo::*;

fn model(seed: u64) -> Decoder {
    let config = ModelConfig { vocab_size: 12, init_std: 0.3, ..preset("qwen3-next", "nano").unwrap() };
    double(config.init(seed, &Device::flex()).unwrap())
}

#[test]
fn the_greedy_text_is_that_of_decoding_token_by_token() {
    for (seed, new) in [(1, 1), (2, 2), (3, 30), (4, 31)] {
        let model = model(seed);
        let config = GenerateConfig::new(new);
        let prompt = [3, 1, 4, 1, 5];
        let text = model.speculate(&prompt, &config).unwrap();
        assert_eq!(text.tokens, model.generate(&[prompt.to_vec()], &config).unwrap()[0], "seed {seed}");
        assert!(text.accepted <= text.drafted && text.drafted < text.passes, "{text:?}");
        // The prompt's pass makes one token, every other one, and one more for an accepted draft.
        assert!(text.passes + text.accepted >= new, "{text:?}");
    }
}

#[test]
fn a_draft_that_is_always_right_makes_two_tokens_a_pass() {
    let mut model = model(5);
    // Nothing is left of any state: all tokens are alike to the trunk and to the head.
    let flat = |norm: &mut RmsNorm| norm.weight = norm.weight.clone().map(|w| w * 0.0 - 1.0);
    flat(&mut model.norm);
    flat(&mut model.mtp.as_mut().unwrap().norm);
    for sampling in [Sampling::greedy(), Sampling::temperature(1.0)] {
        let text = model.speculate(&[1, 2], &GenerateConfig { sampling, ..GenerateConfig::new(21) }).unwrap();
        assert_eq!((text.tokens.len(), text.passes, text.accepted, text.acceptance()), (21, 11, 10, 1.0));
    }
}

#[test]
fn a_stop_token_ends_the_text_and_a_model_without_head_is_refused() {
    let model = model(6);
    let whole = model.speculate(&[1, 2, 3], &GenerateConfig::new(20)).unwrap().tokens;
    let stop = whole[7];
    let first = whole.iter().position(|&id| id == stop).unwrap();
    let stopped = GenerateConfig { stop: vec![stop], ..GenerateConfig::new(20) };
    assert_eq!(model.speculate(&[1, 2, 3], &stopped).unwrap().tokens, whole[..first]);

    let plain = preset("hybrid", "nano").unwrap().init(0, &Device::flex()).unwrap();
    let error = plain.speculate(&[1], &GenerateConfig::new(2)).unwrap_err().to_string();
    assert!(error.contains("prediction head"), "{error}");
    let error = model.speculate(&[], &GenerateConfig::new(2)).unwrap_err().to_string();
    assert!(error.contains("prompt 0"), "{error}");
}
