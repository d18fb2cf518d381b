//! The memory network against its definition.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::{double, gradients_by_name, largest};
use std::path::Path;
use zoo::memory_network::{NIL, position_encoding, with_empty_memories};
use zoo::*;

const VOCAB: usize = 9;
const MEMORY: usize = 5;
const WORDS: usize = 4;

/// Both tyings with both encodings, and one of each without time.
fn configs() -> Vec<MemoryNetworkConfig> {
    use {SentenceEncoding::*, Tying::*};
    let of = |tying, encoding, temporal, hops| MemoryNetworkConfig {
        d_model: 6,
        memory: MEMORY,
        init_std: 0.5,
        tying,
        encoding,
        temporal,
        hops,
        ..MemoryNetworkConfig::new(VOCAB)
    };
    vec![
        of(Adjacent, Position, true, 3),
        of(Adjacent, BagOfWords, true, 2),
        of(Adjacent, Position, false, 1),
        of(LayerWise, Position, true, 3),
        of(LayerWise, BagOfWords, false, 2),
    ]
}

fn build(config: &MemoryNetworkConfig, device: &Device) -> MemoryNetwork {
    double(config.init(3, device).unwrap())
}

/// Two stories, the newest sentence first: three sentences of unequal length, and two.
const STORIES: [[[i32; WORDS]; MEMORY]; 2] =
    [[[1, 2, 3, 0], [4, 5, 6, 7], [8, 2, 0, 0], [0; 4], [0; 4]], [[5, 1, 0, 0], [3, 3, 8, 1], [0; 4], [0; 4], [0; 4]]];
const QUESTIONS: [[i32; WORDS]; 2] = [[3, 1, 0, 0], [8, 6, 2, 0]];

fn stories(network: &MemoryNetwork) -> Tensor<3, Int> {
    network.stories(&STORIES.concat().concat(), [2, MEMORY, WORDS]).unwrap()
}
fn questions(network: &MemoryNetwork) -> Tensor<2, Int> {
    network.questions(&QUESTIONS.concat(), [2, WORDS]).unwrap()
}
/// One story with the first question.
fn answer(network: &MemoryNetwork, story: &[[i32; WORDS]]) -> Tensor<2> {
    let story = network.stories(&story.concat(), [1, story.len(), WORDS]).unwrap();
    network.forward(story, network.questions(&QUESTIONS[0], [1, WORDS]).unwrap())
}

#[test]
fn every_gradient_equals_its_finite_difference() {
    let device = Device::flex().autodiff();
    for config in configs() {
        for linear in [false, true] {
            let mut network = build(&config, &device);
            network.linear = linear;
            let weights = common::numbers(5, [2, VOCAB], &device);
            let loss = |network: &MemoryNetwork| {
                (network.forward(stories(network), questions(network)) * weights.clone()).sum()
            };
            let gradients = gradients_by_name(&network, &loss(&network).backward());
            let values = checkpoint::tensors(&network);
            assert_eq!(gradients.len(), values.len(), "{config:?}: a parameter without gradient");
            for (name, gradient) in gradients {
                let shape = gradient.shape().clone();
                let gradient: Vec<f64> = gradient.try_into_vec().unwrap();
                let numbers: Vec<f64> = values[&name].clone().try_into_vec().unwrap();
                let top = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                for i in [top, 0, gradient.len() / 2, gradient.len() - 1] {
                    let shifted = |by: f64| -> f64 {
                        let mut moved = numbers.clone();
                        moved[i] += by;
                        let mut tensors = values.clone();
                        tensors.insert(name.clone(), TensorData::new(moved, shape.clone()));
                        loss(&checkpoint::apply(network.clone(), &tensors, Path::new("moved")).unwrap()).into_scalar()
                    };
                    const H: f64 = 1e-5;
                    let difference = (shifted(H) - shifted(-H)) / (2.0 * H);
                    let error = (difference - gradient[i]).abs() / (1e-3 + difference.abs());
                    assert!(error < 1e-5, "{config:?}: {name}[{i}] is {}, not {difference}", gradient[i]);
                }
            }
        }
    }
}

/// The definition once more with loops, one word and one feature at a time.
fn by_hand(network: &MemoryNetwork, row: usize, a: &[usize], c: &[usize]) -> Vec<f64> {
    let tensors = checkpoint::tensors(network);
    let get = |name: String| tensors.get(&name).map(|t| t.clone().try_into_vec::<f64>().unwrap());
    let MemoryNetworkConfig { d_model: d, encoding, .. } = network.config;
    let embed = |words: &[f64], times: Option<&Vec<f64>>, sentence: &[i32], age: usize| -> Vec<f64> {
        let length = sentence.iter().filter(|&&id| id != NIL).count();
        let feature = |k: usize| {
            let mut sum = 0.0;
            for (j, &id) in sentence[..length].iter().enumerate() {
                let (j, k1, big_j) = ((j + 1) as f64, (k + 1) as f64, length as f64);
                let l = match encoding {
                    SentenceEncoding::BagOfWords => 1.0,
                    SentenceEncoding::Position => (1.0 - j / big_j) - k1 / d as f64 * (1.0 - 2.0 * j / big_j),
                };
                sum += l * words[id as usize * d + k];
            }
            sum + times.filter(|_| length > 0).map_or(0.0, |t| t[age * d + k])
        };
        (0..d).map(feature).collect()
    };
    let table = |i: usize| get(format!("embeddings.{i}.words")).unwrap();
    let b = get("question".into()).unwrap_or_else(|| table(0));
    let w = get("answer".into()).unwrap_or_else(|| table(*c.last().unwrap()));
    let mut u = embed(&b, None, &QUESTIONS[row], 0);
    for (&a, &c) in a.iter().zip(c) {
        let side = |i: usize| -> Vec<Vec<f64>> {
            let times = get(format!("embeddings.{i}.times"));
            let words = table(i);
            STORIES[row].iter().enumerate().map(|(age, s)| embed(&words, times.as_ref(), s, age)).collect()
        };
        let (m, c) = (side(a), side(c));
        let exp: Vec<f64> = m.iter().map(|m| m.iter().zip(&u).map(|(m, u)| m * u).sum::<f64>().exp()).collect();
        let total: f64 = exp.iter().sum();
        let h = get("hop.weight".into());
        u = (0..d)
            .map(|k| {
                let carried = h.as_ref().map_or(u[k], |h| (0..d).map(|j| h[k * d + j] * u[j]).sum());
                carried + exp.iter().zip(&c).map(|(e, c)| e / total * c[k]).sum::<f64>()
            })
            .collect();
    }
    (0..VOCAB).map(|v| (0..d).map(|k| w[v * d + k] * u[k]).sum()).collect()
}

#[test]
fn tied_tables_are_where_the_paper_puts_them() {
    let device = Device::flex();
    for config in configs() {
        let network = build(&config, &device);
        let logits: Vec<f64> = network.forward(stories(&network), questions(&network)).try_into_vec_as().unwrap();
        // Adjacent: hop k reads with A^k = table k and C^k = table k + 1, so A^{k+1} = C^k, and W = C^K.
        let hops = 0..config.hops;
        let (a, c): (Vec<usize>, Vec<usize>) = match config.tying {
            Tying::Adjacent => hops.map(|k| (k, k + 1)).unzip(),
            Tying::LayerWise => hops.map(|_| (0, 1)).unzip(),
        };
        for row in 0..2 {
            for (x, y) in by_hand(&network, row, &a, &c).iter().zip(&logits[row * VOCAB..]) {
                assert!((x - y).abs() < 1e-12, "{config:?}: {x} by hand, {y}");
            }
        }
    }
}

#[test]
fn the_parameter_count_of_a_configuration_is_that_of_the_network() {
    for config in configs() {
        assert_eq!(config.parameters(), config.init(0, &Device::flex()).unwrap().num_params(), "{config:?}");
    }
    // Four tables of words and four of times.
    assert_eq!(MemoryNetworkConfig::new(20).parameters(), 4 * (20 + 50) * 20);
}

#[test]
fn position_weights_sum_over_words_and_over_features_as_their_formula() {
    let d = 6;
    let ids = Tensor::<2, Int>::from_data([[1, 2, 3, 4], [5, 6, 7, 0]], &Device::flex());
    let l = position_encoding(&ids, d, DType::F64);
    for (row, length) in [(0, 4), (1, 3)] {
        let l = l.clone().narrow(0, row, 1).narrow(1, 0, length);
        // Σ_j l_kj = (J − 1)/2 + k/d
        let over_words: Vec<f64> = l.clone().sum_dim(1).try_into_vec_as().unwrap();
        for (k, sum) in (1..).zip(over_words) {
            assert!((sum - ((length - 1) as f64 / 2.0 + k as f64 / d as f64)).abs() < 1e-12, "feature {k}: {sum}");
        }
        // Σ_k l_kj = (d − 1)/2 + j/J
        let over_features: Vec<f64> = l.sum_dim(2).try_into_vec_as().unwrap();
        for (j, sum) in (1..).zip(over_features) {
            assert!((sum - ((d - 1) as f64 / 2.0 + j as f64 / length as f64)).abs() < 1e-12, "word {j}: {sum}");
        }
    }
}

#[test]
fn only_with_position_encoding_does_the_order_of_words_count() {
    let (told, turned) = ([[4, 5, 6, 7], [0; 4]], [[7, 5, 6, 4], [0; 4]]);
    for config in configs() {
        let network = build(&config, &Device::flex());
        let difference = largest(answer(&network, &told) - answer(&network, &turned));
        match config.encoding {
            SentenceEncoding::BagOfWords => assert!(difference < 1e-12, "{config:?}: {difference}"),
            SentenceEncoding::Position => assert!(difference > 1e-4, "{config:?}: {difference}"),
        }
    }
}

#[test]
fn only_with_temporal_encoding_does_the_order_of_sentences_count() {
    let (told, turned) = ([[4, 5, 6, 7], [1, 2, 0, 0]], [[1, 2, 0, 0], [4, 5, 6, 7]]);
    for config in configs() {
        let network = build(&config, &Device::flex());
        let difference = largest(answer(&network, &told) - answer(&network, &turned));
        assert_eq!(difference > 1e-4, config.temporal, "{config:?}: {difference}");
    }
}

#[test]
fn a_linear_start_is_linear_in_the_memories_and_in_the_question() {
    let config = |hops| MemoryNetworkConfig {
        hops,
        encoding: SentenceEncoding::BagOfWords,
        init_std: 0.5,
        memory: MEMORY,
        ..MemoryNetworkConfig::new(VOCAB)
    };
    let sum_of_parts = |linear: bool| {
        let mut network = build(&config(1), &Device::flex());
        network.linear = linear;
        let mut story = [[0; WORDS]; MEMORY];
        let empty = answer(&network, &story);
        story[..3].copy_from_slice(&STORIES[0][..3]);
        let mut sum = empty.clone();
        for i in 0..3 {
            let mut alone = [[0; WORDS]; MEMORY];
            alone[i] = story[i];
            sum = sum + answer(&network, &alone) - empty.clone();
        }
        largest(sum - answer(&network, &story))
    };
    assert!(sum_of_parts(true) < 1e-12, "each sentence adds what it adds alone");
    assert!(sum_of_parts(false) > 1e-3, "with a softmax they compete");

    let sum_of_questions = |linear: bool| {
        let mut network = build(&config(3), &Device::flex());
        network.linear = linear;
        let story = network.stories(&STORIES[0].concat(), [1, MEMORY, WORDS]).unwrap();
        let ask = |words: [i32; 2]| network.forward(story.clone(), network.questions(&words, [1, 2]).unwrap());
        largest(ask([3, 1]) - ask([3, 0]) - ask([1, 0])) / largest(ask([3, 1]))
    };
    assert!(sum_of_questions(true) < 1e-12, "three linear hops are one matrix");
    assert!(sum_of_questions(false) > 1e-3);
}

#[test]
fn an_empty_memory_is_a_softmax_off_by_one() {
    for config in configs() {
        let network = build(&config, &Device::flex());
        let pattern = |story: &[[i32; WORDS]]| -> Vec<f64> {
            let ids = network.stories(&story.concat(), [1, story.len(), WORDS]).unwrap();
            let mut record = Record::new(&["hops.0.pattern"]);
            network.forward_with(ids, network.questions(&QUESTIONS[0], [1, WORDS]).unwrap(), &mut record);
            record.get::<2>("hops.0.pattern").unwrap().try_into_vec_as().unwrap()
        };
        let (full, padded) = (pattern(&STORIES[0][..3]), pattern(&STORIES[0][..4]));
        // p_i / p_sink = e^{s_i}, and without the sink the same scores are shared among three.
        let total: f64 = padded[..3].iter().sum();
        assert!(padded[3] > 0.0 && (total + padded[3] - 1.0).abs() < 1e-12);
        for (full, padded) in full.iter().zip(&padded) {
            assert!((full - padded / total).abs() < 1e-12, "{config:?}");
        }
    }
}

#[test]
fn nil_means_nothing_whatever_its_row_says() {
    struct Spoil;
    impl ModuleMapper for Spoil {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| {
                let row = t.clone().narrow(0, 0, 1) + 1.0;
                if t.dims()[0] == VOCAB { Tensor::cat(vec![row, t.clone().narrow(0, 1, VOCAB - 1)], 0) } else { t }
            })
        }
    }
    for config in configs().into_iter().filter(|c| c.tying == Tying::Adjacent) {
        let network = build(&config, &Device::flex());
        let nil: f64 = largest(network.embeddings[0].words.val().narrow(0, 0, 1));
        assert_eq!(nil, 0.0, "it starts at zero");
        let spoilt = network.clone().map(&mut Spoil);
        assert!(largest(spoilt.embeddings[0].words.val().narrow(0, 0, 1)) > 0.9);
        assert_eq!(largest(answer(&network, &STORIES[0]) - answer(&spoilt, &STORIES[0])), 0.0, "{config:?}");
    }
}

#[test]
fn taps_see_every_hop_and_what_they_change_is_gone_on_with() {
    let device = Device::flex();
    for config in configs() {
        let network = build(&config, &device);
        let mut record = Record::new(&["*"]);
        let plain = network.forward_with(stories(&network), questions(&network), &mut record);
        let expected: Vec<String> =
            (0..config.hops).flat_map(|n| [format!("hops.{n}.out"), format!("hops.{n}.pattern")]).collect();
        assert_eq!(record.values.keys().cloned().collect::<Vec<_>>(), expected);
        for name in ["hops.N.pattern", "hops.N.out"] {
            assert!(tap::NAMES.iter().any(|(listed, _)| *listed == name), "{name} is not listed");
        }
        assert_eq!(record.layers("pattern").len(), config.hops, "hops are found in order like blocks");
        let mut blind = Patch::new("hops.*.pattern", |_, value: Value| Value::new(value.tensor::<2>() * 0.0));
        let patched = network.forward_with(stories(&network), questions(&network), &mut blind);
        assert!(largest(plain - patched) > 1e-4, "{config:?}");
    }
}

#[test]
fn a_network_survives_the_way_to_disk_and_back() {
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    for config in configs() {
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MemoryNetworkConfig>(&json).unwrap(), config);
        let network = build(&config, &device);
        let path = dir.path().join("model.safetensors");
        checkpoint::write(&path, &checkpoint::tensors(&network), Default::default()).unwrap();
        let (tensors, _) = checkpoint::read(&path).unwrap();
        let other = double(config.init(99, &device).unwrap());
        assert!(largest(answer(&network, &STORIES[0]) - answer(&other, &STORIES[0])) > 1e-4);
        let back = checkpoint::apply(other, &tensors, &path).unwrap();
        assert_eq!(largest(answer(&network, &STORIES[0]) - answer(&back, &STORIES[0])), 0.0, "{config:?}");
    }
}

#[test]
fn random_noise_moves_sentences_back_and_keeps_their_order() {
    let (memory, words) = (20, 2);
    let story: Vec<i32> = (0..memory as i32).flat_map(|i| if i < 10 { [i + 1, 7] } else { [0, 0] }).collect();
    let shape = [1, memory, words];
    let mut added = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let noisy = with_empty_memories(&story, shape, 0.2, seed).unwrap();
        assert_eq!(noisy, with_empty_memories(&story, shape, 0.2, seed).unwrap(), "seed {seed}");
        let order: Vec<i32> = noisy.chunks(words).map(|s| s[0]).filter(|&id| id != NIL).collect();
        assert_eq!(order, (1..=10).collect::<Vec<_>>());
        let last = noisy.chunks(words).rposition(|s| s[0] != NIL).unwrap();
        added.insert(last - 9);
    }
    assert_eq!(added.into_iter().collect::<Vec<_>>(), [0, 1, 2], "up to ⌈0.2 · 10⌉ empty memories");
    assert_eq!(with_empty_memories(&story, shape, 0.0, 1).unwrap(), story);
    // A full story loses its oldest sentences, and never gains any.
    let full = with_empty_memories(&story[..20], [1, 10, 2], 1.0, 4).unwrap();
    assert_eq!(full.len(), 20);
    assert!(full.chunks(2).filter(|s| s[0] != NIL).is_sorted_by_key(|s| s[0]));
    assert!(full.chunks(2).any(|s| s[0] == NIL));
}

#[test]
fn errors_name_the_value_and_the_valid_ones() {
    let base = || MemoryNetworkConfig::new(VOCAB);
    let refused = |config: MemoryNetworkConfig| config.init(0, &Device::flex()).unwrap_err().to_string();
    assert!(refused(MemoryNetworkConfig { vocab_size: 1, ..base() }).contains("vocab_size must be at least 2"));
    assert!(refused(MemoryNetworkConfig { hops: 0, ..base() }).contains("hops must be at least 1, got 0"));
    assert!(refused(MemoryNetworkConfig { memory: 0, ..base() }).contains("memory"));
    assert!(refused(MemoryNetworkConfig { d_model: 0, ..base() }).contains("d_model"));
    assert!(refused(MemoryNetworkConfig { init_std: -1.0, ..base() }).contains("-1"));
    let json = |text: &str| serde_json::from_str::<MemoryNetworkConfig>(text).unwrap_err().to_string();
    assert!(json(r#"{"vocab_size": 9, "hop": 2}"#).contains("unknown field `hop`"));
    assert!(json(r#"{"vocab_size": 9, "tying": "both"}"#).contains("adjacent"));

    let network = base().init(0, &Device::flex()).unwrap();
    let message = network.stories(&[0; 51], [1, 51, 1]).unwrap_err().to_string();
    assert!(message.contains("51") && message.contains("at most 50"), "{message}");
    let message = network.stories(&[1; 7], [1, 2, 4]).unwrap_err().to_string();
    assert!(message.contains("got 7") && message.contains('8'), "{message}");
    let message = network.questions(&[1, 9], [1, 2]).unwrap_err().to_string();
    assert!(message.contains("token id 9") && message.contains("0..9"), "{message}");
    let message = with_empty_memories(&[1], [1, 1, 1], 1.5, 0).unwrap_err().to_string();
    assert!(message.contains("1.5") && message.contains("between 0 and 1"), "{message}");
}
