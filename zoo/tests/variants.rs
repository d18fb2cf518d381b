//! What forgetting, multi-token and higher-order attention must agree with where they meet others.

mod common;

use burn::tensor::Tensor;
use common::compare::*;
use common::*;
use zoo::*;

#[test]
fn gates_that_forget_nothing_leave_plain_attention() {
    let config = ForgettingConfig { bias: 800.0, ..ForgettingConfig::new(4) };
    let forgetting = double(config.init(D_MODEL, &mut seeded()));
    assert_eq!(difference(&forgetting, &forgetting.attention), 0.0);
}

#[test]
fn a_constant_gate_is_alibi_with_that_slope() {
    let mut forgetting = double(ForgettingConfig::new(4).init(D_MODEL, &mut seeded()));
    forgetting.forget_proj.weight = forgetting.forget_proj.weight.map(|w| w * 0.0);
    // σ(b) = e^{−m} for the published slopes 2^{−2}, 2^{−4}, 2^{−6}, 2^{−8} of four heads.
    let bias = [2, 4, 6, 8].map(|power| -(2f64.powi(-power).exp_m1()).ln());
    forgetting.forget_bias = set(&forgetting.forget_bias, bias.to_vec());
    let alibi = SoftmaxConfig { position: Position::Alibi {}, ..SoftmaxConfig::new(4) };
    let alibi = double(alibi.init(D_MODEL, &mut seeded()));
    let plain = SoftmaxConfig { position: Position::None {}, ..SoftmaxConfig::new(4) };
    assert!(difference(&forgetting, &alibi) < 1e-12);
    assert!(difference(&forgetting, &double(plain.init(D_MODEL, &mut seeded()))) > 1e-3);
}

#[test]
fn a_gate_that_closes_hides_everything_before_it() {
    let forgetting = double(ForgettingConfig::new(4).init(D_MODEL, &mut seeded()));
    let mut close = Patch::new("forget", |_, value: Value| {
        let gate: Tensor<3> = value.tensor();
        let shut = gate.clone().narrow(2, 5, 1) * 0.0;
        Value::new(gate.slice_assign([0..2, 0..4, 5..6], shut))
    });
    let whole = forgetting.forward(input(9), &mut close);
    let late = forgetting.forward(input(9).narrow(1, 5, 4), &mut Silent);
    assert!(largest(whole.narrow(1, 5, 4) - late) < 1e-12);
}

fn multi_token(config: &MultiTokenConfig) -> MultiToken {
    double(config.init(D_MODEL, 1, &mut seeded()))
}

#[test]
fn multi_token_attention_starts_as_plain_attention_before_its_norm() {
    for config in [MultiTokenConfig::new(4), MultiTokenConfig::talking_heads(4)] {
        let mixer = multi_token(&MultiTokenConfig { norm: None, kv_heads: Some(2), ..config });
        assert!(difference(&mixer, &mixer.attention) < 1e-12);
    }
    let normed = multi_token(&MultiTokenConfig::new(4));
    assert!(difference(&normed, &normed.attention) > 1e-3);
}

#[test]
fn the_convolution_is_the_published_sum() {
    let config = MultiTokenConfig {
        after: MapMixing { kernel: Some(MapKernel { queries: 3, keys: 5 }), heads: None },
        ..MultiTokenConfig::plain(4)
    };
    let mixer = shaken(multi_token(&config));
    let record = |mixer: &dyn Fn(&mut Record)| {
        let mut record = Record::new(&["pattern"]);
        mixer(&mut record);
        let values: Vec<f64> = record.get::<4>("pattern").unwrap().into_data().iter::<f64>().collect();
        values
    };
    let time = 7;
    let plain = record(&|r| drop(mixer.attention.forward(input(time), r)));
    let mixed = record(&|r| drop(mixer.forward(input(time), r)));
    let kernel: Vec<f64> = mixer.after.kernel.as_ref().unwrap().val().into_data().iter::<f64>().collect();
    let at = |map: &[f64], h: usize, t: i64, s: i64| {
        let inside = t >= 0 && (0..=t).contains(&s);
        if inside { map[(h * time + t as usize) * time + s as usize] } else { 0.0 }
    };
    for h in 0..4 {
        for t in 0..time as i64 {
            for s in 0..=t {
                let mut sum = 0.0;
                for a in 0..3 {
                    for b in -2..=2 {
                        // The current query is the last row of a kernel.
                        let theta = kernel[(h * 3 + (2 - a) as usize) * 5 + (b + 2) as usize];
                        sum += theta * at(&plain, h, t - a, s + b);
                    }
                }
                let found = at(&mixed, h, t, s);
                assert!((sum - found).abs() < 1e-12, "head {h}, query {t}, key {s}: {found}, expected {sum}");
            }
        }
    }
}

#[test]
fn talking_heads_mix_the_weights_of_a_group_and_of_no_other() {
    let config = MultiTokenConfig { after: MapMixing { kernel: None, heads: Some(2) }, ..MultiTokenConfig::plain(4) };
    let mut mixer = multi_token(&config);
    let mix = mixer.after.heads.take().unwrap();
    // Heads 0 and 1 change places; head 2 gets 2·(itself) − 3·(head 3), head 3 nothing.
    mixer.after.heads = Some(set(&mix, vec![0.0, 1.0, 1.0, 0.0, 2.0, -3.0, 0.0, 0.0]));
    let head = |mixer: &dyn Fn(&mut Record), h: usize| {
        let mut record = Record::new(&["pattern"]);
        mixer(&mut record);
        record.get::<4>("pattern").unwrap().narrow(1, h, 1)
    };
    let plain = |h| head(&|r| drop(mixer.attention.forward(input(6), r)), h);
    let mixed = |h| head(&|r| drop(mixer.forward(input(6), r)), h);
    assert!(largest(mixed(0) - plain(1)) < 1e-12);
    assert!(largest(mixed(1) - plain(0)) < 1e-12);
    assert!(largest(mixed(2) - (plain(2) * 2.0 - plain(3) * 3.0)) < 1e-12);
    assert_eq!(largest(mixed(3)), 0.0);
}

#[test]
fn depth_scaling_shrinks_the_output_by_the_published_factor() {
    let with = |depth_scaling| {
        let norm = Some(HeadNorm { depth_scaling, gate: false });
        multi_token(&MultiTokenConfig { norm, ..MultiTokenConfig::plain(4) }).forward(input(5), &mut Silent)
    };
    assert!(largest(with(false) * (1.0 - lambda_init(1)) - with(true)) < 1e-12);
}

#[test]
fn a_map_that_cannot_be_mixed_is_refused_by_name() {
    let refuse = |config: MultiTokenConfig| config.validate(D_MODEL).unwrap_err().to_string();
    let mixing = |queries, keys| MapMixing { kernel: Some(MapKernel { queries, keys }), heads: None };
    let plain = MultiTokenConfig::plain(4);
    assert!(refuse(MultiTokenConfig { before: mixing(2, 4), ..plain.clone() }).contains("an odd number, got 4"));
    assert!(refuse(MultiTokenConfig { after: mixing(0, 3), ..plain.clone() }).contains("queries of a kernel"));
    let thirds = MapMixing { kernel: None, heads: Some(3) };
    assert!(
        refuse(MultiTokenConfig { after: thirds, ..plain.clone() }).contains("4 is not divisible by mixed heads 3")
    );
    assert!(refuse(MultiTokenConfig { position: Position::Alibi {}, ..plain }).contains("rope or none"));
}

fn nexus(config: &NexusConfig) -> Nexus {
    double(config.init(D_MODEL, &mut seeded()))
}

const INNERS: [NexusInner; 2] = [NexusInner::Values, NexusInner::QueriesAndKeys];

#[test]
fn attention_of_order_one_is_the_baseline_exactly() {
    for inner in INNERS {
        let config = NexusConfig { order: 1, kv_heads: Some(2), inner, ..NexusConfig::new(4) };
        let baseline = double(config.attention().init(D_MODEL, &mut seeded()));
        assert_eq!(difference(&nexus(&config), &baseline), 0.0);
        let second = NexusConfig { order: 2, ..config };
        assert!(difference(&nexus(&second), &baseline) > 1e-3);
    }
}

#[test]
fn inner_loops_over_values_stand_in_for_the_input_of_queries_and_keys() {
    for inner_position in [false, true] {
        let config = NexusConfig { kv_heads: Some(2), inner_position, ..NexusConfig::new(4) };
        let baseline = |position| {
            let attention = SoftmaxConfig { position, ..config.attention() };
            double(attention.init(D_MODEL, &mut seeded()))
        };
        let mut inner = baseline(if inner_position { config.position } else { Position::None {} });
        let identity = (0..D_MODEL * D_MODEL).map(|i| if i % (D_MODEL + 1) == 0 { 1.0 } else { 0.0 });
        inner.o_proj.weight = set(&inner.o_proj.weight, identity.collect());
        let outer = baseline(config.position);

        // X², and by the same rule X³, whose values are those of X.
        let second = inner.forward(input(8), &mut Silent);
        let mixer = nexus(&config);
        assert!(largest(recorded(&mixer, input(8), "pattern") - recorded(&outer, second.clone(), "pattern")) < 1e-12);
        assert!(largest(recorded(&mixer, input(8), "v") - recorded(&outer, input(8), "v")) < 1e-12);
        let values = recorded(&inner, input(8), "v");
        let third = kernels::softmax_attention::apply(recorded(&inner, second, "pattern"), values);
        let third = third.swap_dims(1, 2).reshape([2, 8, D_MODEL]);
        let mixer = nexus(&NexusConfig { order: 3, ..config.clone() });
        assert!(largest(recorded(&mixer, input(8), "pattern") - recorded(&outer, third, "pattern")) < 1e-12);
    }
}

#[test]
fn loops_with_the_weights_of_the_outer_one_are_the_shared_form() {
    for (order, refine) in
        [(2, NexusRefine::Both), (3, NexusRefine::Both), (3, NexusRefine::Queries), (2, NexusRefine::Keys)]
    {
        let shared = NexusConfig { order, refine, kv_heads: Some(2), ..NexusConfig::new(4) };
        let mut own = nexus(&NexusConfig { shared: false, ..shared.clone() });
        assert_eq!(own.loops.len(), if refine == NexusRefine::Both { (1 << order) - 2 } else { order - 1 });
        own.loops = own.loops.iter().map(|_| own.outer.clone()).collect();
        assert!(difference(&own, &nexus(&shared)) < 1e-12, "order {order}, {refine:?}");
    }
}

#[test]
fn loops_over_queries_and_keys_are_attention_of_each_to_itself() {
    for inner_position in [false, true] {
        let inner = NexusInner::QueriesAndKeys;
        let config = NexusConfig { inner, inner_position, kv_heads: Some(2), ..NexusConfig::new(4) };
        let flat = NexusConfig { order: 1, position: Position::None {}, ..config.clone() };
        let placed = |x: Tensor<4>| if inner_position { config.position.rotate(x, 0) } else { x };
        let twice = |x: Tensor<4>| kernels::softmax_attention(placed(x.clone()), placed(x.clone()), x, 6f64.powf(-0.5));
        for name in ["q", "k"] {
            let raw = recorded(&nexus(&flat), input(8), name);
            let expected = config.position.rotate(twice(raw), 0);
            assert!(largest(recorded(&nexus(&config), input(8), name) - expected) < 1e-12, "{name}");
        }
    }
}

#[test]
fn a_nexus_that_cannot_be_built_is_refused_by_name() {
    let refuse = |config: NexusConfig| config.validate(D_MODEL).unwrap_err().to_string();
    let base = NexusConfig::new(4);
    assert!(refuse(NexusConfig { order: 0, ..base.clone() }).contains("order must be at least 1"));
    assert!(refuse(NexusConfig { order: 9, ..base.clone() }).contains("between 1 and 6"));
    assert!(refuse(NexusConfig { head_dim: Some(8), ..base.clone() }).contains("must be d_model 24"));
    let over_keys = NexusConfig { inner: NexusInner::QueriesAndKeys, shared: false, ..base };
    assert!(refuse(over_keys).contains("shared must be true"));
}
