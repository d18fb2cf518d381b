//! The Hub path against a small server of our own that says just what `hf-hub` asks for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::time::Instant;

use super::*;
use crate::Dataset;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the dataset `zoo/animals` with these files.
struct Server {
    endpoint: String,
    bodies_sent: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
}

impl Server {
    fn start(files: &[(&str, impl AsRef<[u8]>)]) -> Self {
        let files: Arc<BTreeMap<String, Vec<u8>>> =
            Arc::new(files.iter().map(|(name, bytes)| ((*name).into(), bytes.as_ref().to_vec())).collect());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (bodies_sent, down) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (sent, closed) = (bodies_sent.clone(), down.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    return; // dropping the listener refuses what comes
                }
                let (files, sent) = (files.clone(), sent.clone());
                std::thread::spawn(move || answer(&stream, &files, &sent));
            }
        });
        Self { endpoint, bodies_sent, down }
    }

    /// From now on connections are refused.
    fn stop(&self) {
        self.down.store(true, Ordering::SeqCst);
        let address = self.endpoint.trim_start_matches("http://");
        let _ = TcpStream::connect(address); // wakes the listener
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn answer(mut stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>, sent: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let _ = lines.take_while(|line| !line.is_empty()).count();
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("").replace("%20", " ");

    let api = path.strip_prefix("/api/datasets/zoo/animals/");
    let file = path.strip_prefix(&format!("/datasets/zoo/animals/resolve/{COMMIT}/"));
    let (status, headers, body) = match (api, file) {
        (Some("revision/main"), _) => {
            ("200 OK", String::new(), format!(r#"{{"id": "zoo/animals", "sha": "{COMMIT}"}}"#).into_bytes())
        }
        (Some(tree), _) if tree == "tree/main" || tree == format!("tree/{COMMIT}") => {
            let entries: Vec<String> = files
                .iter()
                .map(|(name, bytes)| {
                    let size = bytes.len();
                    format!(r#"{{"type": "file", "oid": "0", "size": {size}, "path": "{name}"}}"#)
                })
                .collect();
            ("200 OK", String::new(), format!("[{}]", entries.join(",")).into_bytes())
        }
        (_, Some(name)) if files.contains_key(name) => {
            let tag = name.replace(['/', '.', ' '], "_");
            if method == "GET" {
                sent.fetch_add(1, Ordering::SeqCst);
            }
            let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
            ("200 OK", headers, files[name].clone())
        }
        _ => ("404 Not Found", String::new(), b"{}".to_vec()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let body = if method == "HEAD" { Vec::new() } else { body };
    let _ = stream.write_all(&[head.into_bytes(), body].concat());
}

fn config(endpoint: &str, cache: &tempfile::TempDir) -> HubConfig {
    HubConfig {
        endpoint: Some(endpoint.to_owned()),
        cache: Some(cache.path().to_owned()),
        ..HubConfig::new("zoo/animals")
    }
}

/// As [`open`], with short limits and without looking at the environment.
fn fetch(config: &HubConfig) -> Result<Corpus, DatasetError> {
    let (answer_within, silence) = (Duration::from_secs(5), Duration::from_secs(5));
    Fetch::new(config, false, answer_within, silence)?.corpus()
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
    let (server, cache) = (Server::start(&ANIMALS), tempfile::tempdir().unwrap());
    let config = config(&server.endpoint, &cache);
    let corpus = fetch(&config).unwrap();
    assert_eq!(corpus.train_text(), "ants, bees and crickets\neels are fish\n");
    assert_eq!(corpus.validation_text(), "a dodo\n");
    assert_eq!(corpus.name(), "zoo/animals");
    assert_eq!(server.bodies_sent.load(Ordering::SeqCst), 3, "not the card, not the picture");

    let again = fetch(&config).unwrap();
    assert_eq!(server.bodies_sent.load(Ordering::SeqCst), 3);
    assert_eq!(again.describe(), corpus.describe());

    // Unplugged, and told to be offline: the same text.
    server.stop();
    assert_eq!(fetch(&config).unwrap().describe(), corpus.describe());
    let limit = Duration::from_secs(5);
    let offline = Fetch::new(&config, true, limit, limit).unwrap();
    assert_eq!(offline.corpus().unwrap().describe(), corpus.describe());
}

#[test]
fn the_cap_leaves_files_out_and_says_when_none_fits() {
    let (server, cache) = (Server::start(&ANIMALS), tempfile::tempdir().unwrap());
    let config = HubConfig { bytes: 40, ..config(&server.endpoint, &cache) };
    // 24 bytes fit, then the 19 of valid.jsonl do not, then 14 do.
    let corpus = fetch(&config).unwrap();
    let text = format!("{}{}", corpus.train_text(), corpus.validation_text());
    assert!(corpus.describe().contains("2 text files"), "{}", corpus.describe());
    assert!(text.contains("ants") && !text.contains("dodo"), "{text}");
    assert_eq!(server.bodies_sent.load(Ordering::SeqCst), 2);
    let message = refused(&HubConfig { bytes: 5, ..config });
    assert!(message.contains("notes[1].md (14 B)") && message.contains("bytes = 5"), "{message}");
}

#[test]
fn a_dataset_without_text_names_what_was_found() {
    let files = [("README.md", "card"), ("images.tar", "bytes")];
    let (server, cache) = (Server::start(&files), tempfile::tempdir().unwrap());
    let message = refused(&config(&server.endpoint, &cache));
    for part in ["zoo/animals", "images.tar", ".jsonl", ".parquet"] {
        assert!(message.contains(part), "{message}");
    }
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
    let (server, cache) = (Server::start(&files), tempfile::tempdir().unwrap());
    let config = HubConfig { subset: "birds/".into(), field: "story".into(), ..config(&server.endpoint, &cache) };
    let corpus = fetch(&config).unwrap();
    assert_eq!((corpus.train_text(), corpus.validation_text()), ("a crow\n", "a heron\n"));
    assert_eq!(server.bodies_sent.load(Ordering::SeqCst), 2);
    let message = refused(&HubConfig { subset: "mammals/".into(), ..config });
    assert!(message.contains("`mammals/`") && message.contains("birds/train-0.parquet"), "{message}");
}

#[test]
fn a_name_that_does_not_exist_says_so() {
    let (server, cache) = (Server::start(&ANIMALS), tempfile::tempdir().unwrap());
    let config = HubConfig { name: "zoo/plants".into(), ..config(&server.endpoint, &cache) };
    let message = refused(&config);
    for part in ["zoo/plants", &server.endpoint, "does not exist", "main"] {
        assert!(message.contains(part), "{message}");
    }
    let message = refused(&HubConfig { name: " ".into(), ..config });
    assert!(message.contains("owner/name"), "{message}");
}

#[test]
fn offline_fails_fast_and_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let message = refused(&config("http://127.0.0.1:9", &cache));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for part in ["zoo/animals", "http://127.0.0.1:9", "HF_HUB_OFFLINE", "HF_ENDPOINT", "path"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.contains(&cache.path().display().to_string()), "{message}");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts, and says nothing
    let cache = tempfile::tempdir().unwrap();
    let config = config(&format!("http://{}", listener.local_addr().unwrap()), &cache);
    let started = Instant::now();
    let limit = Duration::from_millis(300);
    let message = Fetch::new(&config, false, limit, limit).unwrap().corpus().unwrap_err();
    assert!(message.to_string().contains("no answer within 0.3 s"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
