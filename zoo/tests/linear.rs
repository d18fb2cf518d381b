//! The linear family: members that are others in disguise, and weights known in closed form.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::*;
use std::collections::BTreeMap;
use std::path::Path;
use zoo::*;

type Weights = BTreeMap<String, TensorData>;

/// A mixer in f64 with the weights of `donor` where it has some of the same name.
fn with_weights(config: &MixerConfig, donor: &Weights) -> AnyMixer {
    let mixer = build(config, &Device::flex());
    let mut weights = checkpoint::tensors(&mixer);
    for (name, weight) in &mut weights {
        if let Some(given) = donor.get(name).filter(|given| given.shape() == weight.shape()) {
            *weight = given.clone();
        }
    }
    checkpoint::apply(mixer, &weights, Path::new("the donor")).expect("the mixer's own names and shapes")
}

/// The weights of a mixer, those named set to one number.
fn weights(config: &MixerConfig, set: &[(&str, f64)]) -> Weights {
    let mut weights = checkpoint::tensors(&build(config, &Device::flex()));
    for (name, value) in set {
        let weight = weights.get_mut(*name).unwrap_or_else(|| panic!("no weight {name}"));
        *weight = TensorData::new(vec![*value; weight.num_elements()], weight.shape().clone());
    }
    weights
}

fn x() -> Tensor<3> {
    numbers(1, [2, 9, D_MODEL], &Device::flex())
}

fn taps(mixer: &AnyMixer) -> Record {
    let mut record = Record::new(&["*"]);
    mixer.forward(x(), &mut record);
    record
}

fn tapped<const D: usize>(record: &Record, name: &str) -> Tensor<D> {
    record.get(name).unwrap_or_else(|| panic!("no tap {name}"))
}

/// `γ_h^{t−s}` on and below the diagonal, `[1, heads, time, time]`.
fn powers(log_decays: &[f64], time: usize) -> Tensor<4> {
    let value = |i: usize| {
        let (head, t, s) = (i / (time * time), i / time % time, i % time);
        if t >= s { (log_decays[head] * (t - s) as f64).exp() } else { 0.0 }
    };
    let values: Vec<f64> = (0..log_decays.len() * time * time).map(value).collect();
    Tensor::from_data(
        TensorData::new(values, [1, log_decays.len(), time, time]),
        (&Device::flex(), burn::tensor::DType::F64),
    )
}

#[test]
fn kda_with_open_gates_of_one_strength_is_gated_delta_2() {
    let kda = MixerConfig::Kda(KdaConfig::new(3));
    let split = MixerConfig::GatedDelta2(GatedDelta2Config::new(3));
    // σ(0) = ½ is β there, and both gates here.
    let shared = weights(&kda, &[("b_proj.weight", 0.0)]);
    let mut donor = shared.clone();
    donor.extend(
        weights(&split, &[("b_proj.weight", 0.0), ("w_proj.weight", 0.0)])
            .into_iter()
            .filter(|(name, _)| name.starts_with("b_proj") || name.starts_with("w_proj")),
    );
    let (kda, split) = (with_weights(&kda, &shared), with_weights(&split, &donor));
    let error = largest(kda.forward(x(), &mut Silent) - split.forward(x(), &mut Silent));
    assert!(error < 1e-12, "off by {error:e}");
}

#[test]
fn gated_delta_that_never_decays_is_deltanet() {
    let gated = MixerConfig::GatedDelta(GatedDeltaConfig::new(3));
    let plain = MixerConfig::DeltaNet(DeltaNetConfig::new(3));
    let donor = weights(&gated, &[("a_log", -1000.0)]);
    let (gated, plain) = (taps(&with_weights(&gated, &donor)), taps(&with_weights(&plain, &donor)));
    for name in ["q", "k", "v", "pattern", "state"] {
        let error = largest(tapped::<4>(&gated, name) - tapped(&plain, name));
        assert!(error < 1e-12, "{name} off by {error:e}");
    }
}

#[test]
fn kda_whose_channels_fade_alike_is_gated_delta() {
    let scalar = MixerConfig::GatedDelta(GatedDeltaConfig::new(3));
    let channel = MixerConfig::Kda(KdaConfig::new(3));
    // Without a projection the decay is e^{−A softplus(dt_bias)} for every token.
    let mut donor = weights(&scalar, &[("a_proj.weight", 0.0), ("dt_bias", 0.3)]);
    let faded = weights(&channel, &[("f_a_proj.weight", 0.0), ("dt_bias", 0.3)]);
    let scalar = taps(&with_weights(&scalar, &donor));
    donor.insert("f_a_proj.weight".into(), faded["f_a_proj.weight"].clone());
    donor.insert("dt_bias".into(), faded["dt_bias"].clone());
    let channel = taps(&with_weights(&channel, &donor));
    for name in ["q", "k", "v", "pattern", "state"] {
        let error = largest(tapped::<4>(&scalar, name) - tapped(&channel, name));
        assert!(error < 1e-12, "{name} off by {error:e}");
    }
}

#[test]
fn a_retention_that_never_fades_and_never_turns_is_linear_attention_without_normaliser() {
    let retention = MixerConfig::RetNet(RetNetConfig {
        position: Position::None {},
        value_dim: Some(8),
        decays: Some(vec![1.0; 3]),
        ..RetNetConfig::new(3)
    });
    let sum = MixerConfig::LinearAttention(LinearAttentionConfig {
        feature_map: FeatureMap::Identity,
        normalised: false,
        ..LinearAttentionConfig::new(3)
    });
    let donor = weights(&retention, &[]);
    let (retention, sum) = (taps(&with_weights(&retention, &donor)), taps(&with_weights(&sum, &donor)));
    let scale = 8f64.powf(-0.5); // on the queries of retention alone
    let error = largest(tapped::<4>(&retention, "pattern") - tapped::<4>(&sum, "pattern") * scale);
    assert!(error < 1e-12, "pattern off by {error:e}");
    assert!(largest(tapped::<4>(&retention, "state") - tapped(&sum, "state")) < 1e-12);
}

#[test]
fn fixed_decays_are_powers_of_the_distance() {
    let retention = RetNetConfig::new(3);
    let published = [1.0 - 1.0 / 32.0, 1.0 - 1.0 / 64.0, 1.0 - 1.0 / 128.0];
    let retention_decays = published.map(f64::ln);
    // Layer 1 of 2 (`build`): half the slope of the first layer.
    let lightning_decays = [0.0, -4.0 / 3.0, -8.0 / 3.0];
    for (config, log_decays) in [
        (MixerConfig::RetNet(retention), retention_decays),
        (MixerConfig::Lightning(LightningConfig::new(3)), lightning_decays),
    ] {
        let record = taps(&build(&config, &Device::flex()));
        let products = tapped::<4>(&record, "q").matmul(tapped::<4>(&record, "k").transpose());
        let error = largest(tapped::<4>(&record, "pattern") - products * powers(&log_decays, 9));
        assert!(error < 1e-12, "{config:?} off by {error:e}");
    }
}

#[test]
fn a_fixed_decay_is_offered_as_what_survives_a_step() {
    let lightning = [1.0, (-4.0f64 / 3.0).exp(), (-8.0f64 / 3.0).exp()];
    for (config, decays) in [
        (MixerConfig::RetNet(RetNetConfig::new(3)), [1.0 - 1.0 / 32.0, 1.0 - 1.0 / 64.0, 1.0 - 1.0 / 128.0]),
        (MixerConfig::Lightning(LightningConfig::new(3)), lightning),
    ] {
        let decay = tapped::<3>(&taps(&build(&config, &Device::flex())), "decay");
        assert_eq!(decay.dims(), [2, 3, 9]);
        let values: Vec<f64> = decay.into_data().try_into_vec().unwrap();
        for (i, value) in values.into_iter().enumerate() {
            let expected = decays[i / 9 % 3];
            assert!((value - expected).abs() < 1e-12, "{config:?}: {value}, not {expected}");
        }
    }
}

#[test]
fn lightning_head_0_never_decays_and_deeper_layers_remember_longer() {
    for layer in 0..4 {
        let decays = LightningDecays::Linear.log_decays(8, layer, 4);
        assert_eq!(decays[0], 0.0);
        assert!(decays.windows(2).all(|pair| pair[1] < pair[0]));
    }
    assert_eq!(LightningDecays::Linear.log_decays(8, 0, 4)[7], -7.0);
    // A prediction head stands behind the last layer, and its state does not grow either.
    for decays in [LightningDecays::Linear, LightningDecays::Geometric] {
        for layers in [1, 4] {
            assert!(decays.log_decays(8, layers, layers).iter().all(|g| *g <= 0.0), "{decays:?}, {layers} layers");
        }
    }
    assert!(LightningDecays::Linear.log_decays(8, 3, 4)[7] > LightningDecays::Linear.log_decays(8, 2, 4)[7]);
}

#[test]
fn the_weights_of_normalised_linear_attention_are_positive_and_sum_to_one() {
    for feature_map in [FeatureMap::EluPlusOne, FeatureMap::Taylor] {
        let config = LinearAttentionConfig { feature_map, ..LinearAttentionConfig::new(3) };
        let pattern = tapped::<4>(&taps(&build(&MixerConfig::LinearAttention(config), &Device::flex())), "pattern");
        let rows = pattern.clone().sum_dim(3);
        // ε takes a little of a row whose weights are small.
        assert!(largest(rows.clone() - rows.ones_like()) < 1e-4);
        assert!(pattern.min().into_scalar::<f64>() >= 0.0);
    }
}

#[test]
fn taylor_features_multiply_to_the_exponential_of_second_order() {
    let [q, k] = [3, 4].map(|seed| numbers::<4>(seed, [1, 2, 5, 6], &Device::flex()) * 3.0);
    let s = q.clone().matmul(k.clone().transpose()) * 6f64.powf(-0.5);
    let products = FeatureMap::Taylor.apply(q).matmul(FeatureMap::Taylor.apply(k).transpose());
    assert!(largest(products - (s.clone().square() * 0.5 + s + 1.0)) < 1e-12);
}

#[test]
fn the_elu_feature_is_one_plus_x_above_zero_and_the_exponential_below() {
    let x = numbers::<4>(3, [1, 2, 5, 6], &Device::flex()) * 3.0;
    let features: Vec<f64> = FeatureMap::EluPlusOne.apply(x.clone()).into_data().try_into_vec().unwrap();
    let x: Vec<f64> = x.into_data().try_into_vec().unwrap();
    for (x, feature) in x.into_iter().zip(features) {
        let expected = if x > 0.0 { 1.0 + x } else { x.exp() };
        assert!((feature - expected).abs() < 1e-14, "{x}: {feature}");
    }
}

#[test]
fn mamba_2_is_its_recurrence() {
    let mixer = build(&MixerConfig::Mamba2(Mamba2Config { state_dim: 6, ..Mamba2Config::new(3) }), &Device::flex());
    let record = taps(&mixer);
    let mamba: &Mamba2 = mixer.downcast_ref().expect("a Mamba-2");
    let vector = |x: Tensor<1>| -> Vec<f64> { x.into_data().try_into_vec().unwrap() };
    let (a_log, skip) = (vector(mamba.a_log.val()), vector(mamba.d.val()));
    let flat = |name: &str| -> Vec<f64> { record.values[name].to_vec().into_iter().map(f64::from).collect() };
    let (c, b, x, dt) = (flat("q"), flat("k"), flat("v"), flat("dt"));
    let (time, n, p) = (9, 6, 16);
    // Head 1 of the first sequence: y_t = Σ_n C_n S_n + D x, S ← e^{−Δ e^{A_log}} S + Δ B x.
    let (head, mut state) = (1, vec![vec![0.0; p]; n]);
    let pattern = tapped::<4>(&record, "pattern").matmul(tapped::<4>(&record, "v"));
    let y: Vec<f64> = pattern.into_data().try_into_vec().unwrap();
    for t in 0..time {
        let step = dt[head * time + t];
        let x = &x[(head * time + t) * p..][..p];
        for i in 0..n {
            for j in 0..p {
                state[i][j] = (-step * a_log[head].exp()).exp() * state[i][j] + step * b[t * n + i] * x[j];
            }
        }
        for j in 0..p {
            let expected = (0..n).map(|i| c[t * n + i] * state[i][j]).sum::<f64>() + skip[head] * x[j];
            let found = y[(head * time + t) * p + j];
            assert!((found - expected).abs() < 1e-5, "token {t}, channel {j}: {found} and not {expected}");
        }
    }
}

#[test]
fn a_beta_to_two_doubles_the_beta_to_one() {
    for reach in [false, true] {
        let config = DeltaNetConfig { allow_negative_eigenvalues: reach, ..DeltaNetConfig::new(3) };
        let beta = tapped::<3>(&taps(&build(&MixerConfig::DeltaNet(config), &Device::flex())), "beta");
        assert_eq!(beta.max().into_scalar::<f64>() > 1.0, reach);
    }
}

#[test]
fn bad_configurations_name_the_value_and_the_valid_ones() {
    let error = |config: MixerConfig| config.validate(D_MODEL).unwrap_err().to_string();
    let retention = |change: &dyn Fn(&mut RetNetConfig)| {
        let mut config = RetNetConfig::new(3);
        change(&mut config);
        error(MixerConfig::RetNet(config))
    };
    assert!(retention(&|c| c.decays = Some(vec![0.5])).contains("decays must be 3 numbers in (0, 1], got [0.5]"));
    assert!(retention(&|c| c.decays = Some(vec![0.5, 1.1, f64::NAN])).contains("NaN"));
    assert!(retention(&|c| c.position = Position::Alibi {}).contains("rope or none"));
    assert!(retention(&|c| c.chunk = 48).contains("chunk must be a power of two, got 48"));
    assert!(retention(&|c| c.heads = 5).contains("d_model 24 is not divisible by heads 5"));
    let identity = LinearAttentionConfig { feature_map: FeatureMap::Identity, ..LinearAttentionConfig::new(3) };
    assert!(error(MixerConfig::LinearAttention(identity)).contains("elu_plus_one or taylor"));
    assert!(error(MixerConfig::Kda(KdaConfig::new(0))).contains("heads must be at least 1"));
    assert!(error(MixerConfig::Mamba2(Mamba2Config { state_dim: 0, ..Mamba2Config::new(3) })).contains("state_dim"));
    let gla = GlaConfig { root: 0.0, ..GlaConfig::new(3) };
    assert!(error(MixerConfig::Gla(gla)).contains("root must be a positive number, got 0"));
}
