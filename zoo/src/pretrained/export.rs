//! A checkpoint for Hugging Face, with what belongs to its texts.

use super::source::BESIDE;
use super::{locate, problem, stop_ids, write};
use crate::checkpoint::{CONFIG, INDEX, WEIGHTS, read_text};
use crate::{Decoder, ZooError};
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes a checkpoint, by name as [`Decoder::from_pretrained`] takes it, as [`save`](super::save) does, into a
/// folder that holds none. One of Hugging Face's keeps the tokens that begin, end and fill a text and the longest
/// text (`max_position_embeddings`); `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` are
/// copied where there are.
///
/// # Errors
/// As [`Decoder::from_pretrained`] and [`save`](super::save); files in `to` that would be replaced, by name.
pub fn export(name: impl AsRef<Path>, to: &Path) -> Result<(), ZooError> {
    let files = [CONFIG, WEIGHTS, INDEX].into_iter().chain(BESIDE);
    let there: Vec<&str> = files.filter(|file| to.join(file).exists()).collect();
    if !there.is_empty() {
        return Err(problem(to, format!("holds {} already; nothing was changed", there.join(", "))));
    }
    let from = locate(name)?;
    let (config, model) = Decoder::from_pretrained(&from, &Device::flex())?;
    write(to, &config, &model, of_texts(&from)?)?;
    for file in BESIDE.into_iter().filter(|file| from.join(file).exists()) {
        std::fs::copy(from.join(file), to.join(file)).map_err(|e| problem(&to.join(file), e.to_string()))?;
    }
    Ok(())
}

/// The fields of `config.json` that are about texts; one of ours has none, and no end.
fn of_texts(from: &Path) -> Result<Map<String, Value>, ZooError> {
    let path = from.join(CONFIG);
    let fields = serde_json::from_str(&read_text(&path)?);
    let mut fields: Map<String, Value> = fields.map_err(|e| problem(&path, e.to_string()))?;
    let kept = ["bos_token_id", "pad_token_id", "max_position_embeddings"];
    fields.retain(|name, value| kept.contains(&name.as_str()) && !value.is_null());
    let ends = stop_ids(from)?;
    let ends = match ends[..] {
        [] => Value::Null,
        [id] => id.into(),
        _ => json!(ends),
    };
    fields.insert("eos_token_id".into(), ends);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint, preset};

    fn fields(dir: &Path) -> Value {
        serde_json::from_str(&read_text(&dir.join(CONFIG)).unwrap()).unwrap()
    }

    #[test]
    fn what_belongs_to_texts_is_kept_and_nothing_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to, other] = ["from", "to", "other"].map(|name| folder.path().join(name));
        for dir in [&from, &other] {
            std::fs::create_dir(dir).unwrap();
        }
        let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/data/llama");
        for file in [CONFIG, WEIGHTS] {
            std::fs::copy(llama.join(file), from.join(file)).unwrap();
        }
        std::fs::write(from.join("tokenizer.json"), "{}").unwrap();
        std::fs::write(from.join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#).unwrap();

        export(&from, &to).unwrap();
        let written = fields(&to);
        assert_eq!(written["bos_token_id"], 1);
        assert_eq!(written["eos_token_id"], json!([2, 7]));
        assert_eq!(written["max_position_embeddings"], 256);
        assert_eq!(stop_ids(&to).unwrap(), [2, 7]);
        assert_eq!(read_text(&to.join("tokenizer.json")).unwrap(), "{}");
        assert!(!to.join("tokenizer_config.json").exists());

        std::fs::write(other.join("tokenizer.json"), "another's").unwrap();
        let all = "config.json, model.safetensors, tokenizer.json, generation_config.json";
        for (there, names) in [(&to, all), (&other, "tokenizer.json")] {
            let message = export(&from, there).unwrap_err().to_string();
            assert!(message.contains(&format!("holds {names} already")), "{message}");
        }
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    }

    /// Without the nulls, most classes take the tokens 1 and 2 (which are bytes); none takes a null for a longest text.
    #[test]
    fn of_a_model_of_ours_no_token_begins_or_ends_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        let config = preset("baseline", "nano").unwrap();
        checkpoint::save(&from, &config, &config.init(0, &Device::flex()).unwrap()).unwrap();
        export(&from, &to).unwrap();
        let written = fields(&to);
        for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            assert_eq!(written.get(name), Some(&Value::Null), "{name}");
        }
        assert_eq!(written.get("max_position_embeddings"), None);
    }
}
