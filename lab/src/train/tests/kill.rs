//! SIGKILL at any moment leaves the last complete checkpoint.

use super::*;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FOLDER: &str = "ATTENTION_ZOO_KILL_TEST";

/// A checkpoint at every step, so that most of the time goes into writing and removing them.
fn config() -> TrainConfig {
    TrainConfig { checkpoint_every: 1, eval_every: 7, ..small("killed", 400) }
}

/// The child process: trains until it is killed. Does nothing in an ordinary test run.
#[test]
fn child_of_the_kill_test() {
    if let Some(dir) = std::env::var_os(FOLDER) {
        trainer(&config()).runs_dir(dir).unwrap().run().unwrap();
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "train::tests::kill::child_of_the_kill_test", "--nocapture"])
        .env(FOLDER, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn latest(run: &Path) -> usize {
    checkpoints(run).ok().and_then(|all| Some(all.last()?.0)).unwrap_or(0)
}

#[test]
fn kill_at_any_moment_loses_no_complete_checkpoint_and_the_curve_goes_on_bit_for_bit() {
    const KILLS: u64 = 25;
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("killed");
    let mut half_made = 0;
    let mut best = 0;
    for kill in 0..KILLS {
        let mut child = start(dir.path());
        // Past the start: until it has written something new, and then a little further, each time
        // by another amount.
        let began = Instant::now();
        while latest(&run) <= best && began.elapsed() < Duration::from_secs(30) {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself after {best} steps");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(kill * 977 % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();

        let hidden = |name: String| name.starts_with(".step-");
        half_made += std::fs::read_dir(&run)
            .unwrap()
            .filter(|e| hidden(e.as_ref().unwrap().file_name().into_string().unwrap()))
            .count();
        let now = latest(&run);
        assert!(now > best, "no checkpoint was made after step {best}");
        best = now;
        for (step, path) in checkpoints(&run).unwrap() {
            let model = config().model.init(0, &device()).unwrap();
            let state = super::super::files::RunFiles::load(&path, &config(), model, &device()).unwrap();
            assert_eq!(state.history.step(), step);
        }
    }
    assert!(half_made > 0, "no kill fell into the writing of a checkpoint: the test tests nothing");
    let stop = best + 3;
    let resumed = Trainer::resume(&run, &device()).unwrap().quiet().run_until(stop).unwrap();
    let whole = trainer(&config()).run_until(stop).unwrap();
    assert_eq!(bits_of(&resumed.history), bits_of(&whole.history));
    println!("{KILLS} kills, {half_made} of them left a half-made or half-removed folder; {stop} steps");
}
