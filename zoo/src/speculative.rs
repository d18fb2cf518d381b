//! Speculative decoding (Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318)
//! with the model's own prediction head as the draft.
//!
//! ```text
//! draft d ~ q, the head's distribution of the token after the next
//! one pass of the trunk over what is known and d gives p, the distribution of that token, and the next
//! d is kept with probability min(1, p(d)/q(d)), and the pass has made two tokens;
//! else the token is drawn from max(p − q, 0) / Σ max(p − q, 0), and it has made one
//! ```
//! What is written has the trunk's own distribution whatever the draft; how much is gained depends on how
//! often it is right. A state cannot be taken back, so the trunk goes on from the caches before the
//! pass where a draft was wrong, and reads again what it had not kept.

use crate::{Cache, Decoder, GenerateConfig, Sampler, Silent, ZooError};
use burn::module::Module;
use burn::tensor::Tensor;

/// A text and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// The new tokens.
    pub tokens: Vec<i32>,
    /// Tokens that the head proposed.
    pub drafted: usize,
    /// Those of them that stayed.
    pub accepted: usize,
    /// Passes of the trunk, the one over the prompt included.
    pub passes: usize,
}

impl Speculation {
    /// The share of drafts that were kept; NaN where there was none.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.drafted as f64
    }
}

/// Known tokens that wait to be read with the next draft; more are read without one.
const MOST_PENDING: usize = 8;

impl Decoder {
    /// What follows the prompt, drafted by the prediction head and checked by the trunk.
    ///
    /// ```
    /// use zoo::{GenerateConfig, preset};
    ///
    /// let model = preset("qwen3-next", "nano")?.init(0, &burn::tensor::Device::flex())?;
    /// let text = model.speculate(&[1, 2, 3], &GenerateConfig::new(8))?;
    /// assert_eq!(text.tokens.len(), 8);
    /// assert!(text.passes <= 8);
    /// # Ok::<(), zoo::ZooError>(())
    /// ```
    ///
    /// # Errors
    /// A model without prediction head; as [`Self::stream`].
    pub fn speculate(&self, prompt: &[i32], config: &GenerateConfig) -> Result<Speculation, ZooError> {
        let model = self.valid();
        let Some(mtp) = &model.mtp else {
            let expected = "a model with a prediction head (`mtp` in its configuration)".into();
            return Err(ZooError::Invalid { name: "the draft", value: "none".into(), expected });
        };
        model.check_prompts(&[prompt.to_vec()], config)?;
        let mut sampler = Sampler::new(config.sampling.clone(), config.seed)?;
        let (mut cache, mut draft_cache) = (model.cache(), Cache::default());
        let mut tokens = prompt.to_vec();
        let mut result = Speculation { tokens: Vec::new(), drafted: 0, accepted: 0, passes: 0 };
        let ids = |ids: &[i32]| model.tokens(ids, [1, ids.len()]);
        // The trunk's states after tokens that the head has not seen, each with the token after it.
        let mut states = model.hidden(ids(prompt)?, Some(&mut cache), &mut Silent);
        result.passes += 1;
        let mut new = vec![sampler.pick(&model.row(&states, prompt.len() - 1))?];
        let mut pending = Vec::new(); // known and not in the caches
        let end = prompt.len() + config.max_new_tokens;
        loop {
            let stop = new.iter().position(|id| config.stop.contains(id));
            tokens.extend(new[..stop.unwrap_or(new.len())].iter().take(end - tokens.len()));
            if stop.is_some() || tokens.len() == end {
                result.tokens = tokens.split_off(prompt.len());
                return Ok(result);
            }
            pending.push(*new.last().expect("a pass makes a token"));
            if pending.len() > MOST_PENDING {
                let (last, rest) = pending.split_last().expect("more than one");
                model.hidden(ids(rest)?, Some(&mut cache), &mut Silent);
                result.passes += 1;
                pending = vec![*last];
            }

            let [_, unseen, _] = states.dims();
            let next = model.embed(ids(&tokens[tokens.len() - unseen..])?);
            let drafted = mtp.forward(states, next, Some(&mut draft_cache), &mut Silent);
            let q = config.sampling.probabilities(&model.row(&drafted, unseen - 1))?;
            let draft = sampler.draw(&q);
            result.drafted += 1;

            let before = cache.clone();
            let known = pending.len();
            let passed = model.hidden(ids(&[&pending[..], &[draft]].concat())?, Some(&mut cache), &mut Silent);
            result.passes += 1;
            let p = config.sampling.probabilities(&model.row(&passed, known - 1))?;
            if let Some(other) = replaced(&p, &q, draft, &mut sampler) {
                new = vec![other];
                states = passed.narrow(1, known - 1, 1);
                cache = before;
            } else {
                result.accepted += 1;
                new = vec![draft, sampler.pick(&model.row(&passed, known))?];
                states = passed.narrow(1, known - 1, 2);
                pending.clear();
            }
        }
    }

    /// Logits of one token of `[1, time, d_model]`.
    fn row(&self, states: &Tensor<3>, token: usize) -> Vec<f32> {
        let logits = self.logits(states.clone().narrow(1, token, 1)).into_data();
        logits.convert::<f32>().try_into_vec().expect("converted to f32")
    }
}

/// The token in the place of the draft from `q`, none where it stays: what is kept or drawn instead is
/// distributed as `p`.
fn replaced(p: &[f64], q: &[f64], draft: i32, sampler: &mut Sampler) -> Option<i32> {
    let id = draft as usize;
    if sampler.uniform() * q[id] < p[id] {
        return None;
    }
    let rest: Vec<f64> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).collect();
    let total: f64 = rest.iter().sum();
    // Nothing is left only where p = q, and there nothing is refused but by rounding.
    let rest = if total > 0.0 { rest.iter().map(|r| r / total).collect() } else { p.to_vec() };
    Some(sampler.draw(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;

    /// χ² of what comes out against `p`, as for the sampler itself.
    #[test]
    fn what_is_kept_or_drawn_instead_has_the_distribution_of_the_trunk() {
        const DRAWS: usize = 40_000;
        let p = [0.5, 0.2, 0.0, 0.3];
        for (seed, q) in
            [[0.25; 4], [0.1, 0.1, 0.7, 0.1], p, [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]].iter().enumerate()
        {
            let mut sampler = Sampler::new(Sampling::temperature(1.0), seed as u64).unwrap();
            let (mut counts, mut kept) = ([0usize; 4], 0);
            for _ in 0..DRAWS {
                let draft = sampler.draw(q);
                let other = replaced(&p, q, draft, &mut sampler);
                kept += usize::from(other.is_none());
                counts[other.unwrap_or(draft) as usize] += 1;
            }
            let expected = p.map(|p| p * DRAWS as f64);
            let of = |(count, expected): (&usize, &f64)| (*count as f64 - expected).powi(2) / expected.max(1e-9);
            let chi_squared: f64 = counts.iter().zip(&expected).map(of).sum();
            assert!(chi_squared < 2.0 + 6.0 * 2.0, "{q:?}: χ² {chi_squared:.1}, counts {counts:?}");
            // A draft is kept as often as the two distributions overlap.
            let overlap: f64 = p.iter().zip(q).map(|(p, q)| p.min(*q)).sum();
            let share = kept as f64 / DRAWS as f64;
            assert!((share - overlap).abs() < 0.02, "{q:?}: {share} kept, expected {overlap}");
        }
    }
}
