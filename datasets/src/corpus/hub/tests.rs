//! The Hub's text against a small server of our own.

#[path = "../../../hub/tests/server/mod.rs"]
mod server;

use super::*;
use crate::Dataset;
use server::Server;

/// Serves the dataset `zoo/animals` with these files.
fn serve(files: &[(&str, impl AsRef<[u8]>)]) -> Server {
    Server::start("datasets", "zoo/animals", files)
}

fn config(endpoint: &str, cache: &tempfile::TempDir) -> HubConfig {
    HubConfig {
        endpoint: Some(endpoint.to_owned()),
        cache: Some(cache.path().to_owned()),
        ..HubConfig::new("zoo/animals")
    }
}

/// As [`open`], whatever the environment says about being offline.
fn fetch(config: &HubConfig) -> Result<Corpus, DatasetError> {
    corpus(config, &Repository { offline: false, ..repository(config)? })
}

fn refused(config: &HubConfig) -> String {
    fetch(config).unwrap_err().to_string()
}

const ANIMALS: [(&str, &str); 5] = [
    ("README.md", "the card, not text to learn from"),
    ("data/train one.txt", "ants, bees and crickets\n"),
    ("data/valid.jsonl", "{\"text\": \"a dodo\"}\n"),
    ("notes[1].md", "eels are fish\n"),
    ("picture.png", "not text"),
];

#[test]
fn text_files_are_fetched_once_and_then_come_from_the_cache() {
    let (server, cache) = (serve(&ANIMALS), tempfile::tempdir().unwrap());
    let config = config(&server.endpoint, &cache);
    let corpus = fetch(&config).unwrap();
    assert_eq!(corpus.train_text(), "ants, bees and crickets\neels are fish\n");
    assert_eq!(corpus.validation_text(), "a dodo\n");
    assert_eq!(corpus.name(), "zoo/animals");
    assert_eq!(server.sent().len(), 3, "not the card, not the picture");

    let again = fetch(&config).unwrap();
    assert_eq!(server.sent().len(), 3);
    assert_eq!(again.describe(), corpus.describe());

    // Unplugged, and told to be offline: the same text.
    server.stop();
    assert_eq!(fetch(&config).unwrap().describe(), corpus.describe());
    let offline = Repository { offline: true, ..repository(&config).unwrap() };
    assert_eq!(super::corpus(&config, &offline).unwrap().describe(), corpus.describe());
}

#[test]
fn the_cap_leaves_files_out_and_says_when_none_fits() {
    let (server, cache) = (serve(&ANIMALS), tempfile::tempdir().unwrap());
    let config = HubConfig { bytes: 40, ..config(&server.endpoint, &cache) };
    // 24 bytes fit, then the 19 of valid.jsonl do not, then 14 do.
    let corpus = fetch(&config).unwrap();
    let text = format!("{}{}", corpus.train_text(), corpus.validation_text());
    assert!(corpus.describe().contains("2 text files"), "{}", corpus.describe());
    assert!(text.contains("ants") && !text.contains("dodo"), "{text}");
    assert_eq!(server.sent().len(), 2);
    let message = refused(&HubConfig { bytes: 5, ..config.clone() });
    assert!(message.contains("notes[1].md (14 B)") && message.contains("bytes = 5"), "{message}");
    // Without a network, two files of three are no download of all.
    server.stop();
    assert_eq!(fetch(&config).unwrap().describe(), corpus.describe());
    let message = refused(&HubConfig { bytes: 64, ..config });
    assert!(message.contains("not complete in the cache"), "{message}");
}

#[test]
fn a_dataset_without_text_names_what_was_found() {
    let files = [("README.md", "card"), ("images.tar", "bytes")];
    let (server, cache) = (serve(&files), tempfile::tempdir().unwrap());
    let message = refused(&config(&server.endpoint, &cache));
    for part in ["zoo/animals", "images.tar", ".jsonl", ".parquet"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn held_out_text_is_not_trained_on_where_the_training_files_are_too_large() {
    let long = "ants, bees and crickets\n".repeat(10);
    let files = [("train.txt", long.as_str()), ("test.txt", "a dodo\n"), ("valid.txt", "an emu\n")];
    let (server, cache) = (serve(&files), tempfile::tempdir().unwrap());
    let all = config(&server.endpoint, &cache);
    let message = refused(&HubConfig { bytes: 100, ..all.clone() });
    for part in ["zoo/animals", "to train on", "bytes = 100", "train.txt", "raise `bytes`"] {
        assert!(message.contains(part), "{message}");
    }
    // What is left out of a corpus that has text to train on is told.
    let files = [("train one.txt", "ants and bees\n"), ("train two.txt", long.as_str()), ("valid.txt", "a dodo\n")];
    let (server, cache) = (serve(&files), tempfile::tempdir().unwrap());
    let corpus = fetch(&HubConfig { bytes: 100, ..config(&server.endpoint, &cache) }).unwrap();
    assert_eq!((corpus.train_text(), corpus.validation_text()), ("ants and bees\n", "a dodo\n"));
    let about = corpus.describe();
    assert!(about.contains("1 left out") && about.contains("train two.txt"), "{about}");
}

/// The usual shape of a dataset: a folder per configuration, Parquet inside.
#[test]
fn one_configuration_of_a_parquet_dataset_is_read_from_the_field_that_was_named() {
    let rows = |text: &str| {
        let mut bytes = Vec::new();
        let column = polars::prelude::Column::new("story".into(), [text]);
        let mut frame = polars::prelude::DataFrame::new(1, vec![column]).unwrap();
        polars::prelude::ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
        bytes
    };
    let files = [
        ("birds/train-0.parquet", rows("a crow")),
        ("birds/validation-0.parquet", rows("a heron")),
        ("fish/train-0.parquet", rows("an eel")),
    ];
    let (server, cache) = (serve(&files), tempfile::tempdir().unwrap());
    let config = HubConfig { subset: "birds/".into(), field: "story".into(), ..config(&server.endpoint, &cache) };
    let corpus = fetch(&config).unwrap();
    assert_eq!((corpus.train_text(), corpus.validation_text()), ("a crow\n", "a heron\n"));
    assert_eq!(server.sent().len(), 2);
    let message = refused(&HubConfig { subset: "mammals/".into(), ..config });
    assert!(message.contains("`mammals/`") && message.contains("birds/train-0.parquet"), "{message}");
}

#[test]
fn a_name_that_does_not_exist_or_is_empty_says_so() {
    let (server, cache) = (serve(&ANIMALS), tempfile::tempdir().unwrap());
    let config = HubConfig { name: "zoo/plants".into(), ..config(&server.endpoint, &cache) };
    let message = refused(&config);
    for part in ["zoo/plants", &server.endpoint, "does not exist", "main"] {
        assert!(message.contains(part), "{message}");
    }
    let message = refused(&HubConfig { name: " ".into(), ..config });
    assert!(message.contains("owner/name"), "{message}");
}
