//! bAbI: short stories with a question whose answer follows from one, two or three sentences.
//!
//! [`read_babi`] reads the published text files; [`BabiTask`] tells stories of its own in the same
//! words and the same format, for seven of the twenty tasks. Both give [`BabiStory`]s, and [`Babi`]
//! turns those into token ids and batches.
//!
//! ```
//! use datasets::{Babi, BabiTask, BabiVocabulary};
//!
//! let task = BabiTask::SingleFact;
//! let (train, test) = (task.train(0, 1000), task.test(0, 1000));
//! println!("{}", train[0]); // 1 Mary moved to the bathroom. …
//! let vocabulary = BabiVocabulary::of(train.iter().chain(&test));
//! let train = Babi::new(&train, &vocabulary)?;
//! let batch = train.batch(&[0, 1, 2], 10, train.words())?;
//! assert_eq!(batch.stories.len(), 3 * 10 * train.words());
//! # Ok::<(), datasets::DatasetError>(())
//! ```
//!
//! Source of the tasks and of the format: Weston et al. 2015 (arXiv 1502.05698).

mod logic;
mod motive;
mod read;
mod set;
mod story;
#[cfg(test)]
mod tests;
mod world;

pub use read::{parse_babi, read_babi};
pub use set::{Babi, BabiBatch, BabiExample, BabiVocabulary};
pub use story::{BabiLine, BabiStory};

use super::parameter;
use crate::DatasetError;
use crate::random::{Purpose, stream};

/// A task that can be generated. The rules of each are stricter than those of the published files in
/// one point: without any one of its supporting facts what was told gives no answer or another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BabiTask {
    /// Task 1: where is somebody? 5 questions in 10 sentences; 6 answers.
    SingleFact,
    /// Task 2: where is a thing that was carried? 5 questions; 6 answers.
    TwoFacts,
    /// Task 3: where was a thing before? 5 questions; 6 answers.
    ThreeFacts,
    /// Task 15: what is somebody afraid of? 4 questions after 8 sentences; 4 answers.
    Deduction,
    /// Task 16: what colour is somebody? 1 question after 9 sentences; 4 answers.
    Induction,
    /// Task 19: how do you go from here to there? 1 question after 5 sentences; 12 answers.
    PathFinding,
    /// Task 20: where will somebody go, and why did they? Up to 12 questions, one after each sentence;
    /// 7 answers. As in the published files, who knows what things are for can tell some reasons from
    /// the question alone (pajamas are for the tired); of a way to the kitchen only the fact tells.
    Motivations,
}

impl BabiTask {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SingleFact,
        Self::TwoFacts,
        Self::ThreeFacts,
        Self::Deduction,
        Self::Induction,
        Self::PathFinding,
        Self::Motivations,
    ];

    /// The number of the published task.
    pub fn number(self) -> usize {
        match self {
            Self::SingleFact => 1,
            Self::TwoFacts => 2,
            Self::ThreeFacts => 3,
            Self::Deduction => 15,
            Self::Induction => 16,
            Self::PathFinding => 19,
            Self::Motivations => 20,
        }
    }

    /// The task with a published number.
    ///
    /// # Errors
    /// A number whose task cannot be generated.
    pub fn from_number(number: usize) -> Result<Self, DatasetError> {
        Self::ALL.into_iter().find(|task| task.number() == number).ok_or_else(|| {
            let valid = Self::ALL.map(|task| task.number().to_string()).join(", ");
            parameter("babi", "task", number, format!("one of {valid} (others can be read from files)"))
        })
    }

    /// Stories to learn from, until they have `questions` questions (the last story may have more).
    pub fn train(self, seed: u64, questions: usize) -> Vec<BabiStory> {
        self.stories(Purpose::Train, seed, questions)
    }

    /// Stories to test with. No seed makes them draw from the numbers of [`train`](Self::train).
    pub fn test(self, seed: u64, questions: usize) -> Vec<BabiStory> {
        self.stories(Purpose::Validation, seed, questions)
    }

    fn stories(self, purpose: Purpose, seed: u64, questions: usize) -> Vec<BabiStory> {
        let mut stories = Vec::new();
        let mut asked = 0;
        while asked < questions {
            let rng = &mut stream(purpose, seed, self.number(), stories.len());
            let story = match self {
                Self::SingleFact => world::one_fact(rng),
                Self::TwoFacts => world::two_facts(rng),
                Self::ThreeFacts => world::three_facts(rng),
                Self::Deduction => logic::deduction(rng),
                Self::Induction => logic::induction(rng),
                Self::PathFinding => logic::path_finding(rng),
                Self::Motivations => motive::motivations(rng),
            };
            asked += story.questions();
            stories.push(story);
        }
        stories
    }
}
