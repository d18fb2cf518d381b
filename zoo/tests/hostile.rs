//! Files that nobody should trust: the corpus that is kept for fuzzing (`zoo/fuzz`), and a few thousand
//! mutations of valid files. An error or a model, never a panic, and memory in proportion.
//!
//! `HOSTILE_SECONDS=600 cargo test -p zoo --test hostile` mutates for longer, from another seed each time.

mod common;
#[path = "../fuzz/targets.rs"]
mod targets;

use burn::tensor::Device;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zoo::*;

/// Counts what is allocated, and the most that was at once.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// For inputs of a few kB.
const MOST_BYTES: usize = 32 << 20;

type Target = fn(&[u8]) -> bool;
const TARGETS: [(&str, Target); 3] =
    [("safetensors", targets::safetensors), ("config", targets::config), ("pretrained", targets::pretrained)];

/// Whether the input is accepted.
///
/// # Errors
/// A panic, or more memory than any such input needs.
fn feed(target: Target, bytes: &[u8]) -> Result<bool, String> {
    let held = HELD.load(Relaxed);
    PEAK.store(held, Relaxed);
    let accepted = catch_unwind(AssertUnwindSafe(|| target(bytes))).map_err(|_| "a panic".to_string())?;
    match PEAK.load(Relaxed).saturating_sub(held) {
        most if most > MOST_BYTES => Err(format!("{} MB were taken", most >> 20)),
        _ => Ok(accepted),
    }
}

/// Memory is counted for the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn every_file_of_the_corpus_is_an_error_or_a_model() {
    let _turn = TURN.lock();
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 2, "{} holds next to nothing", folder.display());
        for path in files {
            let bytes = std::fs::read(&path).unwrap();
            let accepted = feed(target, &bytes).unwrap_or_else(|what| panic!("{}: {what}", path.display()));
            let valid = path.file_name().unwrap().to_string_lossy().starts_with("valid");
            assert_eq!(accepted, valid, "{}", path.display());
        }
    }
}

#[test]
fn mutations_of_valid_files_are_errors_or_models() {
    let _turn = TURN.lock();
    let longer: Option<u64> = std::env::var("HOSTILE_SECONDS").ok().map(|s| s.parse().expect("seconds"));
    let seed = if longer.is_some() { rand::rng().random() } else { 1 };
    let mut rng = StdRng::seed_from_u64(seed);
    let started = Instant::now();
    let (configs, directories) = (configs(), directories());
    let enough = |round: usize| match longer {
        Some(seconds) => started.elapsed() >= Duration::from_secs(seconds),
        None => round >= 1500,
    };
    let (mut round, mut accepted, mut failed) = (0, [0; 3], Vec::new());
    while !enough(round) && failed.len() < 20 {
        let directory = &directories[round % directories.len()];
        let inputs = [
            mutate_weights(&directory[2], &mut rng),
            mutate_json(&configs[round % configs.len()], &mut rng),
            mutate_directory(directory, &mut rng),
        ];
        for (i, ((name, target), bytes)) in TARGETS.into_iter().zip(inputs).enumerate() {
            if longer.is_some() {
                // What ends the process leaves its input behind.
                std::fs::write(std::env::temp_dir().join("hostile-last"), &bytes).unwrap();
            }
            match feed(target, &bytes) {
                Ok(yes) => accepted[i] += usize::from(yes),
                Err(what) => {
                    let path = std::env::temp_dir().join(format!("hostile-{name}-{seed:x}-{round}"));
                    std::fs::write(&path, &bytes).unwrap();
                    failed.push(format!("{}: {what}", path.display()));
                }
            }
        }
        round += 1;
    }
    println!("{round} rounds, accepted {accepted:?}");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(accepted.iter().all(|&count| count > round / 200), "{accepted:?} of {round}: too few get past the readers");
}

/// A configuration or weights that block, never end, or lead in a circle.
#[test]
#[cfg(unix)]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let directory = &directories()[0];
    let names = ["config.json", "model.safetensors.index.json", "model.safetensors"];
    for broken in 0..3 {
        for (i, name) in names.into_iter().enumerate() {
            std::fs::write(folder.path().join(name), &directory[i]).unwrap();
        }
        assert!(pretrained::load(folder.path(), &Device::flex()).is_ok());
        let path = folder.path().join(names[broken]);
        let refused = |what: &str| {
            let message = pretrained::load(folder.path(), &Device::flex()).map(drop).expect_err(what).to_string();
            assert!(message.contains(names[broken]), "{what}: {message}");
        };
        std::fs::remove_file(&path).unwrap();
        for (what, target) in [("a circle", path.as_path()), ("a device", Path::new("/dev/zero"))] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            refused(what);
            std::fs::remove_file(&path).unwrap();
        }
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused("a pipe");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refused("a folder");
        std::fs::remove_dir(&path).unwrap();
    }
}

/// Small configurations of every variant and of every shape of mixer.
fn configs() -> Vec<Vec<u8>> {
    let small = |config: ModelConfig| ModelConfig { vocab_size: 5, d_ff: 8, layers: config.pattern.len(), ..config };
    let presets = presets::VARIANTS.iter().map(|variant| small(preset(variant, "nano").unwrap()));
    let shapes =
        common::mixers().into_iter().map(|(_, mixer)| small(ModelConfig::new(common::D_MODEL, 8, 1, vec![mixer])));
    let experts = ExpertsConfig { per_token: 1, dense: vec![0], ..ExpertsConfig::new(2, 4) };
    let looped = LoopConfig { first: 1, last: Some(1), inject: true, halting: Some(0.1), ..LoopConfig::new(2) };
    let all = ModelConfig {
        mtp: Some(MixerConfig::Softmax(SoftmaxConfig::new(2))),
        experts: Some(experts),
        looped: Some(looped),
        zero_centred: true,
        ..small(preset("hybrid", "nano").unwrap())
    };
    presets.chain(shapes).chain([all]).map(|config| config.to_json().into_bytes()).collect()
}

/// Small directories of every family, saved here and those of the originals: `config.json`, index, weights.
fn directories() -> Vec<[Vec<u8>; 3]> {
    let folder = tempfile::tempdir().unwrap();
    let parts = |folder: &Path| {
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let names = checkpoint::read(&folder.join("model.safetensors")).unwrap().0;
        let map: serde_json::Map<_, _> = names.into_keys().map(|name| (name, "model.safetensors".into())).collect();
        [read("config.json"), json!({ "weight_map": map }).to_string().into_bytes(), read("model.safetensors")]
    };
    let mixer = |variant| presets::pattern(variant, 2).unwrap();
    let qk_norm = SoftmaxConfig { qk_norm: true, ..SoftmaxConfig::new(2) };
    let mixers = ["baseline", "gated", "gated-headwise", "differential"].map(mixer);
    let all = mixers.into_iter().chain([vec![MixerConfig::Softmax(qk_norm)]]).map(|pattern| {
        let norm_eps = if matches!(pattern[0], MixerConfig::Differential(_)) { 1e-5 } else { 1e-6 };
        let config = ModelConfig { vocab_size: 5, tied: false, norm_eps, ..ModelConfig::new(8, 4, 1, pattern) };
        pretrained::save(folder.path(), &config, &config.init(0, &Device::flex()).unwrap()).unwrap();
        parts(folder.path())
    });
    let originals = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/data");
    let originals =
        ["qwen3_next", "fla_gated_deltanet", "fla_kda", "gpt_oss_full"].map(|name| parts(&originals.join(name)));
    all.chain(originals).collect()
}

fn mutate_directory(parts: &[Vec<u8>; 3], rng: &mut StdRng) -> Vec<u8> {
    let mut parts = parts.clone();
    // Mostly without an index.
    if rng.random_ratio(2, 3) {
        parts[1].clear();
    }
    match rng.random_range(0..3) {
        1 if !parts[1].is_empty() => parts[1] = mutate_json(&parts[1], rng),
        2 => parts[2] = mutate_weights(&parts[2], rng),
        _ => parts[0] = mutate_json(&parts[0], rng),
    }
    parts.join(targets::NEXT)
}

fn mutate_weights(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    if rng.random_ratio(1, 3) {
        return mutate_bytes(bytes.to_vec(), rng);
    }
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = mutate_json(&bytes[8..8 + length], rng);
    [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat()
}

/// A few values of a JSON text replaced, removed or doubled, or its bytes changed.
fn mutate_json(text: &[u8], rng: &mut StdRng) -> Vec<u8> {
    if rng.random_ratio(1, 8) {
        return mutate_bytes(text.to_vec(), rng);
    }
    let mut value: Value = serde_json::from_slice(text).unwrap();
    for _ in 0..rng.random_range(1..4) {
        let places = count(&value);
        mutate_value(&mut value, &mut rng.random_range(0..places), rng);
    }
    value.to_string().into_bytes()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the value that is `place` steps away in the order of reading.
fn mutate_value(value: &mut Value, place: &mut usize, rng: &mut StdRng) -> bool {
    if *place == 0 {
        *value = another(value, rng);
        return true;
    }
    *place -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| mutate_value(item, place, rng)),
        Value::Object(fields) => fields.values_mut().any(|field| mutate_value(field, place, rng)),
        _ => false,
    }
}

fn another(value: &Value, rng: &mut StdRng) -> Value {
    let whole = [0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 4096, 1 << 20, 1 << 32, 1 << 53, 1 << 62, u64::MAX];
    let real = [0.0, -0.0, 1e-320, 1e-9, 0.3, 0.5, 1.0, 1.5, -1.0, 1e9, 1e300, f64::MAX, -f64::MAX];
    match (rng.random_range(0..8), value) {
        (0, _) => Value::Null,
        (1, _) => Value::String(value.to_string()),
        (2, Value::Object(fields)) if !fields.is_empty() => {
            let mut fields = fields.clone();
            let key = fields.keys().nth(rng.random_range(0..fields.len())).unwrap().clone();
            fields.remove(&key);
            Value::Object(fields)
        }
        (3, Value::Array(items)) => Value::Array([items.clone(), items.clone()].concat()),
        (_, Value::Object(_) | Value::Array(_)) if rng.random_ratio(3, 4) => value.clone(),
        (2, _) => json!([value]),
        (3, _) => json!(rng.random::<bool>()),
        (4, _) => json!(real[rng.random_range(0..real.len())]),
        (5, _) => json!(-(rng.random_range(0..10i64))),
        (_, Value::Number(number)) if number.is_f64() => json!(real[rng.random_range(0..real.len())]),
        _ => json!(whole[rng.random_range(0..whole.len())]),
    }
}

fn mutate_bytes(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let to = (at + rng.random_range(0..16)).min(bytes.len());
        match rng.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.truncate(bytes.len() - rng.random_range(0..9).min(bytes.len())),
        }
    }
    bytes
}
