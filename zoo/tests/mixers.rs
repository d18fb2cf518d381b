//! One suite for all mixers.

mod common;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use common::*;
use zoo::*;

#[test]
fn a_future_token_cannot_change_the_past() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(1, [2, 11, D_MODEL], &device);
        let before = mixer.forward(x.clone(), &mut Silent);
        for t in [1, 4, 10] {
            let other = numbers(2, [2, 1, D_MODEL], &device);
            let changed = x.clone().slice_assign([0..2, t..t + 1, 0..D_MODEL], other);
            let after = mixer.forward(changed, &mut Silent);
            let past = largest(before.clone().narrow(1, 0, t) - after.clone().narrow(1, 0, t));
            assert_eq!(past, 0.0, "{name}: token {t} changed what came before it");
            let now = largest(before.clone().narrow(1, t, 1) - after.narrow(1, t, 1));
            assert!(now > 1e-6, "{name}: token {t} did not change its own output");
        }
    }
}

#[test]
fn steps_of_any_lengths_equal_all_at_once() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(3, [2, 13, D_MODEL], &device);
        let whole = mixer.forward(x.clone(), &mut Silent);
        let mut cache = Cache::default();
        let mut start = 0;
        let steps = [1, 4, 1, 2, 5].map(|time| {
            let y = mixer.step(x.clone().narrow(1, start, time), &mut cache, &mut Silent);
            cache.advance(time);
            start += time;
            y
        });
        let steps = Tensor::cat(steps.to_vec(), 1);
        let error = largest(whole - steps);
        assert!(error < 1e-10, "{name}: off by {error:e}");
    }
}

#[test]
fn only_states_and_windows_decode_in_constant_memory() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let mut cache = Cache::default();
        let bytes: Vec<usize> = (0..6)
            .map(|t| {
                mixer.step(numbers(t, [1, 1, D_MODEL], &device), &mut cache, &mut Silent);
                cache.advance(1);
                cache.bytes()
            })
            .collect();
        match config {
            _ if config.is_linear() => assert_eq!(bytes[0], bytes[5], "{name}"),
            MixerConfig::Softmax(SoftmaxConfig { window: Some(window), .. }) => {
                assert_eq!(bytes[5], window.min(6) * bytes[0], "{name}");
            }
            // Beside the keys and values of all tokens, the queries of the last ones.
            MixerConfig::MultiToken(config) => {
                let kv_heads = config.kv_heads.unwrap_or(config.heads);
                let token = config.head_dim(D_MODEL) * size_of::<f64>();
                let queries = 6.min(config.earlier_queries() + 1);
                assert_eq!(bytes[5], token * (6 * 2 * kv_heads + queries * config.heads), "{name}");
            }
            _ => assert_eq!(bytes[5], 6 * bytes[0], "{name}"),
        }
    }
}

#[test]
fn every_gradient_equals_its_finite_difference() {
    let device = Device::flex().autodiff();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(4, [2, 7, D_MODEL], &device).require_grad();
        let weights = numbers(5, [2, 7, D_MODEL], &device);
        let loss = |mixer: &AnyMixer, x: Tensor<3>| (mixer.forward(x, &mut Silent) * weights.clone()).sum();
        let gradients = loss(&mixer, x.clone()).backward();

        let input = x.grad(&gradients).expect("the input is tracked").into_data();
        assert_gradient(&format!("{name}: x"), &x.to_data(), &input, &|data| {
            loss(&mixer, Tensor::from_data(data, (&device, DType::F64))).into_scalar()
        });
        assert_gradients(name, &mixer, &gradients, |mixer| loss(mixer, x.clone()).into_scalar());
    }
}

#[test]
fn the_parameter_count_of_a_configuration_is_that_of_the_module() {
    let device = Device::flex();
    for (name, config) in mixers() {
        assert_eq!(config.parameters(D_MODEL), build(&config, &device).num_params(), "{name}");
    }
}

#[test]
fn the_pattern_times_the_values_is_what_the_mixer_computes() {
    // Asking for the pattern takes another path through the operator: it must not change the result.
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(6, [2, 9, D_MODEL], &device);
        let plain = mixer.forward(x.clone(), &mut Silent);
        let mut record = Record::new(&["pattern"]);
        let tapped = mixer.forward(x, &mut record);
        assert!(record.values.contains_key("pattern"), "{name}: no pattern");
        let error = largest(plain - tapped);
        assert!(error < 1e-10, "{name}: off by {error:e}");
    }
}

#[test]
fn watching_every_tap_changes_nothing() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(11, [2, 9, D_MODEL], &device);
        let plain = mixer.forward(x.clone(), &mut Silent);
        let mut record = Record::new(&["*"]);
        let watched = mixer.forward(x, &mut record);
        assert!(record.values.len() >= 4, "{name}: only {:?}", record.values.keys());
        assert_eq!(largest(plain - watched), 0.0, "{name}");
    }
}

#[test]
fn watching_turns_no_operator_off() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(9, [2, 9, D_MODEL], &device);
        let (_, silent) = kernels::trace(|| mixer.forward(x.clone(), &mut Silent));
        let (_, watched) = kernels::trace(|| mixer.forward(x, &mut Record::new(&["*"])));
        assert_eq!(silent, watched, "{name}");
    }
}

#[test]
fn a_part_of_the_pattern_is_recorded_while_the_operator_runs() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(9, [2, 9, D_MODEL], &device);
        let part = tap::Part { heads: Some(1..2), rows: Some(3..7) };
        let mut whole = Record::new(&["*pattern*"]);
        let mut record = Record::new(&["*pattern*"]).with_part(part);
        mixer.forward(x.clone(), &mut whole);
        mixer.forward(x, &mut record);
        assert!(!whole.values.is_empty(), "{name}");
        for (path, value) in &whole.values {
            let whole = value.clone().tensor::<4>().narrow(1, 1, 1).narrow(2, 3, 4);
            let part = record.get::<4>(path).expect("the same taps");
            assert_eq!(part.dims(), whole.dims(), "{name}: {path}");
            assert!(largest(part - whole) < 1e-12, "{name}: {path}");
        }
    }
}

#[test]
fn a_part_that_reaches_beyond_the_pattern_is_what_there_is_of_it() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let recorded = |heads, rows| {
            let part = tap::Part { heads: Some(heads), rows: Some(rows) };
            let mut record = Record::new(&["*pattern*"]).with_part(part);
            mixer.forward(numbers(9, [2, 9, D_MODEL], &device), &mut record);
            record
        };
        let (some, whole) = (recorded(0..50, 6..50), recorded(0..50, 0..50));
        assert!(!some.values.is_empty(), "{name}");
        for (path, value) in &whole.values {
            let whole = value.clone().tensor::<4>().narrow(2, 6, 3);
            let some = some.get::<4>(path).expect("the same taps");
            assert_eq!(some.dims(), whole.dims(), "{name}: {path}");
            assert!(largest(some - whole) < 1e-12, "{name}: {path}");
        }
        for (heads, rows) in [(0..1, 9..12), (50..60, 0..1)] {
            assert!(recorded(heads, rows).values.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_mixer_read_back_from_disk_computes_the_same_bits() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let path = folder.path().join("mixer.safetensors");
        checkpoint::write(&path, &checkpoint::tensors(&mixer), Default::default()).unwrap();
        let (tensors, _) = checkpoint::read(&path).unwrap();
        // Other weights to start from, so that one that is not read shows.
        let other = double(config.init(D_MODEL, 1, &mut Init::new(8, 0.3, 0.3, 2, &device)));
        let back = checkpoint::apply(other, &tensors, &path).unwrap();
        let x = numbers(12, [1, 6, D_MODEL], &device);
        let difference = mixer.forward(x.clone(), &mut Silent) - back.forward(x, &mut Silent);
        assert_eq!(largest(difference), 0.0, "{name}");
    }
}

#[test]
fn half_precision_is_close_to_single() {
    let device = Device::flex();
    for (name, config) in mixers() {
        // The same weights and inputs, which bf16 holds exactly: what differs is the computation.
        let half = cast(build(&config, &device), DType::BF16);
        let single = cast(half.clone(), DType::F32);
        let x = numbers(13, [2, 9, D_MODEL], &device).cast(DType::BF16);
        let expected = single.forward(x.clone().cast(DType::F32), &mut Silent).cast(DType::F64);
        let found = half.forward(x, &mut Silent);
        assert_eq!(found.dtype(), DType::BF16, "{name}");
        // Measured 0.3 % to 1.5 %; a rounding is 0.4 %. A correction of twice the error, without any
        // decay, keeps what it got wrong: 3.7 %.
        let bound = match config {
            MixerConfig::DeltaNet(DeltaNetConfig { allow_negative_eigenvalues: true, .. }) => 0.06,
            _ => 0.025,
        };
        let error = largest(found.cast(DType::F64) - expected.clone()) / largest(expected);
        assert!(error < bound, "{name}: off by {error:.4} of the largest output");
    }
}

#[test]
fn a_patched_value_is_what_the_mixer_goes_on_with() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(7, [1, 5, D_MODEL], &device);
        let mut silence = Patch::new("v", |_, value: Value| Value::new(value.tensor::<4>() * 0.0));
        let silent = mixer.forward(x.clone(), &mut silence);
        let mut blind = Patch::new("pattern", |_, value: Value| Value::new(value.tensor::<4>() * 0.0));
        let blind = mixer.forward(x, &mut blind);
        // Only a sum with the heads' outputs, or with the branch, is not the values' doing.
        let adds = matches!(&config, MixerConfig::Gated(GatedConfig { combine: GateCombine::Add, position, .. })
            if matches!(position, GatePosition::Output | GatePosition::Dense));
        assert_eq!(largest(silent.clone()) == 0.0, !adds, "{name}: without values nothing comes out");
        assert_eq!(largest(silent - blind), 0.0, "{name}: without a pattern nothing comes out");
    }
}

#[test]
fn taps_are_the_same_in_forward_and_in_step() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(8, [1, 1, D_MODEL], &device);
        let names = |record: Record| record.values.into_keys().collect::<Vec<_>>();
        let mut forward = Record::new(&["*"]);
        mixer.forward(x.clone(), &mut forward);
        let mut step = Record::new(&["*"]);
        mixer.step(x, &mut Cache::default(), &mut step);
        let (mut forward, step) = (names(forward), names(step));
        if config.is_linear() {
            forward.retain(|n| n != "pattern"); // a step has no past to show
        }
        assert_eq!(forward, step, "{name}");
        for tap in forward {
            let path = format!("blocks.N.mixer.{tap}");
            assert!(tap::NAMES.iter().any(|(listed, _)| *listed == path), "{name}: {path} is not listed");
        }
    }
}

#[test]
fn lambda_init_grows_with_depth_as_published() {
    for (layer, published) in [(0, 0.2), (1, 0.3555), (2, 0.4707), (3, 0.5561), (7, 0.7265), (23, 0.7994)] {
        assert!((lambda_init(layer) - published).abs() < 1e-4, "layer {layer}");
    }
}

#[test]
fn the_differential_pattern_is_the_first_map_minus_lambda_times_the_second() {
    let device = Device::flex();
    let config = DifferentialConfig::new(DifferentialVersion::V2, 4);
    let mut mixer = double(config.init(D_MODEL, 0, &mut Init::new(1, 0.3, 0.3, 1, &device)));
    let Lambda::Token(lambda) = &mut mixer.lambda else { panic!("V2 has a λ per token") };
    // σ(0) = ½ everywhere: the output is attn₀ − ½ attn₁.
    lambda.weight = lambda.weight.clone().map(|w| w * 0.0);
    let x = numbers(10, [1, 8, D_MODEL], &device);
    let mut record = Record::new(&["pattern*", "v"]);
    mixer.forward(x, &mut record);
    let [difference, positive, negative] =
        ["pattern", "pattern_positive", "pattern_negative"].map(|n| record.get::<4>(n).expect("recorded"));
    assert!(largest(positive.clone() - negative * 0.5 - difference) < 1e-12);
    let rows = positive.sum_dim(3);
    assert!(largest(rows.clone() - rows.ones_like()) < 1e-12, "a softmax row sums to one");
}

#[test]
fn differential_attention_without_lambda_is_plain_attention_and_v1s_norm() {
    let device = Device::flex();
    for version in [DifferentialVersion::V1, DifferentialVersion::V2] {
        let config = DifferentialConfig { kv_heads: Some(2), head_dim: Some(6), ..DifferentialConfig::new(version, 4) };
        let mixer = double(config.init(D_MODEL, 3, &mut Init::new(1, 0.3, 0.3, 4, &device)));
        let mut zero = Patch::new("lambda", |_, value: Value| match value.shape().len() {
            1 => Value::new(value.tensor::<1>() * 0.0),
            _ => Value::new(value.tensor::<3>() * 0.0),
        });
        let x = numbers(10, [1, 8, D_MODEL], &device);
        let found = mixer.forward(x.clone(), &mut zero);
        let mut record = Record::new(&["q", "k", "v"]);
        mixer.forward(x, &mut record);
        let [q, k, v] = ["q", "k", "v"].map(|name| record.get::<4>(name).expect("recorded"));
        // The first map of every pair.
        let first = |x: Tensor<4>| {
            let heads = (0..x.dims()[1]).step_by(2);
            Tensor::cat(heads.map(|h| x.clone().narrow(1, h, 1)).collect(), 1)
        };
        let k = if version == DifferentialVersion::V1 { first(k) } else { k };
        let heads = kernels::softmax_attention(first(q), k, v, 6f64.powf(-0.5));
        let heads = match &mixer.lambda {
            Lambda::Layer(lambda) => lambda.norm.forward(heads) * (1.0 - lambda_init(3)),
            Lambda::Token(_) => heads,
        };
        let [batch, count, time, width] = heads.dims();
        let merged = heads.swap_dims(1, 2).reshape([batch, time, count * width]);
        assert!(largest(found - mixer.o_proj.forward(merged)) < 1e-12, "{version:?}");
    }
}

#[test]
fn the_same_input_gives_the_same_bits_and_the_same_seed_the_same_mixer() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let x = numbers(12, [2, 9, D_MODEL], &device);
        let once = build(&config, &device);
        let first = once.forward(x.clone(), &mut Silent);
        assert_eq!(largest(first.clone() - once.forward(x.clone(), &mut Silent)), 0.0, "{name}");
        assert_eq!(largest(first - build(&config, &device).forward(x, &mut Silent)), 0.0, "{name}: another build");
    }
}

#[test]
fn a_wrong_width_and_a_mixer_without_heads_are_refused_with_what_was_expected() {
    let device = Device::flex();
    for (name, config) in mixers() {
        let mixer = build(&config, &device);
        let x = numbers(13, [2, 5, D_MODEL - 1], &device);
        let run = std::panic::AssertUnwindSafe(|| drop(mixer.forward(x, &mut Silent)));
        let panic = std::panic::catch_unwind(run).expect_err(name);
        let message = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(message.contains("expected [.., 24], got [2, 5, 23]"), "{name}: {message}");

        let mut json = serde_json::to_value(&config).unwrap();
        let holder = if json.get("heads").is_some() { &mut json } else { &mut json["attention"] };
        holder["heads"] = 0.into();
        let none: MixerConfig = serde_json::from_value(json).unwrap();
        let error = none.validate(D_MODEL).expect_err(name).to_string();
        assert!(error.contains("heads must be at least 1, got 0"), "{name}: {error}");
    }
}
