//! The claims of `compare`.

use super::*;
use crate::train::HistoryRow;
use crate::{History, Run, TrainConfig};
use datasets::{DatasetConfig, MqarConfig};
use zoo::ModelConfig;

fn base() -> TrainConfig {
    let pattern = zoo::presets::pattern("baseline", 2).unwrap();
    let model = ModelConfig { vocab_size: 32, ..ModelConfig::new(16, 100, 2, pattern) };
    let data = DatasetConfig::Mqar(MqarConfig { vocab_size: 32, pairs: 2, time: 16, ..MqarConfig::default() });
    TrainConfig {
        data,
        steps: 6,
        batch: 4,
        time: 16,
        warmup: 2,
        eval_every: 3,
        eval_batches: 2,
        ..TrainConfig::new("base", model)
    }
}

fn variant(name: &str, kind: &str) -> Variant {
    let model = ModelConfig { pattern: zoo::presets::pattern(kind, 2).unwrap(), ..base().model };
    Variant { name: name.into(), model }
}

fn run(variant: &str, seed: u64, losses: &[f64]) -> VariantRun {
    let row = |(i, &loss): (usize, &f64)| HistoryRow {
        step: i + 1,
        tokens: 100 * (i + 1),
        train_loss: loss,
        validation_loss: Some(loss),
        accuracy: Some(0.5),
        learning_rate: 1e-3,
        gradient_norm: 1.0,
        tokens_per_second: 50.0,
        seconds: 2.0 * (i + 1) as f64,
    };
    let history = History { rows: losses.iter().enumerate().map(row).collect() };
    VariantRun { variant: variant.into(), seed, parameters: 1000, history, model: None, diverged: None }
}

#[test]
fn a_paired_difference_is_surer_than_the_means_where_seeds_move_both_alike() {
    let runs = vec![
        run("a", 0, &[3.0, 1.0]),
        run("b", 0, &[3.0, 0.9]),
        run("a", 1, &[3.0, 2.0]),
        run("b", 1, &[3.0, 1.9]),
        run("a", 2, &[3.0, 3.0]),
        run("b", 2, &[3.0, 2.9]),
    ];
    let comparison = Comparison::from_runs(runs).unwrap();
    let rows = comparison.summary();
    let loss = rows[0].loss.unwrap();
    assert_eq!((rows[0].variant.as_str(), loss.mean, rows[0].difference), ("a", 2.0, None));
    assert!((loss.half_width.unwrap() - 2.484).abs() < 1e-3);
    let difference = rows[1].difference.unwrap();
    assert!((difference.mean + 0.1).abs() < 1e-9 && difference.half_width.unwrap() < 1e-9);
    assert_eq!(rows[1].tokens_per_second, Some(50.0));
    let text = comparison.to_string();
    assert!(text.contains("2.0000 ± 2.4842") && text.contains("-0.1000 ± 0.0000 *"), "{text}");
    let curves = comparison.curves();
    assert_eq!((&curves[0].steps, &curves[0].mean), (&vec![1.0, 2.0], &vec![3.0, 2.0]));
    assert!((curves[0].high[1] - 4.484).abs() < 1e-3 && curves[0].low[0] == 3.0);
}

#[test]
fn with_one_seed_the_interval_is_null_not_zero() {
    let comparison = Comparison::from_runs(vec![run("a", 0, &[1.0]), run("b", 0, &[2.0])]).unwrap();
    assert!(comparison.to_string().contains("one seed"), "{comparison}");
    let frame = comparison.frame();
    for column in ["loss_ci95", "difference_ci95"] {
        assert_eq!(frame.column(column).unwrap().null_count(), 2, "{column}");
    }
    assert_eq!(frame.column("difference").unwrap().f64().unwrap().get(1), Some(1.0));
}

#[test]
fn seeds_that_the_baseline_lacks_do_not_enter_the_difference() {
    let comparison =
        Comparison::from_runs(vec![run("a", 0, &[1.0]), run("b", 0, &[2.0]), run("b", 1, &[9.0])]).unwrap();
    let row = &comparison.summary()[1];
    assert_eq!((row.seeds, row.difference.unwrap().count, row.difference.unwrap().mean), (2, 1, 1.0));
}

#[test]
fn a_run_that_diverges_is_told_and_the_others_are_compared() {
    // The matrices of `wild` are so large that its logits overflow.
    let mut wild = variant("wild", "baseline");
    wild.model.init_std = 1e30;
    let config = CompareConfig { base: base(), variants: vec![wild, variant("tame", "baseline")], seeds: vec![0, 1] };
    let comparison = compare(&config, &Device::flex()).unwrap();
    let rows = comparison.summary();
    assert_eq!((rows[0].variant.as_str(), rows[0].seeds, rows[0].diverged, rows[0].loss), ("wild", 0, 2, None));
    assert_eq!((rows[1].seeds, rows[1].diverged, rows[1].difference), (2, 0, None));
    let text = comparison.to_string();
    assert!(text.contains("wild with seed 1 diverged: step 1 of `wild-seed1`"), "{text}");
    assert_eq!(comparison.curves().iter().map(|curve| curve.variant.as_str()).collect::<Vec<_>>(), ["tame"]);
    assert!(comparison.frame().column("loss").unwrap().null_count() == 1);
    comparison.save(tempfile::tempdir().unwrap().path()).unwrap();
}

#[test]
fn a_run_whose_validation_loss_is_no_number_has_diverged_and_enters_no_mean() {
    let config = base();
    let of = |losses: &[f64], seed| Run {
        config: TrainConfig { seed, ..config.clone() },
        model: config.model.init(0, &Device::flex()).unwrap(),
        history: run("a", seed, losses).history,
        interrupted: false,
        dir: None,
    };
    let runs = vec![
        VariantRun::of("a", &of(&[3.0, 2.0], 0)),
        VariantRun::of("a", &of(&[3.0, f64::NAN], 1)),
        VariantRun::of("a", &of(&[f64::INFINITY, 2.0], 2)),
    ];
    let comparison = Comparison::from_runs(runs).unwrap();
    let row = &comparison.summary()[0];
    assert_eq!((row.seeds, row.diverged, row.loss.unwrap().mean), (1, 2, 2.0));
    assert_eq!(comparison.curves()[0].mean, [3.0, 2.0]);
    assert!(comparison.runs[0].model.is_some() && comparison.runs[1].model.is_none());
    let text = comparison.to_string();
    assert!(text.contains("a with seed 1 diverged: validation loss NaN after step 2"), "{text}");
}

#[test]
fn a_variant_compared_with_itself_differs_by_exactly_nothing() {
    // Holds only if weights, data and their order are the same for every variant of a seed.
    let config = CompareConfig {
        base: base(),
        variants: vec![variant("one", "gated"), variant("two", "gated")],
        seeds: vec![0, 1],
    };
    let comparison = compare(&config, &Device::flex()).unwrap();
    let difference = comparison.summary()[1].difference.unwrap();
    assert_eq!((difference.mean, difference.half_width, difference.count), (0.0, Some(0.0), 2));
    let losses: Vec<f64> = comparison.runs.iter().map(|run| run.history.validation_loss().unwrap()).collect();
    assert_ne!(losses[0], losses[2], "another seed is another run");
    assert!(comparison.model("two").is_some() && comparison.model("three").is_none());
    let dir = tempfile::tempdir().unwrap();
    comparison.save(dir.path()).unwrap();
    assert_eq!(crate::read_parquet(&dir.path().join("comparison.parquet")).unwrap().height(), 2);
    assert_eq!(crate::read_parquet(&dir.path().join("two-seed1.parquet")).unwrap().height(), 6);
}

#[test]
fn all_variants_get_the_parameters_of_the_first_to_within_one_percent() {
    let names = ["baseline", "gated", "differential", "differential-v2", "gated-delta", "hybrid"];
    let config =
        CompareConfig { base: base(), variants: names.map(|name| variant(name, name)).to_vec(), seeds: vec![0] };
    let matched = config.matched().unwrap();
    let target = matched[0].model.parameters();
    assert_eq!(matched[0], config.variants[0]);
    for variant in &matched {
        let parameters = variant.model.parameters();
        assert!(parameters.abs_diff(target) * 100 <= target, "{}: {parameters}, not {target}", variant.name);
    }
}

#[test]
fn what_cannot_be_compared_is_named() {
    let message = |result: Result<CompareConfig, crate::LabError>| result.unwrap_err().to_string();
    let unknown = message(CompareConfig::presets(base(), &["baseline", "linear"], "tiny", &[0]));
    assert!(unknown.contains("linear") && unknown.contains("differential-v2"), "{unknown}");
    assert!(message(CompareConfig::presets(base(), &["baseline"], "huge", &[0])).contains("tiny"));
    assert!(message(CompareConfig::presets(base(), &[], "tiny", &[0])).contains("at least one"));
    assert!(message(CompareConfig::presets(base(), &["gated", "gated"], "tiny", &[0])).contains("gated"));
    assert!(message(CompareConfig::presets(base(), &["gated"], "tiny", &[4, 4])).contains("seed 4"));
    let mut bad = variant("bad", "baseline");
    bad.model.d_model = 0;
    let with =
        |second| CompareConfig { base: base(), variants: vec![variant("good", "gated"), second], seeds: vec![0] };
    let of_bad = with(bad).matched().unwrap_err().to_string();
    assert!(of_bad.contains("variant `bad`") && of_bad.contains("d_model"), "{of_bad}");
    // Even without a feed-forward layer it has more parameters than the baseline.
    let mut large = variant("large", "baseline");
    large.model.vocab_size = 10_000;
    let of_large = with(large).matched().unwrap_err().to_string();
    assert!(of_large.contains("variant `large`"), "{of_large}");
    assert!(Comparison::from_runs(vec![]).is_err());
    assert!(Comparison::from_runs(vec![run("a", 0, &[1.0]), run("a", 0, &[1.0])]).is_err());
    assert!(Comparison::from_runs(vec![run("a", 0, &[])]).is_err());
}
