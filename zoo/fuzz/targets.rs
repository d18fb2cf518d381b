//! What is fed to the loaders. Whatever the bytes are: an error or a model, never a panic.
//!
//! `cargo fuzz` calls these functions with bytes it makes up, `zoo/tests/hostile.rs` with those that
//! are kept in `corpus/`.
#![allow(dead_code)] // every target uses its own

use burn::module::Module;
use burn::tensor::Device;
use std::path::Path;
use zoo::{Decoder, ModelConfig, Record, Silent, checkpoint, pretrained};

/// Larger and deeper models are described only: what is looked for shows in small ones.
const MOST_PARAMETERS: usize = 60_000;
const MOST_BLOCKS: usize = 64;

/// Between the files of a directory.
pub const NEXT: &[u8] = b"\n====\n";

/// A safetensors file. Returns whether it can be read.
pub fn safetensors(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write(&path, bytes);
    checkpoint::read(&path).is_ok()
}

/// A configuration of ours, and the model of it.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(config) = ModelConfig::from_json(&String::from_utf8_lossy(bytes)) else { return false };
    let described = config.parameters();
    if described > MOST_PARAMETERS || config.layers > MOST_BLOCKS {
        return true;
    }
    let model = config.init(0, &Device::flex()).expect("what is valid can be made");
    assert_eq!(model.num_params(), described);
    if model.depth() <= MOST_BLOCKS {
        run(&model);
    }
    true
}

/// A directory of Hugging Face's: `config.json`, the index of shards and `model.safetensors` with
/// [`NEXT`] between them; the last ones may be absent, and an empty one is.
pub fn pretrained(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rest = bytes;
    for name in ["config.json", "model.safetensors.index.json", "model.safetensors"] {
        let end = match name {
            "model.safetensors" => None,
            _ => rest.windows(NEXT.len()).position(|window| window == NEXT),
        };
        let part = &rest[..end.unwrap_or(rest.len())];
        if !part.is_empty() {
            write(&folder.path().join(name), part);
        }
        rest = end.map_or(&[], |end| &rest[end + NEXT.len()..]);
    }
    // Ours, if the weights bear our names: the same bytes through the other loader.
    let _ = checkpoint::load(folder.path(), &Device::flex());
    let _ = pretrained::gpt_oss::attention(folder.path(), 0, &Device::flex());
    let Ok((config, model)) = pretrained::load(folder.path(), &Device::flex()) else { return false };
    if config.parameters() <= MOST_PARAMETERS && model.depth() <= MOST_BLOCKS {
        run(&model);
    }
    true
}

/// Three tokens at once, watched, the prediction head's answer too, and one after another.
fn run(model: &Decoder) {
    let ids = [0, 1, 2].map(|id| id % model.vocab_size() as i32);
    model.forward_ahead(model.tokens(&ids, [1, 3]).expect("in the vocabulary"), &mut Record::new(&["*"]));
    let mut cache = model.cache();
    for id in ids {
        model.step(model.tokens(&[id], [1, 1]).expect("in the vocabulary"), &mut cache, &mut Silent);
        cache.iter_mut().for_each(|cache| cache.advance(1));
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file in a folder of our own");
}
