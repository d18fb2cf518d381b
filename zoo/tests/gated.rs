//! What the gates of gated attention are, by identities.

mod common;

use burn::module::Param;
use burn::tensor::{
    Device, Tensor,
    activation::{sigmoid, silu, softmax},
};
use common::*;
use zoo::*;

use GatePosition::{Dense, Key, Output, Query, Value as Values};

const HEADS: usize = 4;

/// The mixer in f64: its weights are the same for every kind of gate, but the gate's own.
fn mixer(config: GatedConfig) -> Gated {
    config.validate(D_MODEL).expect("a valid configuration");
    double(config.init(D_MODEL, &mut Init::new(1, 0.3, 0.3, 1, &Device::flex())))
}

/// The same with a gate of zero weight.
fn zero(config: GatedConfig) -> Gated {
    let mut gated = mixer(config);
    gated.gate_proj = gated.gate_proj.map(|proj| Linear { weight: proj.weight.map(|w| w * 0.0), bias: None });
    gated
}

fn x() -> Tensor<3> {
    numbers(9, [2, 6, D_MODEL], &Device::flex())
}

fn config(change: impl FnOnce(&mut GatedConfig)) -> GatedConfig {
    let mut config = GatedConfig::new(HEADS);
    change(&mut config);
    config
}

fn tapped(gated: &impl Mixer, name: &str) -> Tensor<4> {
    let mut record = Record::new(&[name]);
    gated.forward(x(), &mut record);
    record.get(name).unwrap_or_else(|| panic!("no {name}"))
}

fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f64 {
    largest(a - b)
}

#[test]
fn a_gate_of_zero_weight_halves_the_branch() {
    use GateActivation::{NonSparseSigmoid, Sigmoid, Silu};
    for position in [Output, Values, Dense] {
        for (activation, factor) in [(Sigmoid, 0.5), (NonSparseSigmoid, 0.75), (Silu, 0.0)] {
            for (gate, shared) in [
                (Gate::Elementwise, false),
                (Gate::Elementwise, true),
                (Gate::Headwise, false),
                (Gate::InputIndependent, false),
            ] {
                if position == Dense && (shared || gate == Gate::Headwise) {
                    continue;
                }
                let config = GatedConfig { gate, position, shared, activation, ..GatedConfig::new(HEADS) };
                let gated = zero(config.clone());
                let plain = gated.attention.forward(x(), &mut Silent);
                let error = distance(plain * factor, gated.forward(x(), &mut Silent));
                assert!(error < 1e-12, "{config:?}: off by {error:e}");
            }
        }
    }
}

#[test]
fn a_headwise_gate_on_queries_is_a_temperature_and_one_on_keys_scales_what_is_asked_of_them() {
    let hidden = Tensor::<2>::full([6, 6], -1e30, (&Device::flex(), burn::tensor::DType::F64)).triu(1);
    for (position, gate) in
        [(Query, Gate::Headwise), (Key, Gate::Headwise), (Query, Gate::Elementwise), (Key, Gate::Elementwise)]
    {
        // Elementwise gates scale the scores where all channels have the same: at zero weight.
        let build = if gate == Gate::Headwise { mixer } else { zero };
        let gated = build(config(|c| (c.position, c.gate) = (position, gate)));
        let (q, k) = (tapped(&gated.attention, "q"), tapped(&gated.attention, "k"));
        let scores = q.matmul(k.transpose()) / 6f64.sqrt();
        let factor = tapped(&gated, "gate").narrow(3, 0, 1).swap_dims(1, 2); // [batch, heads, time, 1]
        if gate == Gate::Elementwise {
            assert_eq!(largest(factor.clone() - 0.5), 0.0);
        } else {
            assert!(largest(factor.clone() - 0.5) > 0.01);
        }
        let factor = if position == Query { factor } else { factor.transpose() };
        let pattern = softmax(scores * factor + hidden.clone().unsqueeze(), 3);
        let error = distance(pattern, tapped(&gated, "pattern"));
        assert!(error < 1e-12, "{position:?} {gate:?}: off by {error:e}");
    }
}

#[test]
fn the_projection_holds_one_head_after_another_in_the_order_of_what_it_gates() {
    for (position, heads, channels) in [(Output, 4, 6), (Query, 4, 6), (Values, 2, 6), (Key, 2, 6), (Dense, 1, D_MODEL)]
    {
        let gated = mixer(config(|c| (c.position, c.attention.kv_heads) = (position, Some(2))));
        let rows = gated.gate_proj.as_ref().expect("a projection").forward(x());
        let gate = tapped(&gated, "gate");
        assert_eq!(gate.dims(), [2, 6, heads, channels], "{position:?}");
        assert_eq!(distance(sigmoid(rows), gate.reshape([2, 6, heads * channels])), 0.0, "{position:?}");
    }
}

#[test]
fn queries_and_keys_are_gated_after_their_norm_and_before_rotation() {
    for (position, name) in [(Query, "q"), (Key, "k")] {
        let gated = mixer(config(|c| c.position = position));
        let still = mixer(config(|c| c.attention.position = Position::None {}));
        let gate = tapped(&gated, "gate").swap_dims(1, 2);
        let expected = Position::default().rotate(tapped(&still.attention, name) * gate, 0);
        assert!(distance(expected, tapped(&gated, name)) < 1e-12, "{name}");
    }
}

#[test]
fn a_gate_that_adds_starts_with_what_its_activation_makes_of_zero() {
    use GateActivation::{Identity, NonSparseSigmoid, Sigmoid, Silu};
    for position in [Output, Values, Key, Query, Dense] {
        for (activation, added) in [(Identity, 0.0), (Silu, 0.0), (Sigmoid, 0.5), (NonSparseSigmoid, 0.75)] {
            let gated =
                zero(config(|c| (c.position, c.combine, c.activation) = (position, GateCombine::Add, activation)));
            let plain = gated.attention.forward(x(), &mut Silent);
            let expected = match position {
                // A row of the pattern sums to one, so that every value plus ½ is every output plus ½.
                Output | Values => {
                    plain + (gated.attention.o_proj.weight.val().sum_dim(1) * added).reshape([1, 1, D_MODEL])
                }
                Dense => plain + added,
                Key | Query if added == 0.0 => plain,
                Key | Query => continue,
            };
            let error = distance(expected, gated.forward(x(), &mut Silent));
            assert!(error < 1e-12, "{position:?} {activation:?}: off by {error:e}");
        }
    }
}

#[test]
fn a_shared_gate_is_the_mean_over_the_heads() {
    for (position, gate) in [(Output, Gate::Elementwise), (Output, Gate::Headwise), (Values, Gate::Elementwise)] {
        let of = |shared| mixer(config(|c| (c.position, c.gate, c.shared) = (position, gate, shared)));
        let (own, shared) = (tapped(&of(false), "gate"), tapped(&of(true), "gate"));
        assert_eq!((own.dims()[2], shared.dims()[2]), (HEADS, 1));
        assert!(distance(own.clone().mean_dim(2), shared) < 1e-12, "{position:?} {gate:?}");
        assert!(distance(own.clone().mean_dim(2), own.narrow(2, 0, 1)) > 0.01, "heads with gates of their own");
    }
}

#[test]
fn a_gate_without_input_is_a_scaling_of_the_output_matrix() {
    let mut gated = mixer(config(|c| c.gate = Gate::InputIndependent));
    let logits = numbers(5, [HEADS, D_MODEL / HEADS], &Device::flex());
    gated.gate_logits = Some(Param::from_tensor(logits.clone()));
    let mut scaled = gated.attention.clone();
    scaled.o_proj.weight = scaled.o_proj.weight.map(|w| w * sigmoid(logits).reshape([1, D_MODEL]));
    assert!(distance(scaled.forward(x(), &mut Silent), gated.forward(x(), &mut Silent)) < 1e-12);
}

#[test]
fn normed_heads_do_not_see_the_size_of_the_values() {
    let heads = |gated: &Gated| tapped(gated, "pattern").matmul(tapped(gated, "v"));
    let out = |gated: &Gated, heads: Tensor<4>| {
        gated.attention.o_proj.forward(heads.swap_dims(1, 2).reshape([2, 6, D_MODEL]))
    };
    let mut normed = mixer(config(|c| c.gate = Gate::HeadNorm));
    let before = normed.forward(x(), &mut Silent);
    let y = heads(&normed);
    let expected = out(&normed, y.clone() / (y.square().mean_dim(3) + 1e-6).sqrt());
    assert!(distance(expected, before.clone()) < 1e-12);
    normed.attention.v_proj.weight = normed.attention.v_proj.weight.map(|w| w * 1000.0);
    assert!(distance(before, normed.forward(x(), &mut Silent)) < 1e-3, "but for ε");

    let bent = mixer(config(|c| c.gate = Gate::Silu));
    assert!(distance(out(&bent, silu(heads(&bent))), bent.forward(x(), &mut Silent)) < 1e-12);
}

#[test]
fn every_row_of_the_tables_has_the_parameters_that_the_paper_adds() {
    // 24 layers of a width of 2048; millions, which table 1 alone prints.
    let baseline = SoftmaxConfig { kv_heads: Some(4), head_dim: Some(128), ..SoftmaxConfig::new(32) };
    let rows = tables::gated_attention(&baseline, 2048).unwrap();
    let published = [
        ("baseline", Some(0.0)),
        ("twice the key heads", Some(50.3)),
        ("half as many more query heads", Some(201.3)),
        ("four more experts", None), // of a width that is not published
        ("G1 elementwise", Some(201.3)),
        ("G2 elementwise", Some(25.2)),
        ("G3 elementwise", Some(25.2)),
        ("G4 elementwise", Some(201.3)),
        ("G5 elementwise", Some(100.7)),
        ("G1 headwise", Some(1.57)),
        ("G2 headwise", Some(0.197)),
        ("G1 head-shared", Some(201.3)),
        ("G2 head-shared", Some(25.2)),
        ("G1 additive SiLU", Some(201.3)),
        ("G1 SiLU", Some(201.3)),
        ("head norm", None),
        ("SiLU without a gate", None),
        ("G1 additive identity", None),
        ("G1 input-independent", None),
        ("G1 NS-sigmoid", None),
    ];
    assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), published.map(|(name, _)| name));
    for (row, (name, millions)) in rows.iter().zip(published) {
        row.mixer.validate(2048).unwrap();
        let added = 24 * (row.mixer.parameters(2048) - baseline.parameters(2048));
        let added = added as f64 / 1e6;
        if let Some(millions) = millions {
            assert!((added - millions).abs() <= 0.005 * millions, "{name}: {added} M");
        }
    }
    for table in [1, 3, 4] {
        let count = rows.iter().filter(|row| row.tables.contains(&table)).count();
        assert_eq!(count, [0, 15, 0, 7, 7][table], "rows of table {table}");
    }
    let model = |row: &tables::Row| ModelConfig::new(2048, 5504, 24, vec![row.mixer.clone()]);
    for row in &rows {
        model(row).with_parameters(model(&rows[0]).parameters()).expect("a width that makes the row as large");
    }
    let error = tables::gated_attention(&SoftmaxConfig::new(4), D_MODEL).unwrap_err().to_string();
    assert_eq!(error, "heads 4 is not divisible by twice kv_heads 8");
}

#[test]
fn a_row_is_written_as_json_and_read_back_and_the_first_forms_say_no_more_than_their_gate() {
    let baseline = SoftmaxConfig { kv_heads: Some(2), ..SoftmaxConfig::new(HEADS) };
    for row in tables::gated_attention(&baseline, D_MODEL).unwrap() {
        let json = serde_json::to_string(&row.mixer).unwrap();
        assert_eq!(serde_json::from_str::<MixerConfig>(&json).unwrap(), row.mixer, "{json}");
    }
    for (gate, name) in [(Gate::Elementwise, "elementwise"), (Gate::Headwise, "headwise")] {
        let config = GatedConfig { gate, ..GatedConfig::new(HEADS) };
        assert_eq!((config.position, config.combine), (Output, GateCombine::Multiply));
        let json = serde_json::to_value(MixerConfig::Gated(config.clone())).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["attention", "gate", "type"]);
        let short = format!(r#"{{"type": "gated", "gate": "{name}", "attention": {{"heads": {HEADS}}}}}"#);
        assert_eq!(serde_json::from_str::<MixerConfig>(&short).unwrap(), MixerConfig::Gated(config));
    }
}

#[test]
fn combinations_without_meaning_are_refused_by_name() {
    let refusal = |change: &dyn Fn(&mut GatedConfig)| config(change).validate(D_MODEL).unwrap_err().to_string();
    for (message, change) in [
        (
            "gate at position dense must be elementwise or input_independent (no heads there), got headwise",
            &(|c: &mut GatedConfig| (c.position, c.gate) = (Dense, Gate::Headwise)) as &dyn Fn(&mut GatedConfig),
        ),
        ("shared at position dense must be false (no heads there), got true", &|c| {
            (c.position, c.shared) = (Dense, true)
        }),
        ("shared for a gate without input must be false, got true", &|c| {
            (c.gate, c.shared) = (Gate::InputIndependent, true)
        }),
        ("activation of a gate that multiplies must be sigmoid, silu or non_sparse_sigmoid, got identity", &|c| {
            c.activation = GateActivation::Identity
        }),
        (
            "gate beside position, shared, combine or activation must be elementwise, headwise or input_independent, \
             got head_norm",
            &|c| (c.gate, c.position) = (Gate::HeadNorm, Values),
        ),
        (
            "gate beside position, shared, combine or activation must be elementwise, headwise or input_independent, \
             got silu",
            &|c| (c.gate, c.combine) = (Gate::Silu, GateCombine::Add),
        ),
        ("heads must be at least 1, got 0", &|c| c.attention.heads = 0),
    ] {
        assert_eq!(refusal(change), message);
    }
}
