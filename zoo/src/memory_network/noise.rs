//! Random noise: empty memories among the sentences, while training.

use super::NIL;
use crate::ZooError;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::index};

/// The stories with up to `share` of empty memories put in at random places (the paper: 0.1), so
/// that a time word cannot be learned by heart.
///
/// A story of n sentences gets a random number of empty memories between 0 and `⌈share · n⌉`, each
/// at a random age; what is older moves back, and what then no longer fits is forgotten. `stories`
/// are ids `[batch, memory, words]`, the newest sentence first.
///
/// # Errors
/// A share outside [0, 1], or ids that do not fill the shape.
pub fn with_empty_memories(
    stories: &[i32],
    [batch, memory, words]: [usize; 3],
    share: f64,
    seed: u64,
) -> Result<Vec<i32>, ZooError> {
    if !(0.0..=1.0).contains(&share) {
        let expected = "a share between 0 and 1".into();
        return Err(ZooError::Invalid { name: "random noise", value: share.to_string(), expected });
    }
    if stories.len() != batch * memory * words || stories.is_empty() {
        return Err(ZooError::Invalid {
            name: "token ids",
            value: stories.len().to_string(),
            expected: format!("{}: {batch} stories of {memory} × {words}", batch * memory * words),
        });
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut noisy = vec![NIL; stories.len()];
    for (story, noisy) in stories.chunks(memory * words).zip(noisy.chunks_mut(memory * words)) {
        let sentences: Vec<&[i32]> = story.chunks(words).filter(|s| s.iter().any(|&id| id != NIL)).collect();
        let empty = rng.random_range(0..=(share * sentences.len() as f64).ceil() as usize);
        let mut ages = index::sample(&mut rng, sentences.len() + empty, sentences.len()).into_vec();
        ages.sort_unstable();
        for (sentence, age) in sentences.into_iter().zip(ages).filter(|(_, age)| *age < memory) {
            noisy[age * words..][..words].copy_from_slice(sentence);
        }
    }
    Ok(noisy)
}
