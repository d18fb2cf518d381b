//! Generation: a batch is its sequences, greedy is the largest logit, and what cannot be is named.

mod common;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use zoo::*;

fn model(variant: &str) -> Decoder {
    // Large weights: an untrained model of small ones is near indifferent between its tokens.
    let config = ModelConfig { init_std: 0.3, ..preset(variant, "nano").unwrap() };
    config.init(5, &Device::flex()).unwrap()
}

fn prompts() -> Vec<Vec<i32>> {
    let prompt = |length: i32, first: i32| (0..length).map(|i| (first + i * i * 7) % 256).collect();
    vec![prompt(3, 10), prompt(9, 99), prompt(1, 200), prompt(5, 42)]
}

fn sampled(max_new_tokens: usize) -> GenerateConfig {
    let sampling = Sampling::temperature(1.0).top_k(50).top_p(0.95);
    GenerateConfig { sampling, seed: 7, ..GenerateConfig::new(max_new_tokens) }
}

#[test]
fn a_batch_gives_exactly_what_each_prompt_gives_alone() {
    for variant in presets::VARIANTS {
        let model = model(variant);
        for config in [GenerateConfig::new(12), sampled(12)] {
            let together = model.generate(&prompts(), &config).unwrap();
            for (number, prompt) in prompts().into_iter().enumerate() {
                let alone = GenerateConfig { seed: config.seed + number as u64, ..config.clone() };
                let alone = model.generate(&[prompt], &alone).unwrap();
                assert_eq!(together[number], alone[0], "{variant}, prompt {number}, {:?}", config.sampling);
                assert_eq!(alone[0].len(), 12);
            }
        }
    }
}

#[test]
fn a_sequence_that_has_ended_changes_nothing_for_the_others() {
    let model = model("hybrid");
    let whole = model.generate(&prompts(), &sampled(12)).unwrap();
    // A token that ends some sequences early and others not.
    let stop = whole[0][4];
    let cut = |text: &Vec<i32>| -> Vec<i32> { text.iter().copied().take_while(|id| *id != stop).collect() };
    let expected: Vec<Vec<i32>> = whole.iter().map(cut).collect();
    assert!(expected[0].len() <= 4 && expected.iter().any(|text| text.len() == 12), "{expected:?}");
    assert_eq!(model.generate(&prompts(), &GenerateConfig { stop: vec![stop], ..sampled(12) }).unwrap(), expected);
}

#[test]
fn greedy_is_the_largest_logit_of_the_whole_text_so_far() {
    for variant in ["baseline", "gated", "hybrid", "differential"] {
        let model = model(variant);
        let mut text = prompts()[1].clone();
        for id in &model.generate(&[text.clone()], &GenerateConfig::new(10)).unwrap()[0] {
            let logits = model.forward(model.tokens(&text, [1, text.len()]).unwrap());
            let last = logits.narrow(1, text.len() - 1, 1).reshape([256]);
            assert_eq!(*id, last.argmax(0).into_scalar::<i32>(), "{variant} after {text:?}");
            text.push(*id);
        }
    }
}

#[test]
fn tokens_come_as_soon_as_their_position_is_reached() {
    let model = model("gated");
    let prompts = [vec![1, 2, 3], vec![4]];
    let mut stream = model.stream(&prompts, &GenerateConfig::new(3)).unwrap();
    let mut seen = Vec::new();
    while let Some(token) = stream.next() {
        seen.push((token.unwrap().sequence, stream.cache()[0].position()));
    }
    // The second writes after one token, the first after three.
    assert_eq!(seen, [(1, 1), (1, 2), (0, 3), (1, 3), (0, 4), (0, 5)]);
    assert!(stream.next().is_none());
}

#[test]
fn a_seed_repeats_a_text_and_another_seed_gives_another() {
    let model = model("baseline");
    let text = |seed| model.generate(&prompts(), &GenerateConfig { seed, ..sampled(20) }).unwrap();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1)[0], text(2)[0]);
}

#[test]
fn a_model_that_trains_generates_the_same_and_keeps_no_graph() {
    let config = ModelConfig { init_std: 0.3, ..preset("hybrid", "nano").unwrap() };
    let training = config.init(5, &Device::flex().autodiff()).unwrap();
    assert_eq!(
        training.generate(&prompts(), &sampled(8)).unwrap(),
        model("hybrid").generate(&prompts(), &sampled(8)).unwrap()
    );
    let mut stream = training.stream(&prompts(), &sampled(8)).unwrap();
    stream.next();
    assert_eq!(stream.cache()[0].get::<4>("state").expect("a state").device(), Device::flex());
}

#[test]
fn what_cannot_be_generated_is_named_with_what_could() {
    let model = model("baseline");
    let refused = |prompts: &[Vec<i32>], config: GenerateConfig, parts: &[&str]| {
        let message = model.generate(prompts, &config).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message} should say {parts:?}");
    };
    let config = GenerateConfig::new(3);
    refused(&[], config.clone(), &["prompts", "at least one"]);
    refused(&[vec![1], vec![]], config.clone(), &["prompt 1", "at least one"]);
    refused(&[vec![1, 256]], config.clone(), &["256", "position 1", "0..256"]);
    refused(&[vec![-1]], config.clone(), &["-1", "0..256"]);
    refused(&[vec![1]], GenerateConfig::new(0), &["max_new_tokens", "at least 1"]);
    refused(&[vec![1]], GenerateConfig { stop: vec![2, 300], ..config.clone() }, &["stop", "300", "0..256"]);
    let sampling = Sampling::temperature(-1.0);
    refused(&[vec![1]], GenerateConfig { sampling, ..config.clone() }, &["temperature", "-1"]);

    let mut broken = model.clone();
    broken.norm.weight = Param::from_tensor(Tensor::full([32], f32::NAN, &Device::flex()));
    let mut stream = broken.stream(&[vec![1]], &config).unwrap();
    let message = stream.next().unwrap().unwrap_err().to_string();
    assert!(message.contains("logits") && message.contains("NaN"), "{message}");
    assert!(stream.next().is_none(), "nothing follows an error");
}
