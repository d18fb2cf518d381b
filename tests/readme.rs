//! The README's table of variants is made from the catalogue, its numbers from the models.
//!
//! `UPDATE_README=1 cargo test --workspace --test readme` writes it anew.

use attention::prelude::*;
use std::path::Path;
use zoo::catalogue::CATALOGUE;

const BEGIN: &str = "<!-- variants: made by tests/readme.rs -->\n";
const END: &str = "<!-- end of variants -->";

/// What a block's mixer costs on average: its parameters, the bytes its cache grows by with every token,
/// and the bytes it holds whatever the length.
fn cost(preset_name: &str) -> (usize, usize, usize) {
    // A head that drafts is no block.
    let config = ModelConfig { mtp: None, ..preset(preset_name, "small").unwrap() };
    let model = config.init(0, &Device::flex()).unwrap();
    let mut cache = model.cache();
    let bytes: Vec<usize> = (0..12)
        .map(|id| {
            model.step(model.tokens(&[id], [1, 1]).unwrap(), &mut cache, &mut Silent);
            cache.iter().map(Cache::bytes).sum()
        })
        .collect();
    // The first tokens fill windows that then stay as they are.
    let growth = bytes[11] - bytes[10];
    let parameters = config.parameters() - config.parameters_beside_mixers();
    (parameters / config.layers, growth / cache.len(), (bytes[11] - 12 * growth) / cache.len())
}

fn table() -> String {
    let mut text = String::from(
        "| `preset` | what it is | definition | source | parameters¹ | decode memory² | loads |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for entry in CATALOGUE {
        let (parameters, growth, constant) = cost(entry.preset);
        let memory = match (growth, constant) {
            (growth, 0) => format!("{growth} B a token"),
            (0, constant) => format!("{constant} B"),
            (growth, constant) => format!("{constant} B + {growth} B a token"),
        };
        let name = entry.file.rsplit('/').next().unwrap();
        text += &format!(
            "| `{}` | {} | [`{name}`](zoo/src/{}) | {} | {parameters} | {memory} | {} |\n",
            entry.preset, entry.idea, entry.file, entry.source, entry.checkpoints
        );
    }
    text
}

#[test]
fn the_table_of_variants_is_what_the_models_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let start = readme.find(BEGIN).expect("the table's beginning is marked") + BEGIN.len();
    let end = readme.find(END).expect("the table's end is marked");
    let table = table();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &readme[..start], &readme[end..])).unwrap();
        return;
    }
    assert_eq!(&readme[start..end], table, "run UPDATE_README=1 cargo test --workspace --test readme");
    for entry in CATALOGUE {
        assert!(root.join("zoo/src").join(entry.file).exists(), "{}: no file {}", entry.preset, entry.file);
    }
}
