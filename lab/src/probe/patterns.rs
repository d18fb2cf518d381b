//! Where the queries look.

use super::observe;
use crate::LabError;
use datasets::Batch;
use serde::Serialize;
use zoo::Decoder;

/// The pattern of one head over one sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    pub layer: usize,
    pub head: usize,
    /// `pattern`, and for differential attention its two halves `pattern_positive` and
    /// `pattern_negative`.
    pub name: String,
    /// Tokens of the sequence.
    pub time: usize,
    /// `[time, time]`, row-major: the weight of value `s` in output `t` at `t · time + s`. Softmax
    /// rows sum to 1; those of differential attention and of the delta rule are signed.
    pub matrix: Vec<f32>,
}

impl Pattern {
    /// The weights of output `t` over the values, `[time]`.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.matrix[t * self.time..(t + 1) * self.time]
    }

    /// All rows, for a heat map.
    pub fn rows(&self) -> Vec<Vec<f64>> {
        (0..self.time).map(|t| self.row(t).iter().map(|&w| w.into()).collect()).collect()
    }
}

/// The pattern of every layer and head on one sequence of token ids. For linear attention it is the
/// exact effective pattern, erase term included.
///
/// # Errors
/// A token outside the vocabulary.
pub fn patterns(model: &Decoder, ids: &[i32]) -> Result<Vec<Pattern>, LabError> {
    let record = observe(model, &sequence(ids), &["blocks.*.mixer.pattern*"])?;
    let mut all = Vec::new();
    for name in ["pattern", "pattern_positive", "pattern_negative"] {
        for (layer, value) in record.layers(name) {
            let [_, heads, time, source] = value.clone().tensor::<4>().dims();
            for (head, matrix) in value.to_vec().chunks_exact(time * source).enumerate().take(heads) {
                all.push(Pattern { layer, head, name: name.into(), time, matrix: matrix.to_vec() });
            }
        }
    }
    Ok(all)
}

fn sequence(ids: &[i32]) -> Batch {
    Batch { batch: 1, time: ids.len(), ids: ids.to_vec(), targets: ids.to_vec(), mask: vec![0.0; ids.len()] }
}
