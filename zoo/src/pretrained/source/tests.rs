//! Names of checkpoints, and models from a small server of our own.

#[path = "../../../../datasets/hub/tests/server/mod.rs"]
mod server;

use super::*;
use crate::{checkpoint::Tensors, preset};
use server::Server;
use std::collections::{BTreeMap, HashMap};

/// The files of a small Llama, with its weights in `shards` files.
fn llama(shards: usize) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let config = preset("baseline", "nano").unwrap();
    super::super::save(dir.path(), &config, &config.init(3, &Device::flex()).unwrap()).unwrap();
    let file = |name: &str| (name.to_string(), std::fs::read(dir.path().join(name)).unwrap());
    if shards == 1 {
        return vec![file(CONFIG), file(WEIGHTS)];
    }
    let all: Vec<_> = checkpoint::read(&dir.path().join(WEIGHTS)).unwrap().0.into_iter().collect();
    let (mut files, mut map) = (vec![file(CONFIG)], BTreeMap::new());
    for (number, tensors) in all.chunks(all.len().div_ceil(shards)).enumerate() {
        let name = format!("model-0000{}-of-0000{shards}.safetensors", number + 1);
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.clone())));
        let tensors: Tensors = tensors.iter().cloned().collect();
        checkpoint::write(&dir.path().join(&name), &tensors, HashMap::new()).unwrap();
        files.push(file(&name));
    }
    files.push((INDEX.into(), serde_json::json!({ "weight_map": map }).to_string().into_bytes()));
    files
}

fn inside(folder: &str, files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files.into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes)).collect()
}

fn serve(files: &[(String, Vec<u8>)]) -> (Server, tempfile::TempDir) {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    (Server::start("models", "zoo/llama", &files), tempfile::tempdir().unwrap())
}

fn model(text: &str, (server, cache): &(Server, tempfile::TempDir)) -> HubModel {
    let HubModel { repository, folder } = HubModel::parse(text).unwrap();
    let (endpoint, cache) = (server.endpoint.clone(), cache.path().into());
    HubModel { repository: Repository { endpoint, cache, offline: false, ..repository }, folder }
}

fn assert_loads(dir: &Path) {
    let (config, model) = load(dir, &Device::flex()).unwrap();
    let expected = preset("baseline", "nano").unwrap().init(3, &Device::flex()).unwrap();
    let ids = model.tokens(&[3, 1, 4, 1, 5], [1, 5]).unwrap();
    assert_eq!(model.forward(ids.clone()).into_data(), expected.forward(ids).into_data());
    assert_eq!(config.vocab_size, 256);
}

fn refused(model: &HubModel, parts: &[&str]) {
    let message = model.folder().unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message} should say {parts:?}");
}

#[test]
fn a_name_is_a_repository_a_folder_in_it_and_a_revision() {
    let parse = |text: &str| {
        HubModel::parse(text).map(|model| (model.repository.name, model.folder, model.repository.revision))
    };
    let parts = |a: &str, b: &str, c: &str| Some((a.to_string(), b.to_string(), c.to_string()));
    assert_eq!(parse("Qwen/Qwen3-0.6B"), parts("Qwen/Qwen3-0.6B", "", "main"));
    assert_eq!(parse("Qwen/Qwen3-0.6B@refs/pr/1"), parts("Qwen/Qwen3-0.6B", "", "refs/pr/1"));
    assert_eq!(parse("QwQZh/gated_attention/1B_baseline"), parts("QwQZh/gated_attention", "1B_baseline/", "main"));
    assert_eq!(parse("o/n/a/b@v1"), parts("o/n", "a/b/", "v1"));
    for text in ["", "gpt2", "/tmp/x", "../runs/x", "./a/b", "~/a", "a//b", "a/b/", "a/b@", "a b/c", "a\\b/c", "a/../b"]
    {
        assert_eq!(parse(text), None, "{text:?}");
    }
}

#[test]
fn what_is_neither_a_folder_nor_a_model_is_told_both_readings() {
    let message = locate("../runs/typo").unwrap_err().to_string();
    for part in ["`../runs/typo` is no folder", "owner/name", "@revision"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_folder_is_loaded_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in llama(1) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    assert_loads(&locate(dir.path()).unwrap());
    let message = locate(dir.path().join(CONFIG)).unwrap_err().to_string();
    assert!(message.contains("config.json` is no folder") && message.contains("it is a file"), "{message}");
    let ours = tempfile::tempdir().unwrap();
    let config = preset("hybrid", "nano").unwrap();
    checkpoint::save(ours.path(), &config, &config.init(0, &Device::flex()).unwrap()).unwrap();
    let (read, _) = Decoder::from_pretrained(ours.path(), &Device::flex()).unwrap();
    assert_eq!(read, config);
}

#[test]
fn a_model_of_the_hub_is_downloaded_once_with_what_belongs_to_it() {
    let mut files = llama(1);
    files.extend(["tokenizer.json", "README.md", "pytorch_model.bin"].map(|name| (name.into(), b"{}".to_vec())));
    let hub = serve(&files);
    let dir = model("zoo/llama", &hub).folder().unwrap();
    assert_loads(&dir);
    assert_eq!(hub.0.sent(), [CONFIG, WEIGHTS, "tokenizer.json"]);
    hub.0.stop();
    assert_loads(&model("zoo/llama", &hub).folder().unwrap());
}

#[test]
fn shards_are_those_of_the_index_and_an_interrupted_one_is_fetched_again() {
    let mut files = llama(3);
    files.push(("model-00004-of-00004.safetensors".into(), b"of another model".to_vec()));
    let hub = serve(&files);
    let shard = |number| format!("model-0000{number}-of-00003.safetensors");
    hub.0.cut(&shard(2));
    refused(&model("zoo/llama", &hub), &["zoo/llama", "cannot fetch", "run again"]);
    assert_loads(&model("zoo/llama", &hub).folder().unwrap());
    let expected = [CONFIG.into(), INDEX.into(), shard(1), shard(2), shard(2), shard(3)];
    assert_eq!(hub.0.sent(), expected, "what was complete is not sent again");
    hub.0.stop();
    assert_loads(&model("zoo/llama", &hub).folder().unwrap());
    // A copy that lacks a shard is not taken for whole.
    let dir = model("zoo/llama", &hub).folder().unwrap();
    std::fs::remove_file(dir.join(shard(3))).unwrap();
    refused(&model("zoo/llama", &hub), &["cannot fetch", "not complete in the cache"]);
}

#[test]
fn a_folder_of_a_repository_is_a_model_of_its_own() {
    let files = [inside("1B_baseline", llama(1)), inside("1B_sharded", llama(2))].concat();
    let hub = serve(&files);
    assert_loads(&model("zoo/llama/1B_baseline", &hub).folder().unwrap());
    assert!(hub.0.sent().iter().all(|file| file.starts_with("1B_baseline/")), "{:?}", hub.0.sent());
    assert_loads(&model("zoo/llama/1B_sharded", &hub).folder().unwrap());
    refused(&model("zoo/llama", &hub), &["no config.json", "1B_baseline, 1B_sharded"]);
    refused(&model("zoo/llama/1B_gated", &hub), &["1B_gated/config.json", "1B_baseline, 1B_sharded"]);
}

#[test]
fn what_a_repository_lacks_is_named() {
    let hub = serve(&[(CONFIG.into(), b"{}".to_vec()), ("pytorch_model.bin".into(), Vec::new())]);
    refused(&model("zoo/llama", &hub), &["`zoo/llama`", WEIGHTS, INDEX]);
    refused(&model("zoo/lama", &hub), &["model `zoo/lama`", "does not exist"]);
    refused(&model("zoo/llama@v7", &hub), &["no revision `v7`"]);
    hub.0.stop();
    refused(&model("zoo/llama", &hub), &["cannot fetch", &hub.0.endpoint, "HF_HUB_OFFLINE"]);
    let mut files = llama(2);
    files.remove(1);
    refused(&model("zoo/llama", &serve(&files)), &["names model-00001-of-00002.safetensors"]);
}

#[test]
fn the_ids_that_end_a_text_are_a_number_or_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &str| std::fs::write(dir.path().join(name), json).unwrap();
    assert!(stop_ids(dir.path()).unwrap().is_empty());
    write(CONFIG, r#"{"eos_token_id": 2}"#);
    assert_eq!(stop_ids(dir.path()).unwrap(), [2]);
    write("generation_config.json", "{}");
    assert_eq!(stop_ids(dir.path()).unwrap(), [2]);
    write("generation_config.json", r#"{"eos_token_id": [7, 9]}"#);
    assert_eq!(stop_ids(dir.path()).unwrap(), [7, 9]);
    write("generation_config.json", r#"{"eos_token_id": -1}"#);
    let message = stop_ids(dir.path()).unwrap_err().to_string();
    assert!(message.contains("generation_config.json") && message.contains("-1"), "{message}");
}
