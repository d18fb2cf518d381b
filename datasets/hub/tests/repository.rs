//! Downloads from a local server that speaks the Hub's language.

mod server;

use hub::{Entry, HubError, Kind, Repository};
use server::{COMMIT, Server};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILES: [(&str, &str); 3] =
    [("a.txt", "ants and bees"), ("b/c [1].txt", "crickets, all of them"), ("d.png", "no text")];

fn repository(endpoint: &str, cache: &tempfile::TempDir) -> Repository {
    let limit = Duration::from_secs(5);
    Repository {
        endpoint: endpoint.into(),
        cache: cache.path().into(),
        offline: false,
        answer_within: limit,
        silence: limit,
        ..Repository::new(Kind::Model, "zoo/animals")
    }
}

fn texts(entries: &[Entry]) -> Result<Vec<String>, HubError> {
    Ok(entries.iter().map(|entry| entry.path.clone()).filter(|path| path.ends_with(".txt")).collect())
}

fn fetch(repository: &Repository) -> Result<PathBuf, HubError> {
    repository.fetch(texts, |folder| folder.join("b/c [1].txt").exists())
}

fn refused(repository: &Repository, parts: &[&str]) {
    let message = fetch(repository).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message} should say {parts:?}");
}

fn assert_whole(folder: &Path) {
    for (name, text) in &FILES[..2] {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), *text);
    }
    assert!(!folder.join("d.png").exists(), "it was not chosen");
}

#[test]
fn chosen_files_are_fetched_once_and_then_come_from_the_cache() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let repository = repository(&server.endpoint, &cache);
    let folder = fetch(&repository).unwrap();
    assert_whole(&folder);
    assert!(folder.ends_with(COMMIT), "the folder is the commit's: {}", folder.display());
    assert_eq!(server.sent(), ["a.txt", "b/c [1].txt"]);
    assert_eq!(fetch(&repository).unwrap(), folder);
    assert_eq!(server.sent().len(), 2);

    // Unplugged, and told to be offline: the same folder.
    server.stop();
    assert_eq!(fetch(&repository).unwrap(), folder);
    assert_eq!(fetch(&Repository { offline: true, ..repository.clone() }).unwrap(), folder);
    // Not if it lacks what is asked for now, be it by the listing or, without one, by what the caller looks for.
    let all = |entries: &[Entry]| Ok::<_, HubError>(entries.iter().map(|entry| entry.path.clone()).collect());
    let lacking = repository.fetch(all, |_| true).unwrap_err();
    assert!(matches!(lacking, HubError::Offline { .. }), "{lacking}");
    std::fs::remove_dir_all(folder.ancestors().nth(2).unwrap().join("listings")).unwrap();
    assert_eq!(fetch(&repository).unwrap(), folder);
    let lacking = repository.fetch(texts, |folder| folder.join("d.png").exists()).unwrap_err();
    assert!(matches!(lacking, HubError::Offline { .. }), "{lacking}");
}

#[test]
fn an_interrupted_download_goes_on_where_it_broke_off() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let repository = repository(&server.endpoint, &cache);
    server.cut("b/c [1].txt");
    refused(&repository, &["zoo/animals", &server.endpoint, "run again"]);
    // What has come so far is no earlier download, though somebody who names a commit finds its folder.
    let commit = Repository { revision: COMMIT.into(), ..repository.clone() };
    server.cut("b/c [1].txt");
    assert!(commit.fetch(texts, |_| true).is_err());
    assert_whole(&fetch(&repository).unwrap());
    assert_eq!(server.sent(), ["a.txt", "b/c [1].txt", "b/c [1].txt", "b/c [1].txt"], "a.txt was complete");
}

#[test]
fn a_hub_that_is_busy_leaves_the_copy_in_use_and_one_that_refuses_does_not() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let (repository, none) = (repository(&server.endpoint, &cache), tempfile::tempdir().unwrap());
    let folder = fetch(&repository).unwrap();
    for busy in ["503 Service Unavailable", "429 Too Many Requests", "408 Request Timeout"] {
        server.answer_all(busy);
        assert_eq!(fetch(&repository).unwrap(), folder, "{busy}");
    }
    server.answer_all("503 Service Unavailable");
    refused(
        &Repository { cache: none.path().into(), ..repository.clone() },
        &["cannot fetch", "503", &server.endpoint],
    );
    for refusal in ["401 Unauthorized", "403 Forbidden", "404 Not Found"] {
        server.answer_all(refusal);
        assert!(matches!(fetch(&repository), Err(HubError::Refused { .. })), "{refusal}");
    }
}

#[test]
#[cfg(unix)]
fn a_listing_that_cannot_be_noted_is_no_refusal() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let repository = repository(&server.endpoint, &cache);
    let folder = fetch(&repository).unwrap();
    let listings = folder.ancestors().nth(2).unwrap().join("listings");
    std::fs::remove_dir_all(&listings).unwrap();
    std::fs::write(&listings, "in the way of the folder").unwrap();
    assert_eq!(fetch(&repository).unwrap(), folder);
}

#[test]
fn what_is_not_as_large_as_listed_is_refused_and_not_kept() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let repository = repository(&server.endpoint, &cache);
    server.spoil("a.txt");
    refused(&repository, &["a.txt", "11 bytes", "13"]);
    server.spoil("");
    assert_whole(&fetch(&repository).unwrap());
}

#[test]
fn a_repository_or_revision_that_does_not_exist_says_which() {
    let (server, cache) = (Server::start("models", "zoo/animals", &FILES), tempfile::tempdir().unwrap());
    let there = repository(&server.endpoint, &cache);
    let plants = Repository { name: "zoo/plants".into(), ..there.clone() };
    refused(&plants, &["model `zoo/plants`", &server.endpoint, "does not exist", "owner/name"]);
    refused(&Repository { revision: "v9".into(), ..there }, &["zoo/animals", "no revision `v9`", "main"]);
}

#[test]
fn offline_fails_fast_and_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let nobody = repository("http://127.0.0.1:9", &cache);
    let folder = cache.path().display().to_string();
    refused(&nobody, &["zoo/animals", "http://127.0.0.1:9", "HF_HUB_OFFLINE", "HF_ENDPOINT", "path", &folder]);
    refused(&Repository { offline: true, ..nobody }, &["HF_HUB_OFFLINE is set", &folder]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts, and says nothing
    let cache = tempfile::tempdir().unwrap();
    let silent = repository(&format!("http://{}", listener.local_addr().unwrap()), &cache);
    let started = Instant::now();
    refused(&Repository { answer_within: Duration::from_millis(300), ..silent }, &["no answer within 0.3 s"]);
    assert!(started.elapsed() < Duration::from_secs(5));
}
