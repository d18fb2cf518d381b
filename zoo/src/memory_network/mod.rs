//! End-to-end memory network (Sukhbaatar et al. 2015, arXiv 1503.08895): attention over sentences.
//!
//! The ancestor of the other definitions here, and a model of its own: it reads a story and a
//! question and answers with one word. Every sentence becomes one key and one value, the question
//! is the query, and K hops of attention refine it. There is no causal order, there are no heads
//! and no scale.
//!
//! ```text
//! m_i = Σ_j l_j ⊙ A x_ij + T_A(i)         the key of sentence i      x_ij word j of sentence i
//! c_i = Σ_j l_j ⊙ C x_ij + T_C(i)         its value                  i = 1 the newest
//! u   = Σ_j l_j ⊙ B q_j                   the query, from the question
//! p_i = softmax_i(uᵀ m_i)                 the pattern
//! u   ← u + Σ_i p_i c_i                   K times, with A, C of each hop
//! â   = softmax(W u)                      the answer; the softmax is left to the loss
//!
//! l_kj = 1                                bag of words
//! l_kj = (1 − j/J) − (k/d)(1 − 2j/J)      position encoding: J words in the sentence, k = 1 … d
//! ```
//!
//! `T_A(i)` is the time word: a learned vector for "the i-th newest sentence". The same is said by
//! adding a word for i to the sentence; it is not weighted by `l`.
//!
//! | tying | what is learned | parameters |
//! |---|---|---|
//! | adjacent | `A^{k+1} = C^k`, `B = A¹`, `W = C^K`, and `T` like `A` and `C` | (K + 1)(V d + M d) |
//! | layer-wise | one `A`, `C`, `T_A`, `T_C` for all hops; `B`, `W`; `u ← H u + o` | 4 V d + 2 M d + d² |
//!
//! for a vocabulary of V words, M sentences and width d (without temporal encoding the terms with M
//! fall away). With layer-wise tying the network is recurrent: `u` is its state.
//!
//! Id 0 is nil: it fills up sentences, and a sentence of nil alone is an *empty memory*. The
//! embedding of nil is zero whatever the optimiser did to its row, an empty memory has no time word,
//! and so its key and its value are zero. It still takes its share `e⁰` of the softmax: E empty
//! memories are attention sinks, one of them is "softmax off by one". A story must therefore always
//! be filled up to the same M.

mod noise;

use crate::error::{ZooError, positive, positive_number};
use crate::tap::{Scope, Silent};
use crate::{Init, Linear, Tap};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::softmax};
use serde::{Deserialize, Serialize};

pub use noise::with_empty_memories;

/// The id of nil.
pub const NIL: i32 = 0;

/// Which tables the hops share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tying {
    /// The value table of a hop is the key table of the next.
    Adjacent,
    /// All hops have the same tables, and a matrix `H` carries `u` from hop to hop.
    LayerWise,
}

/// How the words of a sentence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceEncoding {
    /// Their sum.
    BagOfWords,
    /// Their sum weighted by place and feature, so that order counts.
    Position,
}

/// Sizes and choices of a [`MemoryNetwork`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryNetworkConfig {
    /// V, nil included.
    pub vocab_size: usize,
    /// d. Default 20, as for one task; 50 for all together.
    #[serde(default = "d_model")]
    pub d_model: usize,
    /// K. Default 3.
    #[serde(default = "hops")]
    pub hops: usize,
    /// M, the sentences that fit. Default 50.
    #[serde(default = "memory")]
    pub memory: usize,
    /// Default adjacent.
    #[serde(default = "tying")]
    pub tying: Tying,
    /// Default position encoding.
    #[serde(default = "encoding")]
    pub encoding: SentenceEncoding,
    /// Whether a sentence says how old it is. Default true.
    #[serde(default = "temporal")]
    pub temporal: bool,
    /// Standard deviation of initial weights. Default 0.1.
    #[serde(default = "init_std")]
    pub init_std: f64,
}

fn d_model() -> usize {
    20
}
fn hops() -> usize {
    3
}
fn memory() -> usize {
    50
}
fn tying() -> Tying {
    Tying::Adjacent
}
fn encoding() -> SentenceEncoding {
    SentenceEncoding::Position
}
fn temporal() -> bool {
    true
}
fn init_std() -> f64 {
    0.1
}

impl MemoryNetworkConfig {
    /// Three hops with adjacent tying, position and temporal encoding over 50 sentences.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            d_model: d_model(),
            hops: hops(),
            memory: memory(),
            tying: tying(),
            encoding: encoding(),
            temporal: temporal(),
            init_std: init_std(),
        }
    }

    /// # Errors
    /// Names the value that does not fit and what would.
    pub fn validate(&self) -> Result<(), ZooError> {
        if self.vocab_size < 2 || i32::try_from(self.vocab_size).is_err() {
            return Err(ZooError::Invalid {
                name: "vocab_size",
                value: self.vocab_size.to_string(),
                expected: "at least 2 (nil and a word), and below 2³¹".into(),
            });
        }
        positive("d_model", self.d_model)?;
        positive("hops", self.hops)?;
        positive("memory", self.memory)?;
        positive_number("init_std", self.init_std)
    }

    pub fn parameters(&self) -> usize {
        let words = self.vocab_size * self.d_model;
        let times = if self.temporal { self.memory * self.d_model } else { 0 };
        match self.tying {
            Tying::Adjacent => (self.hops + 1) * (words + times),
            Tying::LayerWise => 4 * words + 2 * times + self.d_model * self.d_model,
        }
    }

    /// The network, its weights N(0, `init_std`²) drawn from `seed`; the row of nil is zero.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn init(&self, seed: u64, device: &Device) -> Result<MemoryNetwork, ZooError> {
        self.validate()?;
        let mut init = Init::new(seed, self.init_std, self.init_std, self.hops, device);
        let init = &mut init;
        let words = |init: &mut Init| {
            let drawn = init.weight([self.vocab_size, self.d_model]).val();
            Param::from_tensor(Tensor::from_data(without_nil(drawn).into_data(), init.device()))
        };
        let layer_wise = self.tying == Tying::LayerWise;
        let embeddings = if layer_wise { 2 } else { self.hops + 1 };
        Ok(MemoryNetwork {
            embeddings: (0..embeddings)
                .map(|_| Embedding {
                    words: words(init),
                    times: self.temporal.then(|| init.weight([self.memory, self.d_model])),
                })
                .collect(),
            question: layer_wise.then(|| words(init)),
            answer: layer_wise.then(|| init.weight([self.vocab_size, self.d_model])),
            hop: layer_wise.then(|| Linear::new(self.d_model, self.d_model, init)),
            linear: false,
            config: self.clone(),
        })
    }
}

/// What turns a sentence into a key or a value: `A` with `T_A`, or `C` with `T_C`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, d_model]`.
    pub words: Param<Tensor<2>>,
    /// `[memory, d_model]`, the newest first.
    pub times: Option<Param<Tensor<2>>>,
}

#[derive(Module, Debug)]
pub struct MemoryNetwork {
    /// Adjacent: `A¹`, `C¹ = A²`, …, `C^K`. Layer-wise: `A`, `C`.
    pub embeddings: Vec<Embedding>,
    /// `B`, `[vocab_size, d_model]`; `A¹` when absent.
    pub question: Option<Param<Tensor<2>>>,
    /// `W`, `[vocab_size, d_model]`; `C^K` when absent.
    pub answer: Option<Param<Tensor<2>>>,
    /// `H`, `[d_model, d_model]`; the identity when absent.
    pub hop: Option<Linear>,
    /// Linear start: while true the pattern is the scores themselves, `p = uᵀ m`, and the logits
    /// are linear in the question: each hop is `u ← (I + Σ_i c_i m_iᵀ) u`, linear attention.
    #[module(skip)]
    pub linear: bool,
    #[module(skip)]
    pub config: MemoryNetworkConfig,
}

impl MemoryNetwork {
    pub fn device(&self) -> Device {
        self.embeddings[0].words.val().device()
    }

    /// Stories as a tensor `[batch, memory, words]` on the network's device, sentences from the
    /// newest to the oldest.
    ///
    /// # Errors
    /// Ids that do not fill the shape or are outside the vocabulary, more sentences than fit.
    pub fn stories(&self, ids: &[i32], [batch, memory, words]: [usize; 3]) -> Result<Tensor<3, Int>, ZooError> {
        if memory > self.config.memory {
            return Err(ZooError::Invalid {
                name: "memory of the stories",
                value: memory.to_string(),
                expected: format!("at most {}, the network's", self.config.memory),
            });
        }
        Ok(self.questions(ids, [batch * memory, words])?.reshape([batch, memory, words]))
    }

    /// Questions as a tensor `[batch, words]` on the network's device.
    ///
    /// # Errors
    /// Ids that do not fill the shape or are outside the vocabulary.
    pub fn questions(&self, ids: &[i32], [batch, words]: [usize; 2]) -> Result<Tensor<2, Int>, ZooError> {
        if ids.len() != batch * words || ids.is_empty() {
            return Err(ZooError::Invalid {
                name: "token ids",
                value: ids.len().to_string(),
                expected: format!("{}: {batch} sentences of {words} words", batch * words),
            });
        }
        let vocab_size = self.config.vocab_size;
        if let Some(position) = ids.iter().position(|&id| id < 0 || id as usize >= vocab_size) {
            return Err(ZooError::Token { id: ids[position].into(), position, vocab_size });
        }
        Ok(Tensor::from_data(TensorData::new(ids.to_vec(), [batch, words]), &self.device()))
    }

    /// Logits `[batch, vocab_size]` of the answer, from `stories` `[batch, memory, words]` (made by
    /// [`Self::stories`]) and `questions` `[batch, words]` (made by [`Self::questions`]).
    pub fn forward(&self, stories: Tensor<3, Int>, questions: Tensor<2, Int>) -> Tensor<2> {
        self.forward_with(stories, questions, &mut Silent)
    }

    /// The same while `tap` watches or patches `hops.N.pattern` and `hops.N.out`.
    pub fn forward_with(&self, stories: Tensor<3, Int>, questions: Tensor<2, Int>, tap: &mut dyn Tap) -> Tensor<2> {
        let [batch, memory, words] = stories.dims();
        let d_model = self.config.d_model;
        let tables: Vec<Tensor<2>> = self.embeddings.iter().map(|e| without_nil(e.words.val())).collect();

        let sentences = stories.reshape([batch * memory, words]);
        let weights = self.weights(&sentences);
        let told = sentences.clone().not_equal_elem(NIL).int().max_dim(1).float().cast(tables[0].dtype());
        let memories: Vec<Tensor<3>> = (self.embeddings.iter().zip(&tables))
            .map(|(embedding, table)| {
                let sum = sum_of_words(table.clone(), &sentences, weights.as_ref()).reshape([batch, memory, d_model]);
                let Some(times) = &embedding.times else { return sum };
                let times = times.val().narrow(0, 0, memory).reshape([1, memory, d_model]);
                sum + times * told.clone().reshape([batch, memory, 1])
            })
            .collect();

        let table = self.question.as_ref().map_or(tables[0].clone(), |b| without_nil(b.val()));
        let mut u = sum_of_words(table, &questions, self.weights(&questions).as_ref());
        for hop in 0..self.config.hops {
            let (keys, values) = match self.config.tying {
                Tying::Adjacent => (&memories[hop], &memories[hop + 1]),
                Tying::LayerWise => (&memories[0], &memories[1]),
            };
            let mut scope = Scope::new(tap, format!("hops.{hop}"));
            let tap: &mut dyn Tap = &mut scope;
            let scores = keys.clone().matmul(u.clone().reshape([batch, d_model, 1])).reshape([batch, memory]);
            let pattern = tap.at("pattern", if self.linear { scores } else { softmax(scores, 1) });
            let read = pattern.reshape([batch, 1, memory]).matmul(values.clone()).reshape([batch, d_model]);
            let carried = match &self.hop {
                Some(h) => u.matmul(h.weight.val().transpose()),
                None => u,
            };
            u = tap.at("out", carried + read);
        }
        let last = tables.last().expect("at least two embeddings").clone();
        u.matmul(self.answer.as_ref().map_or(last, |w| w.val()).transpose())
    }

    fn weights(&self, ids: &Tensor<2, Int>) -> Option<Tensor<3>> {
        (self.config.encoding == SentenceEncoding::Position)
            .then(|| position_encoding(ids, self.config.d_model, self.embeddings[0].words.val().dtype()))
    }
}

/// The table with a row of zeros for nil. Every use goes through this, so neither a gradient nor
/// weight decay can make nil mean something.
fn without_nil(table: Tensor<2>) -> Tensor<2> {
    let [vocab_size, _] = table.dims();
    let mut word = vec![1.0f32; vocab_size];
    word[NIL as usize] = 0.0;
    let word = Tensor::from_data(TensorData::new(word, [vocab_size, 1]), (&table.device(), table.dtype()));
    table * word
}

/// `Σ_j l_j ⊙ E x_j`: `[sentences, words]` → `[sentences, d_model]`.
fn sum_of_words(table: Tensor<2>, ids: &Tensor<2, Int>, weights: Option<&Tensor<3>>) -> Tensor<2> {
    let ([sentences, words], [_, d_model]) = (ids.dims(), table.dims());
    let embedded = table.select(0, ids.clone().reshape([sentences * words])).reshape([sentences, words, d_model]);
    let weighted = match weights {
        Some(weights) => embedded * weights.clone(),
        None => embedded,
    };
    weighted.sum_dim(1).reshape([sentences, d_model])
}

/// `l_kj = (1 − j/J) − (k/d)(1 − 2j/J)` of sentences `[sentences, words]`, as `[sentences, words,
/// d_model]`. J counts the words of the sentence itself; behind them the weights meet nil alone.
///
/// Written around the middle it is `½ + 2 (k/d − ½)(j/J − ½)`: the first words speak through the
/// first features, the last words through the last. (The authors' program uses twice this, with J of
/// the longest sentence.)
pub fn position_encoding(ids: &Tensor<2, Int>, d_model: usize, dtype: DType) -> Tensor<3> {
    let [sentences, words] = ids.dims();
    let count = |n: usize| Tensor::<1, Int>::arange(1..n as i64 + 1, &ids.device()).float().cast(dtype);
    let length = ids.clone().not_equal_elem(NIL).int().sum_dim(1).clamp_min(1).float().cast(dtype);
    let j = (count(words).reshape([1, words]) / length).reshape([sentences, words, 1]);
    let k = count(d_model).reshape([1, 1, d_model]) / d_model as f64;
    (-j.clone() + 1.0) - k * (j * -2.0 + 1.0)
}
