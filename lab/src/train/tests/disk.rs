use super::*;
use std::fs;
use std::path::{Path, PathBuf};

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { all.push((path.clone(), fs::read(&path).unwrap())) }
        }
    }
    all.sort();
    all
}

#[test]
fn a_config_determines_the_run_to_the_last_bit() {
    let config = small("twice", 12);
    let runs = [0, 1].map(|_| trainer(&config).run().unwrap());
    assert_eq!(bits_of(&runs[0].history), bits_of(&runs[1].history));
    let other = TrainConfig { seed: 1, ..config };
    assert_ne!(bits_of(&runs[0].history), bits_of(&trainer(&other).run().unwrap().history));
}

#[test]
fn resuming_equals_never_having_stopped() {
    let config = TrainConfig { checkpoint_every: 6, ..small("resumed", 20) };
    let whole = trainer(&config).run().unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Stopped at 9 (a checkpoint is left there) and at 14, each time in a new trainer.
    for stop in [9, 14] {
        let part = trainer(&config).runs_dir(dir.path()).unwrap().run_until(stop).unwrap();
        assert_eq!(part.history.step(), stop);
    }
    let resumed = Trainer::resume(dir.path().join("resumed"), &device()).unwrap().quiet().run().unwrap();
    assert_eq!(bits_of(&resumed.history), bits_of(&whole.history));
    let weights = [&resumed.model, &whole.model].map(zoo::checkpoint::tensors);
    assert!(weights[0].iter().all(|(name, data)| data.as_bytes() == weights[1][name].as_bytes()));
    // What is on disk is that run, too, and a finished run trains no further.
    let loaded = Run::load(dir.path().join("resumed"), &device()).unwrap();
    assert_eq!(bits_of(&loaded.history), bits_of(&whole.history));
    let again = trainer(&config).runs_dir(dir.path()).unwrap().run().unwrap();
    assert_eq!(again.history, resumed.history);
    let metrics = crate::read_parquet(&dir.path().join("resumed/metrics.parquet")).unwrap();
    assert_eq!(metrics.height(), 20);
}

#[test]
fn steps_made_one_by_one_are_evaluated_at_the_end_and_kept() {
    let config = small("single", 4);
    let dir = tempfile::tempdir().unwrap();
    let mut single = trainer(&config).runs_dir(dir.path()).unwrap();
    let run = dir.path().join("single");
    let kept = || checkpoints(&run).unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>();
    single.run_until(0).unwrap();
    assert_eq!(kept(), [0; 0], "before the first step there is nothing to keep");
    single.step().unwrap();
    single.step().unwrap();
    single.run_until(2).unwrap();
    assert_eq!(kept(), [2]);
    single.step().unwrap();
    single.step().unwrap();
    let history = single.run().unwrap().history;
    assert_eq!(bits_of(&history), bits_of(&trainer(&config).run().unwrap().history));
    assert!(history.validation_loss().is_some());
    assert_eq!(kept(), [2, 4]);
    assert_eq!(bits_of(&Run::load(&run, &device()).unwrap().history), bits_of(&history));
    assert_eq!(crate::read_parquet(&run.join("metrics.parquet")).unwrap().height(), 4);
}

const FOLDER: &str = "ATTENTION_ZOO_FOUND_TEST";

/// The child process: two steps of a run, whether it was begun or not. Does nothing in an ordinary test run.
#[test]
fn child_of_the_test_of_runs_that_are_found() {
    if let Some(dir) = std::env::var_os(FOLDER) {
        let mut trainer = trainer(&small("found", 4)).runs_dir(dir).unwrap();
        trainer.run_until(trainer.history().step() + 2).unwrap();
    }
}

#[test]
fn a_run_that_is_found_is_told_even_where_training_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let said = [(); 3].map(|()| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "train::tests::disk::child_of_the_test_of_runs_that_are_found", "--nocapture"])
            .env(FOLDER, dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    });
    let run = format!("`{}`", dir.path().join("found").display());
    assert!(!said[0].contains(&run), "{}", said[0]);
    assert!(said[1].contains(&format!("goes on from step 2 of 4 of {run}")), "{}", said[1]);
    assert!(said[2].contains(&format!("{run} is finished already, at step 4: nothing is trained")), "{}", said[2]);
}

#[test]
fn the_last_two_checkpoints_are_kept() {
    let config = TrainConfig { checkpoint_every: 2, eval_every: 0, ..small("kept", 9) };
    let dir = tempfile::tempdir().unwrap();
    let run = trainer(&config).runs_dir(dir.path()).unwrap().run().unwrap();
    let steps: Vec<usize> = checkpoints(run.dir.as_ref().unwrap()).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [8, 9]);
    let (model, decoder) = zoo::checkpoint::load(&run.dir.unwrap().join("step-000009"), &device()).unwrap();
    assert_eq!(model, config.model);
    assert_eq!(decoder.vocab_size(), 32);
}

#[test]
fn another_config_of_the_same_name_is_refused_and_nothing_is_overwritten() {
    let config = small("taken", 4);
    let dir = tempfile::tempdir().unwrap();
    trainer(&config).runs_dir(dir.path()).unwrap().run().unwrap();
    let before = files(dir.path());
    let mut other = TrainConfig { learning_rate: 1e-2, ..config };
    other.model.d_ff = 48;
    let error = message(trainer(&other).runs_dir(dir.path()).map(|_| ()));
    assert!(error.contains("learning_rate, model.d_ff") && error.contains("taken"), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let config = small("damaged", 3);
    let dir = tempfile::tempdir().unwrap();
    trainer(&config).runs_dir(dir.path()).unwrap().run().unwrap();
    let run = dir.path().join("damaged");
    for name in ["model.safetensors", "optimizer.safetensors", "history.parquet"] {
        let path = run.join("step-000003").join(name);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[..16].fill(0xff);
        for bad in [&good[..good.len() / 2], &good[..3], &[], &flipped] {
            fs::write(&path, bad).unwrap();
            let error = message(Trainer::resume(&run, &device()).map(|_| ()));
            assert!(error.contains(name), "{name}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        fs::remove_file(&path).unwrap();
        let error = message(Trainer::resume(&run, &device()).map(|_| ()));
        assert!(error.contains(name), "{name}: {error}");
        fs::write(&path, &good).unwrap();
    }
    assert!(Trainer::resume(&run, &device()).is_ok());
    fs::write(run.join("config.json"), "{").unwrap();
    assert!(message(Trainer::resume(&run, &device()).map(|_| ())).contains("config.json"));
}

#[test]
fn a_run_without_a_checkpoint_or_without_a_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = trainer(&small("empty", 3)).runs_dir(dir.path()).unwrap();
    assert!(message(Trainer::resume(dir.path().join("empty"), &device()).map(|_| ())).contains("empty"));
    assert!(message(Trainer::resume(dir.path().join("absent"), &device()).map(|_| ())).contains("absent"));
    drop(trainer);
}

#[test]
fn two_trainers_cannot_write_one_run_at_the_same_time() {
    let config = small("busy", 3);
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&config).runs_dir(dir.path()).unwrap();
    let lock = trainer.files.as_ref().unwrap().lock().unwrap();
    assert!(message(trainer.run()).contains("another process"));
    drop(lock);
    trainer.run().unwrap();
}

#[test]
fn a_text_that_changed_since_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    let write = |word: &str| fs::write(&path, word.repeat(400)).unwrap();
    write("some text; ");
    let data = DatasetConfig::Corpus(datasets::CorpusConfig::Path(datasets::PathConfig::new(path.clone())));
    let model = ModelConfig { vocab_size: 256, ..small("text", 3).model };
    let config = TrainConfig { data, model, ..small("text", 3) };
    let runs = dir.path().join("runs");
    trainer(&config).runs_dir(&runs).unwrap().run_until(2).unwrap();
    write("other text;");
    let error = message(trainer(&config).runs_dir(&runs).map(|_| ()));
    assert!(error.contains("other data"), "{error}");
    write("some text; ");
    assert_eq!(trainer(&config).runs_dir(&runs).unwrap().history().step(), 2);
}
