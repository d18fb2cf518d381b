//! What a decoder is beside its mixers: norms, experts, loops and the head that predicts ahead.

mod common;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use common::*;
use std::collections::BTreeMap;
use zoo::*;

const TIME: usize = 9;

fn small(change: impl FnOnce(&mut ModelConfig)) -> ModelConfig {
    let softmax = SoftmaxConfig { kv_heads: Some(1), ..SoftmaxConfig::new(2) };
    let delta = GatedDeltaConfig { chunk: 4, ..GatedDeltaConfig::new(2) };
    let pattern = vec![MixerConfig::GatedDelta(delta), MixerConfig::Softmax(softmax)];
    let mut config = ModelConfig { vocab_size: 11, init_std: 0.3, ..ModelConfig::new(16, 12, 3, pattern) };
    change(&mut config);
    config.validate().unwrap();
    config
}

fn experts(config: &mut ModelConfig) {
    config.experts = Some(ExpertsConfig { shared: Some(5), dense: vec![1], ..ExpertsConfig::new(4, 6) });
}

fn looped(config: &mut ModelConfig) {
    let group = LoopConfig { first: 1, last: Some(1), ..LoopConfig::new(3) };
    config.looped = Some(LoopConfig { inject: true, halting: Some(0.05), ..group });
}

fn whole(config: &mut ModelConfig) {
    experts(config);
    looped(config);
    config.zero_centred = true;
    config.mtp = Some(config.pattern[1].clone());
}

/// In double precision, no parameter at a special value.
fn model(config: &ModelConfig) -> Decoder {
    shaken(double(config.init(3, &Device::flex().autodiff()).unwrap()))
}

fn ids(model: &Decoder) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..2 * TIME as i32).map(|i| (i * i + 3 * i) % 11).collect();
    model.tokens(&ids, [2, TIME]).unwrap()
}

#[test]
fn parameters_are_counted_and_decoding_equals_the_whole_sequence() {
    type Change<'a> = &'a dyn Fn(&mut ModelConfig);
    let parts: [(&str, Change); 4] = [("plain", &|_| {}), ("experts", &experts), ("looped", &looped), ("all", &whole)];
    for (name, change) in parts {
        let config = small(change);
        let model = model(&config);
        assert_eq!(config.parameters(), model.num_params(), "{name}");
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        let (ids, mut cache) = (ids(&model), model.cache());
        let step = |t| model.step(ids.clone().narrow(1, t, 1), &mut cache, &mut Silent);
        let steps = Tensor::cat((0..TIME).map(step).collect(), 1);
        let error = largest(model.forward(ids) - steps);
        assert!(error < 1e-10, "{name}: off by {error:e}");
    }
}

#[test]
fn gradients_of_the_whole_stack_equal_finite_differences() {
    let model = model(&small(whole));
    // Every loss that a model can have.
    let loss = |model: &Decoder| {
        let mut parts = Keep::default();
        let (logits, ahead) = model.forward_ahead(ids(model), &mut parts);
        let routers: Vec<Tensor<3>> =
            parts.0.iter().filter(|(name, _)| name.ends_with("router")).map(|(_, v)| v.clone().tensor()).collect();
        assert_eq!(routers.len(), 3, "the two sparse blocks and the one of the prediction head: {:?}", parts.0.keys());
        let ponder: Tensor<2> = parts.0["ponder"].clone().tensor();
        logits.square().mean()
            + ahead.expect("a prediction head").square().mean()
            + load_balance(&routers, 2).unwrap()
            + ponder.mean()
    };
    let gradients = loss(&model).backward();
    assert_gradients("the stack", &model, &gradients, |model| loss(model).into_scalar());
}

/// Keeps values with their gradients.
#[derive(Default)]
struct Keep(BTreeMap<String, Value>);

impl Tap for Keep {
    fn wants(&self, name: &str) -> bool {
        name.ends_with("router") || name == "ponder"
    }
    fn visit(&mut self, name: &str, value: Value) -> Value {
        self.0.insert(name.into(), value.clone());
        value
    }
}

#[test]
fn every_value_of_a_whole_model_is_listed() {
    let model = model(&small(whole));
    let mut record = Record::new(&["*"]);
    model.forward_ahead(ids(&model), &mut record);
    for name in record.values.keys() {
        let parts: Vec<&str> = name.split('.').map(|part| part.parse::<usize>().map_or(part, |_| "N")).collect();
        let listed = parts.join(".").replace("mtp.", "blocks.N.");
        assert!(tap::NAMES.iter().any(|(known, _)| *known == listed), "{name} is not listed");
    }
    for name in ["halting", "ponder", "mtp.out", "blocks.0.feed_forward.router"] {
        assert!(record.values.contains_key(name), "{name}");
    }
}

#[test]
fn a_loop_is_the_same_blocks_written_out() {
    let config = small(|config| {
        config.layers = 2;
        config.looped = Some(LoopConfig::new(2));
    });
    let looped = model(&config);
    let mut unrolled = model(&ModelConfig { layers: 4, looped: None, ..config });
    unrolled.blocks = [&looped.blocks[..], &looped.blocks[..]].concat();
    (unrolled.embedding, unrolled.norm) = (looped.embedding.clone(), looped.norm.clone());
    assert_eq!(largest(looped.forward(ids(&looped)) - unrolled.forward(ids(&looped))), 0.0);
    assert_eq!(looped.depth(), 4);
    let mut record = Record::new(&["blocks.*.feed_forward.router", "blocks.*.mixer.beta"]);
    looped.forward_with(ids(&looped), &mut record);
    assert_eq!(record.values.keys().collect::<Vec<_>>(), ["blocks.0.mixer.beta", "blocks.2.mixer.beta"]);
}

#[test]
fn a_token_that_stops_at_once_is_as_if_there_were_one_loop() {
    let config = small(|config| config.looped = Some(LoopConfig { halting: Some(0.01), ..LoopConfig::new(3) }));
    let mut model = model(&config);
    let once = ModelConfig { looped: None, ..config };
    let bias = |looped: &mut Looped, value: f64| {
        looped.halt_proj.as_mut().unwrap().weight = looped.halt_proj.as_ref().unwrap().weight.clone().map(|w| w * 0.0);
        looped.halt_bias = looped.halt_bias.take().map(|b| b.map(|b| b * 0.0 + value));
    };
    bias(model.looped.as_mut().unwrap(), 50.0);
    let mut single = model.clone();
    single.looped = None;
    assert_eq!(single.depth(), once.layers);
    assert!(largest(model.forward(ids(&model)) - single.forward(ids(&model))) < 1e-12);
    // And one that never stops by itself takes the last state.
    bias(model.looped.as_mut().unwrap(), -50.0);
    let mut last = model.clone();
    let plain = LoopConfig::new(3);
    last.looped = Some(plain.init(3, 16, &mut Init::new(0, 1.0, 1.0, 1, &Device::flex())));
    assert!(largest(model.forward(ids(&model)) - last.forward(ids(&model))) < 1e-12);
}

#[test]
fn a_zero_centred_norm_is_the_other_with_one_added() {
    let plain = model(&small(|_| {}));
    let mut centred = plain.clone();
    centred.norm = double(RmsNorm::zero_centred(16, 1e-6, &mut Init::new(0, 1.0, 1.0, 1, &Device::flex().autodiff())));
    centred.norm.weight = Param::from_tensor((plain.norm.weight.val() - 1.0).detach());
    assert!(largest(plain.forward(ids(&plain)) - centred.forward(ids(&plain))) < 1e-12);
}

#[test]
fn the_prediction_head_sees_one_token_more_than_the_trunk_and_no_other() {
    let model = model(&small(whole));
    let ahead = |ids: Tensor<2, Int>| model.forward_ahead(ids, &mut Silent).1.unwrap();
    let ids = ids(&model);
    let changed = {
        let late = model.tokens(&[7, 3, 9, 1], [2, 2]).unwrap();
        ids.clone().slice_assign([0..2, TIME - 2..TIME], late)
    };
    let difference = ahead(ids.clone()) - ahead(changed);
    // Tokens 7 and 8 differ: row 5 reads tokens 0 to 6, row 6 reads token 7.
    // (Experts get other numbers of rows, which changes the order of sums.)
    assert!(largest(difference.clone().narrow(1, 0, TIME - 3)) < 1e-12);
    assert!(largest(difference.narrow(1, TIME - 3, 1)) > 1e-6);
    assert!(model.forward_ahead(ids.narrow(1, 0, 1), &mut Silent).1.is_none());
}

#[test]
fn parts_that_do_not_fit_are_errors() {
    let error = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = small(|_| {});
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    let dense = error(&|c| c.experts = Some(ExpertsConfig { dense: vec![3], ..ExpertsConfig::new(4, 6) }));
    assert!(dense.contains("experts.dense") && dense.contains("0 to 2"), "{dense}");
    let group = error(&|c| c.looped = Some(LoopConfig { first: 3, ..LoopConfig::new(2) }));
    assert!(group.contains("blocks 3 to 2"), "{group}");
    let mtp = error(&|c| c.mtp = Some(MixerConfig::Softmax(SoftmaxConfig::new(3))));
    assert!(mtp.contains("16 is not divisible by heads 3"), "{mtp}");
}
