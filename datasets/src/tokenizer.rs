//! Between text and token ids: one byte a token, or as a `tokenizer.json` says.

use crate::DatasetError;
use std::path::{Path, PathBuf};

/// Turns text into token ids and back. Our own models read bytes; those of others bring a
/// `tokenizer.json`.
///
/// ```
/// use datasets::Tokenizer;
///
/// let bytes = Tokenizer::bytes();
/// assert_eq!(bytes.encode("né")?, [110, 195, 169]);
/// assert_eq!(bytes.decode(&[110, 195, 169])?, "né");
/// # Ok::<(), datasets::DatasetError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer(Vocabulary);

#[derive(Clone, Debug)]
enum Vocabulary {
    Bytes,
    File { path: PathBuf, rules: Box<tokenizers::Tokenizer> },
}

impl Tokenizer {
    /// One token a byte, 256 in all.
    pub fn bytes() -> Self {
        Self(Vocabulary::Bytes)
    }

    /// As a `tokenizer.json` of Hugging Face's says.
    ///
    /// # Errors
    /// [`DatasetError::Io`], or [`DatasetError::Tokenizer`] for a file that is none.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let path = path.as_ref();
        let json = std::fs::read(path).map_err(DatasetError::io(path))?;
        let mut rules = tokenizers::Tokenizer::from_bytes(json).map_err(problem(path))?;
        // How its makers cut and filled their batches says nothing of a text.
        rules.with_truncation(None).map_err(problem(path))?;
        rules.with_padding(None);
        Ok(Self(Vocabulary::File { path: path.into(), rules: Box::new(rules) }))
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        match &self.0 {
            Vocabulary::Bytes => 256,
            Vocabulary::File { rules, .. } => {
                rules.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1)
            }
        }
    }

    /// The ids of a text, with the special tokens that the file's own rules put around it (such as one
    /// for its beginning).
    ///
    /// # Errors
    /// [`DatasetError::Tokenizer`] for a text that the file's rules cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>, DatasetError> {
        match &self.0 {
            Vocabulary::Bytes => Ok(text.bytes().map(i32::from).collect()),
            Vocabulary::File { path, rules } => {
                let ids = rules.encode(text, true).map_err(problem(path))?;
                Ok(ids.get_ids().iter().map(|&id| i32::try_from(id).expect("fewer than 2³¹ tokens")).collect())
            }
        }
    }

    /// The text of `ids`, without special tokens. An id that stands for nothing is shown as `<id>`, and
    /// bytes that are no UTF-8 as `�`.
    ///
    /// # Errors
    /// [`DatasetError::Tokenizer`] where the file's rules fail.
    pub fn decode(&self, ids: &[i32]) -> Result<String, DatasetError> {
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| self.knows(*a) == self.knows(*b)) {
            text += &match &self.0 {
                _ if !self.knows(run[0]) => run.iter().map(|id| format!("<{id}>")).collect(),
                Vocabulary::Bytes => {
                    let bytes: Vec<u8> = run.iter().map(|&id| id as u8).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                }
                Vocabulary::File { path, rules } => {
                    let ids: Vec<u32> = run.iter().map(|&id| id as u32).collect();
                    rules.decode(&ids, true).map_err(problem(path))?
                }
            };
        }
        Ok(text)
    }

    fn knows(&self, id: i32) -> bool {
        match &self.0 {
            Vocabulary::Bytes => (0..256).contains(&id),
            Vocabulary::File { rules, .. } => u32::try_from(id).is_ok_and(|id| rules.id_to_token(id).is_some()),
        }
    }

    /// For a text whose ids come one at a time.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), told: 0 }
    }
}

fn problem<E: ToString>(path: &Path) -> impl FnOnce(E) -> DatasetError + '_ {
    move |error| DatasetError::Tokenizer { path: path.into(), problem: error.to_string() }
}

/// Text as its ids come, in pieces that never split a character.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids of the last piece, and those since. A token's text may depend on the one before it, so
    /// the last piece is decoded again with what follows.
    ids: Vec<i32>,
    /// How many ids the last piece had.
    told: usize,
}

impl TextStream<'_> {
    /// What is certain of the text with one more id; empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: i32) -> Result<String, DatasetError> {
        self.ids.push(id);
        let piece = self.rest()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.told);
        self.told = self.ids.len();
        Ok(piece)
    }

    /// What is left when no more ids come: an incomplete character, as `�`.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, DatasetError> {
        self.rest()
    }

    /// The text after the last piece.
    fn rest(&self) -> Result<String, DatasetError> {
        let (before, all) = (self.tokenizer.decode(&self.ids[..self.told])?, self.tokenizer.decode(&self.ids)?);
        match (all.strip_prefix(&before), &self.tokenizer.0) {
            (Some(rest), _) => Ok(rest.into()),
            (None, Vocabulary::Bytes) => unreachable!("whole characters stay what they are"),
            (None, Vocabulary::File { path, .. }) => {
                Err(problem(path)(format!("its text changes backwards: {before:?} became {all:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level vocabulary: `<s>` is 0 and begins every text, byte b is b + 1, and " t" is 257.
    fn byte_level() -> serde_json::Value {
        let mut beyond = 256u32..;
        let mut letters = serde_json::Map::new();
        for byte in 0..256u32 {
            let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let letter = if printable { byte } else { beyond.next().unwrap() };
            letters.insert(char::from_u32(letter).unwrap().into(), (byte + 1).into());
        }
        letters.insert("Ġt".into(), 257.into());
        letters.insert("<s>".into(), 0.into());
        serde_json::json!({
            "version": "1.0",
            "added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false,
                              "single_word": false, "lstrip": false, "rstrip": false}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": letters, "merges": ["Ġ t"]},
        })
    }

    fn from_json(json: &serde_json::Value) -> Result<Tokenizer, DatasetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_file(path)
    }

    fn both() -> [Tokenizer; 2] {
        [Tokenizer::bytes(), from_json(&byte_level()).unwrap()]
    }

    #[test]
    fn a_text_comes_back() {
        for tokenizer in both() {
            for text in ["", "to be, or not to be", "naïve 🦀 it's\n\n  ok", "\0"] {
                assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
            }
        }
    }

    #[test]
    fn a_file_gives_its_own_ids() {
        let [bytes, file] = both();
        assert_eq!(bytes.encode("a té").unwrap(), [97, 32, 116, 195, 169]);
        assert_eq!(file.encode("a té").unwrap(), [0, 98, 257, 196, 170]);
        assert_eq!((bytes.vocab_size(), file.vocab_size()), (256, 258));
    }

    #[test]
    fn a_file_that_cuts_and_fills_encodes_the_whole_text_and_nothing_else() {
        let mut json = byte_level();
        json["truncation"] =
            serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                                             "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
        assert_eq!(from_json(&json).unwrap().encode("a té").unwrap(), [0, 98, 257, 196, 170]);
    }

    #[test]
    fn an_id_that_stands_for_nothing_is_shown() {
        let [bytes, file] = both();
        assert_eq!(bytes.decode(&[104, 256, 105, -1]).unwrap(), "h<256>i<-1>");
        assert_eq!(file.decode(&[105, 258, 106, -1]).unwrap(), "h<258>i<-1>");
    }

    #[test]
    fn a_stream_gives_the_same_text_and_never_half_a_character() {
        for tokenizer in both() {
            let text = "naïve 🦀 it's ok";
            let mut stream = tokenizer.stream();
            let pieces: Vec<String> =
                tokenizer.encode(text).unwrap().into_iter().map(|id| stream.push(id).unwrap()).collect();
            assert_eq!(pieces.concat() + &stream.finish().unwrap(), text);
            assert!(pieces.contains(&"🦀".into()) && !pieces.concat().contains('�'), "{pieces:?}");
            assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() >= text.chars().count() - 1, "{pieces:?}");
        }
    }

    #[test]
    fn an_incomplete_character_is_told_at_the_end_and_a_broken_one_when_it_is_certain() {
        let bytes = Tokenizer::bytes();
        let mut stream = bytes.stream();
        assert_eq!([97, 195].map(|id| stream.push(id).unwrap()), ["a", ""]);
        assert_eq!(stream.push(98).unwrap(), "�b");
        assert_eq!(stream.push(240).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "�");
    }

    /// A vocabulary with a mark for the space before a word, whose decoder drops the first one.
    #[test]
    fn a_stream_keeps_the_spaces_between_words() {
        let special = |id, content| {
            serde_json::json!({"id": id, "content": content, "special": true, "normalized": false,
                               "single_word": false, "lstrip": false, "rstrip": false})
        };
        let file = from_json(&serde_json::json!({
            "version": "1.0",
            "added_tokens": [special(0, "<unk>"), special(1, "<s>")],
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "▁to": 2, "▁be": 3}, "unk_token": "<unk>"},
        }));
        let file = file.unwrap();
        let mut stream = file.stream();
        assert_eq!([1, 2, 3, 1, 2].map(|id| stream.push(id).unwrap()), ["", "to", " be", "", " to"]);
    }

    #[test]
    fn a_file_that_is_missing_or_no_tokenizer_is_named() {
        let message = Tokenizer::from_file("/nowhere/tokenizer.json").unwrap_err().to_string();
        assert!(message.contains("/nowhere/tokenizer.json"), "{message}");
        let message = from_json(&serde_json::json!({"model": 3})).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
    }
}
