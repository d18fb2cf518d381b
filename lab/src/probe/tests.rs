//! The claims of `probe`.

use super::*;
use crate::Frame;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use datasets::{Needle, NeedleConfig};
use zoo::{Init, LoopConfig, Mixer, MixerConfig, ModelConfig, Sink, SoftmaxConfig, Tap};

fn device() -> Device {
    Device::flex()
}

fn model(variant: &str) -> Decoder {
    let config = ModelConfig { vocab_size: 40, ..ModelConfig::new(16, 24, 2, Vec::new()) };
    let config = zoo::presets::variant(variant, 2, config).unwrap();
    config.init(3, &device()).unwrap()
}

fn batch(batch: usize, time: usize) -> Batch {
    let ids: Vec<i32> = (0..batch * time).map(|i| (i * 7 % 40) as i32).collect();
    Batch { batch, time, targets: ids.clone(), mask: vec![1.0; ids.len()], ids }
}

/// The model with some weights rewritten.
fn edit(model: Decoder, mut change: impl FnMut(&str, &mut [f32])) -> Decoder {
    let mut tensors = zoo::checkpoint::tensors(&model);
    for (name, data) in &mut tensors {
        let mut values: Vec<f32> = data.iter().collect();
        change(name, &mut values);
        *data = TensorData::new(values, data.shape().clone());
    }
    zoo::checkpoint::apply(model, &tensors, "test".as_ref()).unwrap()
}

/// Offers a pattern with `first` on token 0 and `own` on the token itself, in two heads; the second
/// head has the weights exchanged.
#[derive(burn::module::Module, Debug)]
struct Known {
    weights: Param<Tensor<1>>,
}

impl Mixer for Known {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        let [batch, time, _] = x.dims();
        let weights: Vec<f32> = self.weights.val().into_data().iter().collect();
        let mut pattern = vec![0.0; 2 * time * time];
        for head in 0..2 {
            for t in 0..time {
                pattern[(head * time + t) * time] += weights[head];
                pattern[(head * time + t) * time + t] += weights[1 - head];
            }
        }
        let pattern = Tensor::<4>::from_data(TensorData::new(pattern, [1, 2, time, time]), &x.device());
        tap.at("pattern", pattern.repeat_dim(0, batch));
        x
    }
}

fn known(first: f32, own: f32) -> Decoder {
    let config = ModelConfig { vocab_size: 40, ..ModelConfig::new(16, 24, 1, vec![]) };
    let mixer =
        |_: usize, _: &mut Init| Known { weights: Param::from_tensor(Tensor::from_floats([first, own], &device())) };
    Decoder::with_mixers(&config, 0, &device(), mixer).unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5
}

#[test]
fn first_token_mass_is_the_share_of_a_known_pattern_and_leaves_query_0_out() {
    let rows = first_token_mass(&known(0.75, 0.25), &[batch(2, 8), batch(3, 8)]).unwrap();
    assert!(close(rows[0].mass, 0.75) && close(rows[0].signed, 0.75), "{rows:?}");
    assert!(close(rows[1].mass, 0.25), "{rows:?}");
    assert_eq!((rows.len(), rows[0].positive), (2, None));
    assert!(close(layer_means(&rows)[0].1, 0.5));
}

#[test]
fn a_signed_pattern_counts_by_its_size_and_keeps_its_sign_beside() {
    let rows = first_token_mass(&known(-0.6, 0.2), &[batch(1, 8)]).unwrap();
    assert!(close(rows[0].mass, 0.75) && close(rows[0].signed, -0.6), "{rows:?}");
}

#[test]
fn weight_that_is_left_to_a_sink_is_not_given_to_the_first_token() {
    // 0.9 of every row goes to the sink.
    let rows = first_token_mass(&known(0.05, 0.05), &[batch(2, 8)]).unwrap();
    assert!(rows.iter().all(|row| close(row.mass, 0.05) && close(row.signed, 0.05)), "{rows:?}");
    assert_eq!(sink_rate(&known(0.05, 0.05), &[batch(2, 8)], 0.3).unwrap(), Some(0.0));
    // Queries of zero give each of t + 1 tokens, and the sink, as much.
    let mixer = MixerConfig::Softmax(SoftmaxConfig { sink: Some(Sink::OffByOne {}), ..SoftmaxConfig::new(2) });
    let config = ModelConfig { vocab_size: 40, ..ModelConfig::new(16, 24, 2, vec![mixer]) };
    let model = edit(config.init(3, &device()).unwrap(), |name, values| {
        if name.contains("q_proj") {
            values.fill(0.0)
        }
    });
    let even = (1..8).map(|t| 1.0 / (t + 2) as f64).sum::<f64>() / 7.0;
    for row in first_token_mass(&model, &[batch(2, 8)]).unwrap() {
        assert!(close(row.mass, even), "{row:?} is not {even}");
    }
}

#[test]
fn rows_that_sum_to_more_than_one_are_made_shares() {
    let rows = first_token_mass(&known(1.5, 0.5), &[batch(2, 8)]).unwrap();
    assert!(close(rows[0].mass, 0.75) && close(rows[0].signed, 1.5) && close(rows[1].mass, 0.25), "{rows:?}");
}

#[test]
fn a_differential_pattern_is_made_shares_also_where_no_weight_is_negative() {
    for variant in ["differential", "differential-v2"] {
        // Both softmaxes look everywhere alike: rows are even and sum to 1 − λ.
        let model = edit(model(variant), |name, values| {
            if name.contains("q_proj") {
                values.fill(0.0)
            }
        });
        let even = (1..8).map(|t| 1.0 / (t + 1) as f64).sum::<f64>() / 7.0;
        for row in first_token_mass(&model, &[batch(2, 8)]).unwrap() {
            assert!(close(row.mass, even) && row.signed < row.mass, "{variant}: {row:?} is not {even}");
        }
    }
}

#[test]
fn uniform_causal_attention_has_the_published_sink_statistic() {
    // Queries of zero look everywhere alike: Σ 1/(t + 1) / 64 over 64 queries is 0.0741.
    let model = edit(model("baseline"), |name, values| {
        if name.ends_with("q_proj.weight") {
            values.fill(0.0);
        }
    });
    let rate = |epsilon| sink_rate(&model, &[batch(2, 64)], epsilon).unwrap();
    assert_eq!((rate(0.0741), rate(0.0742)), (Some(1.0), Some(0.0)));
}

#[test]
fn the_sink_rate_counts_heads_above_epsilon_with_query_0_as_in_the_paper() {
    // Over 4 queries, the first of which is 1: head 0 has 0.4375, head 1 has 0.8125.
    let model = known(0.25, 0.75);
    for (epsilon, rate) in [(0.4, 1.0), (0.44, 0.5), (0.82, 0.0)] {
        assert_eq!(sink_rate(&model, &[batch(2, 4)], epsilon).unwrap(), Some(rate), "{epsilon}");
    }
}

#[test]
fn queries_of_zero_attend_evenly() {
    let model = edit(model("baseline"), |name, values| {
        if name.contains("q_proj") {
            values.fill(0.0)
        }
    });
    let even = (1..8).map(|t| 1.0 / (t + 1) as f64).sum::<f64>() / 7.0;
    for row in first_token_mass(&model, &[batch(2, 8)]).unwrap() {
        assert!(close(row.mass, even), "{row:?} is not {even}");
    }
}

#[test]
fn patterns_are_causal_and_those_of_softmax_sum_to_one() {
    let ids = &batch(1, 9).ids;
    for (variant, per_head) in [("baseline", 1), ("gated", 1), ("differential-v2", 3), ("gated-delta", 1)] {
        let all = patterns(&model(variant), ids).unwrap();
        assert_eq!(all.len(), 2 * 2 * per_head, "{variant}");
        for pattern in &all {
            for t in 0..9 {
                let (seen, future) = pattern.row(t).split_at(t + 1);
                assert!(future.iter().all(|&w| w.abs() < 1e-6), "{variant} {pattern:?}");
                let softmax = variant == "baseline" || pattern.name != "pattern";
                assert!(!softmax || close(seen.iter().sum::<f32>().into(), 1.0), "{variant}");
            }
        }
    }
}

#[test]
fn the_halves_of_a_differential_pattern_are_reported_beside_their_difference() {
    let rows = first_token_mass(&model("differential"), &[batch(2, 8)]).unwrap();
    let lambdas = lambdas(&model("differential"), &[batch(2, 8)]).unwrap();
    for row in &rows {
        let (positive, negative) = (row.positive.unwrap(), row.negative.unwrap());
        assert!(close(row.signed, positive - lambdas[row.layer].mean * negative), "{row:?}");
    }
    assert_eq!(rows.frame().height(), rows.len());
}

#[test]
fn the_largest_activation_is_found_where_it_was_put() {
    let model = edit(model("baseline"), |name, values| {
        if name == "embedding" {
            values[14 * 16 + 5] = -500.0 // token 14, channel 5
        }
    });
    let batch = batch(2, 8); // token 14 = 2 · 7 stands at time 2 of the first row
    let rows = largest_activation(&model, &[batch]).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0].largest, rows[0].time, rows[0].channel), (500.0, 2, 5));
    assert!(rows[2].ratio() > 1000.0 && rows[2].channel == 5, "{rows:?}");
}

#[test]
fn gates_of_zero_weight_are_half_open_and_land_in_one_bin() {
    let model = edit(model("gated"), |name, values| {
        if name.contains("gate_proj") && name.contains("mixer") {
            values.fill(0.0)
        }
    });
    let scores = gate_scores(&model, &[batch(2, 8)]).unwrap();
    assert_eq!(scores.len(), 2);
    for layer in &scores {
        assert_eq!((layer.mean, layer.closed, layer.counts[20]), (0.5, 0.0, 2 * 8 * 16));
        assert!(close(layer.bars().iter().map(|bar| bar.1).sum(), 1.0));
    }
}

#[test]
fn gates_of_every_kind_are_counted_one_by_one() {
    let baseline = SoftmaxConfig { kv_heads: Some(1), ..SoftmaxConfig::new(2) };
    for row in zoo::tables::gated_attention(&baseline, 16).unwrap() {
        let config = ModelConfig { vocab_size: 40, ..ModelConfig::new(16, 24, 2, vec![row.mixer]) };
        let scores = gate_scores(&config.init(3, &device()).unwrap(), &[batch(2, 8)]).unwrap();
        // 2 rows of 8 tokens; two heads, one key head, 8 channels each.
        let expected = match row.name {
            name if name.starts_with("G5") => Some(2 * 8 * 16),
            "G1 input-independent" => Some(16),
            name if name.ends_with("headwise") => Some(2 * 8 * if name.starts_with("G1") { 2 } else { 1 }),
            "G1 head-shared" | "G2 head-shared" | "G2 elementwise" | "G3 elementwise" => Some(2 * 8 * 8),
            name if name.starts_with('G') => Some(2 * 8 * 16),
            _ => None,
        };
        let counted: Vec<u64> = scores.iter().map(|layer| layer.counts.iter().sum()).collect();
        assert_eq!(counted, expected.map_or(vec![], |count| vec![count; 2]), "{}", row.name);
    }
}

#[test]
fn lambda_starts_near_its_initial_value_in_v1_and_varies_by_token_in_v2() {
    let batches = [batch(2, 8), batch(1, 8)];
    for row in lambdas(&model("differential"), &batches).unwrap() {
        assert!((row.mean - row.initial.unwrap()).abs() < 0.5 && row.minimum == row.maximum, "{row:?}");
    }
    for row in lambdas(&model("differential-v2"), &batches).unwrap() {
        assert!(row.initial.is_none() && row.minimum < row.maximum, "{row:?}");
    }
}

#[test]
fn a_looped_model_has_no_initial_lambda_by_depth() {
    let pattern = zoo::presets::pattern("differential", 2).unwrap();
    let looped = Some(LoopConfig::new(2));
    let config = ModelConfig { vocab_size: 40, looped, ..ModelConfig::new(16, 24, 1, pattern) };
    let rows = lambdas(&config.init(3, &device()).unwrap(), &[batch(2, 8)]).unwrap();
    assert_eq!(rows.iter().map(|row| (row.layer, row.initial)).collect::<Vec<_>>(), [(0, None), (1, None)]);
    assert_eq!(rows[0].mean, rows[1].mean, "one block, run twice");
}

#[test]
fn fixed_decays_are_reported_and_what_never_fades_has_no_half_life() {
    let retention = decays(&model("retnet"), &[batch(2, 8)]).unwrap();
    assert_eq!(retention.len(), 2 * 2, "two layers of two heads");
    for row in &retention {
        let decay = 1.0 - (-5.0 - row.head as f64).exp2();
        let half_life = std::f64::consts::LN_2 / -decay.ln();
        assert!(close(row.mean, decay) && row.minimum == row.maximum, "{row:?}");
        assert!((row.half_life / half_life - 1.0).abs() < 1e-3, "{row:?} is not {half_life}");
    }
    for row in decays(&model("lightning"), &[batch(2, 8)]).unwrap() {
        assert_eq!(row.half_life == f64::INFINITY, row.head == 0, "{row:?}");
        assert!(row.half_life > 0.0, "{row:?}");
    }
}

#[test]
fn the_half_life_of_a_known_decay_is_known() {
    // softplus(dt_bias) · e^{a_log} = ln 2 / 8: half is left after 8 tokens.
    let rate = std::f64::consts::LN_2 / 8.0;
    let model = edit(model("gated-delta"), |name, values| match name.rsplit('.').next().unwrap() {
        "a_log" => values.fill(0.0),
        "dt_bias" => values.fill((rate.exp() - 1.0).ln() as f32),
        "weight" if name.contains("a_proj") => values.fill(0.0),
        _ => {}
    });
    for row in decays(&model, &[batch(2, 8)]).unwrap() {
        assert!((row.half_life - 8.0).abs() < 1e-3 && close(row.mean, (-rate).exp()), "{row:?}");
    }
}

#[test]
fn a_state_that_was_never_written_is_zero() {
    let norms = |model: &Decoder| state_norms(model, &[batch(2, 8)]).unwrap();
    let written = model("gated-delta");
    assert!(norms(&written).iter().all(|row| row.norm > 0.0 && row.largest >= row.norm));
    let empty = edit(written, |name, values| {
        if name.contains("v_proj") {
            values.fill(0.0)
        }
    });
    assert!(norms(&empty).iter().all(|row| row.norm == 0.0));
}

#[test]
fn the_cache_of_softmax_grows_with_length_and_that_of_the_delta_rule_does_not() {
    let bytes =
        |variant| decode_cost(&model(variant), &[4, 8, 16]).unwrap().iter().map(|c| c.cache_bytes).collect::<Vec<_>>();
    let softmax = bytes("baseline");
    assert_eq!(
        softmax,
        [4, 8, 16].map(|length| 2 * 2 * length * 16 * 4),
        "two layers of keys and values of 16 channels"
    );
    let delta = bytes("gated-delta");
    assert!(delta[0] == delta[1] && delta[1] == delta[2], "{delta:?}");
    let forward = forward_cost(&model("baseline"), &[4, 8], 2).unwrap();
    assert!(forward.iter().all(|cost| cost.seconds_per_token > 0.0));
}

#[test]
fn a_full_cache_costs_nothing_and_fewer_bits_cost_more() {
    use zoo::{Axis, CacheFormat, ProductFormat, UniformFormat};
    let uniform = |bits| CacheFormat::Uniform(UniformFormat { recent: 4, ..UniformFormat::new(bits, Axis::Token) });
    let product = CacheFormat::Product(ProductFormat { recent: 4, ..ProductFormat::new(4, 5) });
    let formats = [CacheFormat::Full {}, uniform(8), uniform(2), product];
    // Larger weights, so that attention matters.
    let model = edit(model("baseline"), |name, values| {
        if name.contains("mixer") && name.contains("proj") {
            values.iter_mut().for_each(|w| *w *= 20.0)
        }
    });
    let text = [Batch { mask: (0..34).map(|i| (i % 2) as f32).collect(), ..batch(2, 17) }];
    let rows = cache_quality(&model, &[batch(3, 20)], &text, &formats).unwrap();
    let expected = crate::train::evaluate_batches(&model, &text).unwrap().loss;
    let full = &rows[0];
    assert_eq!((full.logit_error, full.largest_logit_error, full.loss_change), (0.0, 0.0, 0.0));
    assert!(close(full.loss, expected), "{} and in one pass {expected}", full.loss);
    assert_eq!((full.bytes_per_token, full.bits_per_number), (2.0 * 2.0 * 16.0 * 4.0, 32.0));
    assert!(rows[1].logit_error < 0.1 * rows[2].logit_error && rows[1].logit_error > 0.0, "{rows:?}");
    assert!(rows.windows(2).take(2).all(|pair| pair[1].bytes_per_token < pair[0].bytes_per_token));
    for row in &rows {
        assert!(row.largest_logit_error >= row.logit_error && close(row.loss - row.loss_change, full.loss));
    }
    // Eight channels a head: with two f32 by token; four codes of 5 bits in three bytes.
    let encoded: Vec<_> = rows.iter().map(|row| row.encoded_bits).collect();
    assert_eq!(encoded, [None, Some(8.0 + 2.0 * 32.0 / 8.0), Some(2.0 + 2.0 * 32.0 / 8.0), Some(3.0)]);
    // Two slots of 4 · 2^5 centroids, 8 channels in 4 parts.
    assert_eq!(rows[3].codebook_bytes, 2 * 4 * 32 * 2 * 4);
    assert_eq!(rows.frame().height(), 4);

    let error = cache_quality(&model, &[batch(1, 4)], &text, &formats).unwrap_err().to_string();
    assert!(error.contains("16 calibration vectors are fewer than 32"), "{error}");
    let silent = [Batch { mask: vec![0.0; 8], ..batch(1, 8) }];
    assert!(cache_quality(&model, &[], &silent, &formats[..1]).unwrap_err().to_string().contains("counted position"));
}

#[test]
fn needle_accuracy_of_a_model_that_always_says_the_same_is_the_share_of_that_answer() {
    let task = Needle::new(NeedleConfig { vocab_size: 10, distractors: 0, time: 16 }).unwrap();
    let config = ModelConfig {
        vocab_size: 10,
        tied: false,
        ..ModelConfig::new(16, 24, 1, zoo::presets::pattern("baseline", 2).unwrap())
    };
    let model = edit(config.init(0, &device()).unwrap(), |name, values| {
        values.fill(if name == "embedding" || name.contains("norm") { 1.0 } else { 0.0 });
        if name == "head" {
            values[5 * 16..6 * 16].fill(1.0)
        }
    });
    let scores = needle_accuracy(&model, &task, &[0.0, 1.0], &[16, 700], 12).unwrap();
    assert_eq!(scores.len(), 4);
    let answers = task.at_depth(0, 0.0, 12, 16);
    let share = (0..12).filter(|row| answers.targets[row * 16 + 15] == 5).count() as f64 / 12.0;
    assert!(close(scores[0].accuracy, share) && scores[0].accuracy == scores[1].accuracy, "{scores:?}, {share}");
    assert!(needle_accuracy(&model, &task, &[0.5], &[4], 3).is_err());
    assert!(needle_accuracy(&model, &task, &[1.5], &[16], 3).is_err());
    let none = needle_accuracy(&model, &task, &[0.5], &[16], 0).unwrap_err().to_string();
    assert!(none.contains("trials must be at least 1, got 0"), "{none}");
}

#[test]
fn a_report_has_the_tables_that_the_model_has_parts_for() {
    let names = |variant| {
        let report = Report::new(&model(variant), &[batch(1, 8)], &[4]).unwrap();
        report.frames().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("baseline"), ["first_token_mass", "activations", "decode"]);
    assert_eq!(names("differential"), ["first_token_mass", "activations", "lambdas", "decode"]);
    assert_eq!(names("gated-delta"), ["first_token_mass", "activations", "gates", "decays", "state_norms", "decode"]);
    let dir = tempfile::tempdir().unwrap();
    let report = Report::new(&model("gated"), &[batch(1, 8)], &[]).unwrap();
    report.save(dir.path()).unwrap();
    assert_eq!(crate::read_parquet(&dir.path().join("gates.parquet")).unwrap().height(), 2);
    assert!(dir.path().join("report.json").exists());
    assert!(report.to_string().contains("sink rate"));
}

#[test]
fn a_report_prints_every_row_of_its_tables() {
    let mut report = Report::new(&model("baseline"), &[batch(1, 8)], &[]).unwrap();
    let row = |i: usize| HeadMass {
        layer: i / 4,
        head: i % 4,
        mass: 0.5 + i as f64 / 100.0,
        signed: 0.25,
        positive: None,
        negative: Some(-1e-9),
    };
    report.first_token_mass = (0..16).map(row).collect();
    let text = report.to_string();
    let after = text.lines().skip_while(|line| *line != "first token mass").skip(1);
    let table: Vec<&str> = after.take_while(|line| !line.is_empty()).collect();
    assert_eq!(table.len(), 1 + 16, "{text}");
    assert_eq!(table[0], "layer  head  mass  signed  positive  negative");
    assert_eq!(table[16], "3      3     0.65  0.25    –         -1e-9");
}

#[test]
fn every_variant_of_the_catalogue_can_be_probed() {
    for variant in zoo::presets::VARIANTS {
        let model = model(variant);
        let report = Report::new(&model, &[batch(2, 9)], &[4]).unwrap();
        let drawn = patterns(&model, &[1, 2, 3]).unwrap();
        let heads = drawn.iter().filter(|pattern| pattern.name == "pattern").count();
        assert!(heads > 0, "{variant}: no pattern to draw");
        assert_eq!(report.first_token_mass.len(), heads, "{variant}");
        let shares = |row: &HeadMass| (0.0..=1.0).contains(&row.mass);
        assert!(report.first_token_mass.iter().all(shares), "{variant}: {:?}", report.first_token_mass);
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let error = patterns(&model("baseline"), &[1, 2, 99]).unwrap_err().to_string();
    assert!(error.contains("99") && error.contains("40"), "{error}");
}
