//! The attention of every hop over the sentences of one story, as in the paper's figure 2.

use super::logits;
use crate::LabError;
use crate::error::invalid;
use burn::module::Module;
use datasets::Babi;
use std::fmt;
use zoo::{MemoryNetwork, Record};

/// What a memory network looks at on the way to one answer.
///
/// Printed it is a table with a line per sentence and a column per hop. As a figure:
///
/// ```
/// # use lab::{HopAttention, plot::HeatMap};
/// fn figure(shown: &HopAttention) -> HeatMap {
///     HeatMap::new(format!("{}?", shown.question), &shown.hops).x("sentence", "oldest first").y("hop", "").annotate()
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HopAttention {
    /// Those that the network remembers, in the order in which they were told.
    pub sentences: Vec<String>,
    /// Of every sentence, whether the answer follows from it.
    pub supports: Vec<bool>,
    /// `[hops][sentences]`: each hop's weights; with `empty` they sum to 1.
    pub hops: Vec<Vec<f32>>,
    /// Of every hop, the weight of all empty memories together.
    pub empty: Vec<f32>,
    pub question: String,
    pub answer: String,
    /// What the network says.
    pub predicted: String,
}

/// The attention of every hop of `model` for the example at `place` (from the tap `hops.N.pattern`).
///
/// # Errors
/// A place outside the examples; ids outside the network's vocabulary.
pub fn hop_attention(model: &MemoryNetwork, data: &Babi, place: usize) -> Result<HopAttention, LabError> {
    let Some(example) = data.examples.get(place) else {
        return invalid("place", place, &format!("below {}, the number of questions", data.examples.len()));
    };
    let batch = data.batch(&[place], model.config.memory, data.words())?;
    let mut record = Record::new(&["hops.*.pattern"]);
    let predicted = logits(&model.valid(), &batch, &mut record)?.argmax(1).into_data().convert::<i32>();
    let predicted = predicted.try_into_vec::<i32>().expect("converted to i32 just before");
    // The tap has the newest first and the empty memories behind.
    let known = example.sentences.len().min(model.config.memory);
    let mut shown = HopAttention {
        sentences: (example.sentences.iter().rev().take(known).rev()).map(|ids| data.vocabulary.decode(ids)).collect(),
        supports: (0..known).rev().map(|age| batch.facts[0].contains(&age)).collect(),
        hops: Vec::new(),
        empty: Vec::new(),
        question: data.vocabulary.decode(&example.question),
        answer: data.vocabulary.decode(&[example.answer]),
        predicted: data.vocabulary.decode(&predicted),
    };
    for hop in 0..model.config.hops {
        let pattern = record.values[&format!("hops.{hop}.pattern")].to_vec();
        shown.hops.push(pattern[..known].iter().rev().copied().collect());
        shown.empty.push(pattern[known..].iter().sum());
    }
    Ok(shown)
}

impl fmt::Display for HopAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = if self.predicted == self.answer { "right".into() } else { format!("wrong: {}", self.answer) };
        writeln!(f, "{}? {} ({right})", self.question, self.predicted)?;
        let heads: String = (1..=self.hops.len()).map(|hop| format!("  hop {hop}")).collect();
        writeln!(f, "fact{heads}  sentence")?;
        let mut line = |fact: &str, weights: &mut dyn Iterator<Item = f32>, sentence: &str| {
            let weights: String = weights.map(|weight| format!("{weight:7.2}")).collect();
            writeln!(f, "{fact:4}{weights}  {sentence}")
        };
        for (place, (sentence, supports)) in self.sentences.iter().zip(&self.supports).enumerate() {
            let fact = if *supports { "  *" } else { "" };
            line(fact, &mut self.hops.iter().map(|hop| hop[place]), sentence)?;
        }
        line("", &mut self.empty.iter().copied(), "(empty memories)")
    }
}
