//! Text from a decoder, token by token, for any mixer and prompts of any lengths.
//!
//! All sequences start at position 0 and are stepped together: first over the length of the shortest
//! prompt at once, then token by token. While a sequence's prompt lasts, its next token is the
//! prompt's; after that it is the one drawn from its own logits; when it has ended, it is fed anything
//! and its answer is not looked at. So the rows of a batch are always at the same position, no padding
//! stands before anyone's text, no mask is needed, and a mixer needs to know nothing of all this: a
//! state of constant size and a growing cache decode side by side.

use crate::error::positive;
use crate::{Cache, Decoder, Sampler, Sampling, Silent, ZooError};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How much is written, and how each token is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {
    /// New tokens per sequence at most.
    pub max_new_tokens: usize,
    /// Default: greedy.
    #[serde(default)]
    pub sampling: Sampling,
    /// Sequence number `i` draws from the seed `seed + i`, so that it is the same alone and in a batch.
    #[serde(default)]
    pub seed: u64,
    /// Tokens that end a sequence; they are not part of what is returned. Default: none.
    #[serde(default)]
    pub stop: Vec<i32>,
}

impl GenerateConfig {
    /// Greedy, and until `max_new_tokens`.
    pub fn new(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, sampling: Sampling::greedy(), seed: 0, stop: Vec::new() }
    }
}

/// A token as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Whose it is: the prompt's number.
    pub sequence: usize,
    pub id: i32,
}

impl Decoder {
    /// What follows each prompt: its new tokens alone.
    ///
    /// ```
    /// use zoo::{GenerateConfig, Sampling, preset};
    ///
    /// let model = preset("hybrid", "nano")?.init(0, &burn::tensor::Device::flex())?;
    /// let prompts = [b"to be".map(i32::from).to_vec(), b"or not to".map(i32::from).to_vec()];
    /// let sampling = Sampling::temperature(0.8).top_p(0.95);
    /// let texts = model.generate(&prompts, &GenerateConfig { sampling, ..GenerateConfig::new(8) })?;
    /// assert_eq!((texts[0].len(), texts[1].len()), (8, 8));
    /// # Ok::<(), zoo::ZooError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::stream`]; logits that have no distribution.
    pub fn generate(&self, prompts: &[Vec<i32>], config: &GenerateConfig) -> Result<Vec<Vec<i32>>, ZooError> {
        let mut texts = vec![Vec::new(); prompts.len()];
        for token in self.stream(prompts, config)? {
            let NewToken { sequence, id } = token?;
            texts[sequence].push(id);
        }
        Ok(texts)
    }

    /// The same tokens one at a time, as they come: in the order of positions, and at one position in
    /// the order of prompts.
    ///
    /// # Errors
    /// No prompt or an empty one, a token or stop token outside the vocabulary, no token to write, a
    /// sampling that cannot be: the value, and what could be.
    pub fn stream(&self, prompts: &[Vec<i32>], config: &GenerateConfig) -> Result<Generation, ZooError> {
        self.check_prompts(prompts, config)?;
        let sequence = |(number, prompt): (usize, &Vec<i32>)| {
            let sampler = Sampler::new(config.sampling.clone(), config.seed.wrapping_add(number as u64))?;
            Ok::<_, ZooError>(Sequence { tokens: prompt.clone(), prompt: prompt.len(), sampler, ended: false })
        };
        let sequences = prompts.iter().enumerate().map(sequence).collect::<Result<_, _>>()?;
        Ok(Generation {
            // Nothing is to be differentiated, and a graph would keep every step alive.
            model: self.valid(),
            cache: self.cache(),
            position: 0,
            sequences,
            config: config.clone(),
            ready: VecDeque::new(),
        })
    }

    /// What [`Self::stream`] refuses, but for the sampling.
    pub(crate) fn check_prompts(&self, prompts: &[Vec<i32>], config: &GenerateConfig) -> Result<(), ZooError> {
        positive("max_new_tokens", config.max_new_tokens)?;
        let invalid = |name, value: String, expected: String| Err(ZooError::Invalid { name, value, expected });
        if prompts.is_empty() {
            return invalid("prompts", "none".into(), "at least one".into());
        }
        let vocab_size = self.vocab_size();
        let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < vocab_size);
        if let Some(id) = config.stop.iter().find(|id| !known(id)) {
            return invalid("a stop token", id.to_string(), format!("a token of the vocabulary 0..{vocab_size}"));
        }
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return invalid("the tokens of a prompt", format!("none in prompt {number}"), "at least one".into());
            }
            if let Some(position) = prompt.iter().position(|id| !known(id)) {
                return Err(ZooError::Token { id: prompt[position].into(), position, vocab_size });
            }
        }
        Ok(())
    }
}

/// Tokens being written: an iterator over [`NewToken`].
#[derive(Debug)]
pub struct Generation {
    model: Decoder,
    cache: Vec<Cache>,
    /// Tokens that every sequence has been fed.
    position: usize,
    sequences: Vec<Sequence>,
    config: GenerateConfig,
    ready: VecDeque<NewToken>,
}

#[derive(Debug)]
struct Sequence {
    /// The prompt and what follows it.
    tokens: Vec<i32>,
    /// The prompt's length.
    prompt: usize,
    sampler: Sampler,
    ended: bool,
}

impl Generation {
    /// What the decoder keeps of all sequences.
    pub fn cache(&self) -> &[Cache] {
        &self.cache
    }

    /// One more position for every sequence; at first, as many as the shortest prompt has.
    fn advance(&mut self) -> Result<(), ZooError> {
        let time = match self.position {
            0 => self.sequences.iter().map(|s| s.prompt).min().expect("at least one prompt"),
            _ => 1,
        };
        // A sequence that has ended repeats its last token.
        let fed = |s: &Sequence, position: usize| s.tokens[position.min(s.tokens.len() - 1)];
        let positions = self.position..self.position + time;
        let ids: Vec<i32> =
            self.sequences.iter().flat_map(|s| positions.clone().map(move |position| fed(s, position))).collect();
        let ids = self.model.tokens(&ids, [self.sequences.len(), time])?;
        let on_cpu = ids.device() == Device::flex();
        let position = self.position + time;
        let writes = |s: &Sequence| !s.ended && position >= s.prompt;
        let any_writes = self.sequences.iter().any(writes);
        let (model, cache) = (&self.model, &mut self.cache);
        // Logits of a prompt's last position alone: those of all would be a vocabulary for every token.
        let step = || {
            let hidden = model.hidden(ids, Some(cache), &mut Silent);
            any_writes.then(|| model.logits(hidden.narrow(1, time - 1, 1)))
        };
        let logits = if on_cpu { kernels::in_pool(step) } else { step() };
        self.position = position;
        let Some(logits) = logits else { return Ok(()) }; // prompts alone: nothing is read back from the device
        let logits: Vec<f32> = logits.into_data().convert::<f32>().try_to_vec().expect("converted to f32");
        let rows = logits.chunks_exact(self.model.vocab_size());
        for (sequence, (s, row)) in self.sequences.iter_mut().zip(rows).enumerate() {
            if !writes(s) {
                continue;
            }
            let id = s.sampler.pick(row)?;
            if self.config.stop.contains(&id) {
                s.ended = true;
                continue;
            }
            s.tokens.push(id);
            s.ended = s.tokens.len() == s.prompt + self.config.max_new_tokens;
            self.ready.push_back(NewToken { sequence, id });
        }
        Ok(())
    }
}

impl Iterator for Generation {
    type Item = Result<NewToken, ZooError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.sequences.iter().all(|s| s.ended) {
                return None;
            }
            if let Err(error) = self.advance() {
                self.sequences.iter_mut().for_each(|s| s.ended = true);
                self.ready.clear();
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
