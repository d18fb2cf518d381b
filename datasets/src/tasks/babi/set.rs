//! Stories as token ids, and batches of them.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;

use super::{BabiLine, BabiStory};
use crate::DatasetError;
use crate::random::{Purpose, stream};
use crate::tasks::parameter;

/// The words of a set of stories, as ids. Id 0 is nil; case does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BabiVocabulary {
    words: Vec<String>,
}

impl BabiVocabulary {
    /// All words of sentences, questions and answers, in alphabetical order. To be made of training
    /// and test stories together, so that ids are the same in both.
    pub fn of<'a>(stories: impl IntoIterator<Item = &'a BabiStory>) -> Self {
        let mut words = BTreeSet::new();
        for line in stories.into_iter().flat_map(|story| &story.lines) {
            match line {
                BabiLine::Sentence(said) => words.extend(said.iter().map(|w| w.to_lowercase())),
                BabiLine::Question { question, answer, .. } => {
                    words.extend(question.iter().chain([answer]).map(|w| w.to_lowercase()));
                }
            }
        }
        Self { words: std::iter::once("·".to_owned()).chain(words).collect() }
    }

    /// Number of ids, nil included.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word beside nil.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// The id of a word.
    ///
    /// # Errors
    /// A word that is in none of the stories the vocabulary was made of.
    pub fn id(&self, word: &str) -> Result<i32, DatasetError> {
        let lower = word.to_lowercase();
        let found = self.words[1..].binary_search(&lower).map(|place| place as i32 + 1);
        let expected = || format!("one of the {} words of the vocabulary", self.len() - 1);
        found.map_err(|_| parameter("babi", "word", format!("`{word}`"), expected()))
    }

    /// The words of ids, nil as `·`, an id outside the vocabulary as `<id>`.
    pub fn decode(&self, ids: &[i32]) -> String {
        let word = |&id: &i32| {
            usize::try_from(id).ok().and_then(|id| self.words.get(id)).cloned().unwrap_or_else(|| format!("<{id}>"))
        };
        ids.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    fn ids(&self, words: &[String]) -> Result<Vec<i32>, DatasetError> {
        words.iter().map(|word| self.id(word)).collect()
    }
}

/// One question with everything that was told before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BabiExample {
    /// In the order in which they were told.
    pub sentences: Vec<Vec<i32>>,
    /// The words of the question.
    pub question: Vec<i32>,
    /// The word that answers it.
    pub answer: i32,
    /// Which of the `sentences` the answer follows from, in the order given.
    pub facts: Vec<usize>,
}

/// Questions with their stories.
#[derive(Clone, Debug)]
pub struct Babi {
    /// The words behind the ids.
    pub vocabulary: BabiVocabulary,
    /// One per question.
    pub examples: Vec<BabiExample>,
}

/// Questions filled up to one shape with nil (0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BabiBatch {
    /// Number of questions.
    pub batch: usize,
    /// Sentences per story.
    pub memory: usize,
    /// Words per sentence and per question.
    pub words: usize,
    /// `[batch, memory, words]`, the newest sentence first.
    pub stories: Vec<i32>,
    /// `[batch, words]`.
    pub questions: Vec<i32>,
    /// `[batch]`.
    pub answers: Vec<i32>,
    /// For every question the places of its facts in `stories` (0 the newest), those forgotten
    /// left out.
    pub facts: Vec<Vec<usize>>,
}

impl Babi {
    /// One example per question of the stories.
    ///
    /// # Errors
    /// A word outside the vocabulary; stories without any question.
    pub fn new(stories: &[BabiStory], vocabulary: &BabiVocabulary) -> Result<Self, DatasetError> {
        let mut examples = Vec::new();
        for story in stories {
            let mut sentences = Vec::new();
            // Where each line is among the sentences; the reader lets facts point at sentences only.
            let mut place = Vec::new();
            for line in &story.lines {
                place.push(sentences.len());
                match line {
                    BabiLine::Sentence(words) => sentences.push(vocabulary.ids(words)?),
                    BabiLine::Question { question, answer, facts } => examples.push(BabiExample {
                        sentences: sentences.clone(),
                        question: vocabulary.ids(question)?,
                        answer: vocabulary.id(answer)?,
                        facts: facts.iter().map(|&line| place[line]).collect(),
                    }),
                }
            }
        }
        if examples.is_empty() {
            return Err(parameter("babi", "stories", stories.len(), "stories with at least one question".into()));
        }
        Ok(Self { vocabulary: vocabulary.clone(), examples })
    }

    /// Words of the longest sentence or question.
    pub fn words(&self) -> usize {
        let longest = |e: &BabiExample| e.sentences.iter().chain([&e.question]).map(Vec::len).max();
        self.examples.iter().filter_map(longest).max().unwrap_or(0)
    }

    /// Sentences of the longest story.
    pub fn sentences(&self) -> usize {
        self.examples.iter().map(|e| e.sentences.len()).max().unwrap_or(0)
    }

    /// Share of the most frequent answer: accuracy of a guess that does not read.
    pub fn chance(&self) -> f64 {
        let mut counts = vec![0usize; self.vocabulary.len()];
        self.examples.iter().for_each(|e| counts[e.answer as usize] += 1);
        counts.into_iter().max().unwrap_or(0) as f64 / self.examples.len() as f64
    }

    /// A tenth or so of the examples, kept back, and the rest, after a seeded shuffle. Questions of one story may be on
    /// both sides; those of the test set are of other stories.
    ///
    /// # Errors
    /// A share that leaves one part without examples.
    pub fn split(&self, share: f64, seed: u64) -> Result<(Self, Self), DatasetError> {
        let kept = (share * self.examples.len() as f64).round();
        if !(kept >= 1.0 && kept < self.examples.len() as f64) {
            let expected = format!("a share of {} examples that leaves some on both sides", self.examples.len());
            return Err(parameter("babi", "validation", share, expected));
        }
        let order = self.order(seed, usize::MAX);
        let part = |places: &[usize]| Self {
            vocabulary: self.vocabulary.clone(),
            examples: places.iter().map(|&i| self.examples[i].clone()).collect(),
        };
        let (validation, train) = order.split_at(kept as usize);
        Ok((part(train), part(validation)))
    }

    /// The examples' places in a random order, a function of seed and epoch.
    pub fn order(&self, seed: u64, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        order.shuffle(&mut stream(Purpose::Train, seed, epoch, usize::MAX));
        order
    }

    /// The examples at `places`, each with its most recent `memory` sentences, filled up to `words`
    /// words.
    ///
    /// # Errors
    /// A sentence longer than `words`, no room for any sentence, no places.
    ///
    /// # Panics
    /// A place outside `examples`.
    pub fn batch(&self, places: &[usize], memory: usize, words: usize) -> Result<BabiBatch, DatasetError> {
        if memory == 0 {
            return Err(parameter("babi", "memory", memory, "at least 1".into()));
        }
        if places.is_empty() {
            return Err(parameter("babi", "places", "[]", "at least one example".into()));
        }
        let mut out = BabiBatch {
            batch: places.len(),
            memory,
            words,
            stories: vec![0; places.len() * memory * words],
            questions: vec![0; places.len() * words],
            answers: Vec::with_capacity(places.len()),
            facts: Vec::with_capacity(places.len()),
        };
        for (row, example) in places.iter().map(|&i| &self.examples[i]).enumerate() {
            let recent = example.sentences.iter().rev().take(memory);
            let longest = recent.clone().chain([&example.question]).map(Vec::len).max().unwrap_or(0);
            if longest > words {
                let expected = format!("at least {longest}, the words of the longest sentence");
                return Err(parameter("babi", "words", words, expected));
            }
            for (age, sentence) in recent.enumerate() {
                out.stories[(row * memory + age) * words..][..sentence.len()].copy_from_slice(sentence);
            }
            out.questions[row * words..][..example.question.len()].copy_from_slice(&example.question);
            out.answers.push(example.answer);
            let ages = example.facts.iter().map(|fact| example.sentences.len() - 1 - fact);
            out.facts.push(ages.filter(|&age| age < memory).collect());
        }
        Ok(out)
    }
}
