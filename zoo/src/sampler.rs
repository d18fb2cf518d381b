//! The choice of the next token from its logits.

use crate::ZooError;
use crate::error::{positive, positive_number};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Which distribution the next token is drawn from. In this order:
///
/// 1. temperature T: `p ∝ exp(logit / T)`;
/// 2. top-k: the k likeliest tokens stay;
/// 3. top-p (nucleus): of those, rescaled to 1, the fewest likeliest whose sum reaches p stay.
///
/// What stays is rescaled to 1. Between equal logits the smaller id counts as likelier, so exactly k
/// tokens stay, and `top_k = 1` is the greedy choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Above 0; below 1 sharper, above 1 flatter. Default none: the likeliest token alone, which is
    /// the limit T → 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// At least 1. Default none: all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// In (0, 1]. Default none: all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Drawn from all tokens at `temperature`; 1 is the model's own distribution.
    pub fn temperature(temperature: f64) -> Self {
        Self { temperature: Some(temperature), ..Self::default() }
    }

    pub fn top_k(self, k: usize) -> Self {
        Self { top_k: Some(k), ..self }
    }

    pub fn top_p(self, p: f64) -> Self {
        Self { top_p: Some(p), ..self }
    }

    /// # Errors
    /// The value that cannot be, and what could.
    pub fn validate(&self) -> Result<(), ZooError> {
        self.temperature.map_or(Ok(()), |t| positive_number("temperature", t))?;
        self.top_k.map_or(Ok(()), |k| positive("top_k", k).map(drop))?;
        let filters = [("top_k", self.top_k.map(|k| k.to_string())), ("top_p", self.top_p.map(|p| p.to_string()))];
        if let (None, Some((name, value))) =
            (self.temperature, filters.into_iter().find_map(|(name, value)| Some((name, value?))))
        {
            let expected = "a temperature beside it (1 is the model's own distribution): without one the likeliest \
                            token is taken whatever stays";
            return Err(ZooError::Invalid { name, value, expected: expected.into() });
        }
        match self.top_p {
            // A comparison that NaN fails, too.
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                let expected = "above 0 and at most 1".into();
                Err(ZooError::Invalid { name: "top_p", value: p.to_string(), expected })
            }
            _ => Ok(()),
        }
    }

    /// The probability of every token of the vocabulary; those that do not stay have 0.
    ///
    /// # Errors
    /// As [`Self::validate`]; logits without a distribution (NaN, +∞, nothing above −∞).
    pub fn probabilities(&self, logits: &[f32]) -> Result<Vec<f64>, ZooError> {
        self.validate()?;
        let mut all = vec![0.0; logits.len()];
        for (id, probability) in self.kept(logits)? {
            all[id] = probability;
        }
        Ok(all)
    }

    /// The tokens that stay, with their probabilities.
    fn kept(&self, logits: &[f32]) -> Result<Vec<(usize, f64)>, ZooError> {
        let (best, largest) = likeliest(logits)?;
        let Some(temperature) = self.temperature else { return Ok(vec![(best, 1.0)]) };
        let mut kept: Vec<(usize, f64)> = logits.iter().map(|&logit| f64::from(logit) + 0.0).enumerate().collect();
        if self.top_k.is_some() || self.top_p.is_some() {
            kept.sort_by(|(_, a), (_, b)| b.total_cmp(a)); // stable: ids of equal logits stay in order, and −0 is 0
        }
        kept.truncate(self.top_k.unwrap_or(kept.len()));
        for (_, value) in &mut kept {
            *value = ((*value - largest) / temperature).exp();
        }
        if let Some(p) = self.top_p {
            let (total, mut sum) = (total(&kept), 0.0);
            let reached = kept.iter().position(|(_, weight)| {
                sum += weight;
                sum >= p * total
            });
            kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        }
        let total = total(&kept);
        for (_, weight) in &mut kept {
            *weight /= total;
        }
        Ok(kept)
    }
}

fn total(weights: &[(usize, f64)]) -> f64 {
    weights.iter().map(|(_, weight)| weight).sum()
}

/// The smallest id with the largest logit.
fn likeliest(logits: &[f32]) -> Result<(usize, f64), ZooError> {
    let invalid = |value: String| ZooError::Invalid {
        name: "the logits",
        value,
        expected: "numbers (or −∞ for what must not be chosen), one of them finite".into(),
    };
    if let Some(id) = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return Err(invalid(format!("{} for token {id}", logits[id])));
    }
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, largest)| largest) {
            best = Some((id, logit));
        }
    }
    let (id, largest) = best.ok_or_else(|| invalid(format!("none above −∞ among {}", logits.len())))?;
    Ok((id, largest.into()))
}

/// Draws tokens, each from the distribution that a [`Sampling`] makes of its logits, with a seeded
/// generator on the host: a seed means the same draws whatever the device.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: StdRng,
}

impl Sampler {
    /// # Errors
    /// As [`Sampling::validate`].
    pub fn new(sampling: Sampling, seed: u64) -> Result<Self, ZooError> {
        sampling.validate()?;
        Ok(Self { sampling, rng: StdRng::seed_from_u64(seed) })
    }

    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The next token of logits `[vocab_size]`. Takes one number from the generator, none when greedy.
    ///
    /// # Errors
    /// As [`Sampling::probabilities`].
    pub fn pick(&mut self, logits: &[f32]) -> Result<i32, ZooError> {
        let kept = self.sampling.kept(logits)?;
        Ok(match kept[..] {
            [(only, _)] if self.sampling.temperature.is_none() => token(only),
            _ => self.draw_from(&kept),
        })
    }

    /// A token by its probabilities `[vocab_size]`.
    pub(crate) fn draw(&mut self, probabilities: &[f64]) -> i32 {
        self.draw_from(&probabilities.iter().copied().enumerate().collect::<Vec<_>>())
    }

    fn draw_from(&mut self, kept: &[(usize, f64)]) -> i32 {
        let mut left = self.uniform();
        let drawn = kept.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        // What rounding leaves over falls to the last token that can be drawn.
        token(drawn.or_else(|| kept.iter().rfind(|(_, p)| *p > 0.0)).map_or(0, |(id, _)| *id))
    }

    /// A number in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.rng.random()
    }
}

fn token(id: usize) -> i32 {
    i32::try_from(id).expect("a vocabulary of fewer than 2³¹ tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.5, 2.0, -1.0, f32::NEG_INFINITY, 2.0, 1.0];

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        assert_eq!(Sampling::temperature(1.0).top_k(1).probabilities(&[-0.0, 0.0]).unwrap(), [1.0, 0.0]);
        assert_eq!(Sampling::greedy().probabilities(&[-0.0, 0.0]).unwrap(), [1.0, 0.0]);
    }

    #[test]
    fn temperature_divides_the_logits() {
        for t in [0.3, 1.0, 2.5] {
            assert_close(&Sampling::temperature(t).probabilities(&LOGITS).unwrap(), &softmax(&LOGITS, t));
        }
        // So cold that nothing but the largest is left, ties and all, and nothing overflows.
        assert_close(&Sampling::temperature(1e-300).probabilities(&LOGITS).unwrap(), &[0.0, 0.5, 0.0, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn greedy_is_the_first_of_the_largest_and_what_a_vanishing_temperature_tends_to() {
        assert_close(&Sampling::greedy().probabilities(&LOGITS).unwrap(), &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(Sampler::new(Sampling::greedy(), 0).unwrap().pick(&LOGITS).unwrap(), 1);
        let cold = Sampling::temperature(1e-3).probabilities(&[0.1, 0.3, 0.2]).unwrap();
        assert_close(&cold, &[0.0, 1.0, 0.0]);
        let one = Sampling::temperature(5.0).top_k(1).probabilities(&LOGITS).unwrap();
        assert_close(&one, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_keeps_exactly_k_and_of_equal_ones_the_smaller_ids() {
        let probabilities = Sampling::temperature(1.0).top_k(2).probabilities(&[1.0, 3.0, 1.0, 1.0]).unwrap();
        let e2 = (2f64).exp();
        assert_close(&probabilities, &[1.0 / (1.0 + e2), e2 / (1.0 + e2), 0.0, 0.0]);
        let all = Sampling::temperature(1.0);
        assert_eq!(all.clone().top_k(99).probabilities(&LOGITS).unwrap().len(), 6);
        assert_close(&all.clone().top_k(99).probabilities(&LOGITS).unwrap(), &all.probabilities(&LOGITS).unwrap());
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_p() {
        // Probabilities 0.5, 0.25, 0.125, 0.125, exactly.
        let logits: Vec<f32> = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln).to_vec();
        let kept = |p: f64| -> Vec<usize> {
            let probabilities = Sampling::temperature(1.0).top_p(p).probabilities(&logits).unwrap();
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            (0..4).filter(|&id| probabilities[id] > 0.0).collect()
        };
        assert_eq!(kept(1e-9), [1], "one token at least");
        assert_eq!(kept(0.49), [1]);
        assert_eq!(kept(0.51), [1, 3]);
        assert_eq!(kept(0.74), [1, 3]);
        assert_eq!(kept(0.76), [0, 1, 3], "of the two at 0.125 the smaller id");
        assert_eq!(kept(0.88), [0, 1, 2, 3]);
        assert_eq!(kept(1.0), [0, 1, 2, 3]);
        let even = Sampling::temperature(1.0).top_p(0.5).probabilities(&[0.0; 4]).unwrap();
        assert_close(&even, &[0.5, 0.5, 0.0, 0.0]); // reaching p is enough
    }

    #[test]
    fn the_filters_come_in_order_temperature_then_top_k_then_top_p() {
        let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln).to_vec();
        let kept = |sampling: Sampling| sampling.probabilities(&logits).unwrap().iter().filter(|p| **p > 0.0).count();
        // Of all, 0.4 + 0.3 do not reach 0.75; of the first two, 0.4 / 0.7 does not and both do.
        assert_eq!(kept(Sampling::temperature(1.0).top_p(0.75)), 3);
        assert_eq!(kept(Sampling::temperature(1.0).top_p(0.75).top_k(2)), 2);
        assert_eq!(kept(Sampling::temperature(1.0).top_p(0.55).top_k(2)), 1, "0.4 / 0.7 = 0.57 of what top-k left");
        // Colder, the first alone reaches it.
        assert_eq!(kept(Sampling::temperature(0.1).top_p(0.75)), 1);
    }

    /// Pearson's χ² of drawn frequencies against the exact probabilities: with m possible tokens its
    /// mean is m − 1 and its variance 2(m − 1); six standard deviations are far beyond chance.
    #[test]
    fn draws_have_the_exact_probabilities() {
        const DRAWS: usize = 40_000;
        for (seed, sampling) in [
            Sampling::temperature(1.0),
            Sampling::temperature(0.5),
            Sampling::temperature(2.0).top_k(3),
            Sampling::temperature(1.5).top_p(0.8),
            Sampling::temperature(1.0).top_k(4).top_p(0.9),
        ]
        .into_iter()
        .enumerate()
        {
            let exact = sampling.probabilities(&LOGITS).unwrap();
            let mut sampler = Sampler::new(sampling.clone(), seed as u64).unwrap();
            let mut counts = [0usize; LOGITS.len()];
            for _ in 0..DRAWS {
                counts[sampler.pick(&LOGITS).unwrap() as usize] += 1;
            }
            let mut chi_squared = 0.0;
            for (count, p) in counts.iter().zip(&exact) {
                let expected = p * DRAWS as f64;
                assert!(expected > 0.0 || *count == 0, "{sampling:?}: drew what does not stay, {counts:?}");
                if expected > 0.0 {
                    chi_squared += (*count as f64 - expected).powi(2) / expected;
                }
            }
            let freedom = (exact.iter().filter(|p| **p > 0.0).count() - 1) as f64;
            let bound = freedom + 6.0 * (2.0 * freedom).sqrt();
            assert!(chi_squared < bound, "{sampling:?}: χ² {chi_squared:.1}, expected {freedom} (below {bound:.1})");
        }
    }

    #[test]
    fn a_seed_means_the_same_draws_and_another_seed_others() {
        let draws = |seed| -> Vec<i32> {
            let mut sampler = Sampler::new(Sampling::temperature(1.0), seed).unwrap();
            (0..50).map(|_| sampler.pick(&LOGITS).unwrap()).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn what_cannot_be_is_named_with_what_could() {
        let refused = |sampling: Sampling, parts: &[&str]| {
            let message = Sampler::new(sampling.clone(), 0).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert_eq!(sampling.probabilities(&LOGITS).unwrap_err().to_string(), message);
        };
        for t in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            refused(Sampling::temperature(t), &["temperature", "a positive number", &t.to_string()]);
        }
        refused(Sampling::temperature(1.0).top_k(0), &["top_k", "at least 1", "0"]);
        refused(Sampling::greedy().top_k(40), &["top_k", "40", "a temperature beside it"]);
        refused(Sampling::greedy().top_p(0.9), &["top_p", "0.9", "a temperature beside it"]);
        for p in [0.0, -0.1, 1.01, f64::NAN] {
            refused(Sampling::temperature(1.0).top_p(p), &["top_p", "above 0 and at most 1", &p.to_string()]);
        }
        for (logits, part) in [
            (vec![0.0, f32::NAN], "NaN for token 1"),
            (vec![f32::INFINITY, 0.0], "inf for token 0"),
            (vec![f32::NEG_INFINITY; 3], "none above −∞ among 3"),
            (Vec::new(), "none above −∞ among 0"),
        ] {
            for sampling in [Sampling::greedy(), Sampling::temperature(1.0)] {
                let message = Sampler::new(sampling, 0).unwrap().pick(&logits).unwrap_err().to_string();
                assert!(message.contains(part) && message.contains("finite"), "{message}");
            }
        }
    }
}
