//! A group of blocks run several times with the same weights: the universal transformer (Dehghani et
//! al. 2018, arXiv 1807.03819) and looped transformers (Yang et al. 2023, arXiv 2311.12424).
//!
//! ```text
//! h₁ = f(e)      h_{r+1} = f(h_r)                 f: the group, e: the state that enters it
//!                h_{r+1} = f(h_r + e)             with `inject`
//! ```
//! With `halting` (adaptive computation time, Graves 2016, arXiv 1603.08983) a token takes a mean of
//! its states, each weighted by the probability to stop there:
//! ```text
//! p_r = σ(h_r wᵀ + b)                w_r = p_r             while Σ_{s ≤ r} p_s ≤ 1 − ε and r < R
//!                                    w_r = 1 − Σ_{s < r} p_s   where it stops; 0 after
//! y = Σ_r w_r h_r                    ponder = loops it ran + its last w_r
//! ```
//! Every token is still carried through all loops, for those that look at it later.
//!
//! Parameters: none, and `D + 1` with halting.

use crate::error::{ZooError, positive};
use crate::{Init, Linear, Tap};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation::sigmoid};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopConfig {
    /// How often the group runs.
    pub times: usize,
    /// The first block of the group.
    #[serde(default)]
    pub first: usize,
    /// The last block of the group; the model's last when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Whether the state that enters the group is added again before every further loop.
    #[serde(default)]
    pub inject: bool,
    /// The ε of adaptive halting; every token takes the last state when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halting: Option<f64>,
}

impl LoopConfig {
    /// All blocks, run `times` times.
    pub fn new(times: usize) -> Self {
        Self { times, first: 0, last: None, inject: false, halting: None }
    }

    pub fn validate(&self, layers: usize) -> Result<(), ZooError> {
        positive("looped.times", self.times)?;
        let last = self.last(layers);
        if last >= layers || self.first > last {
            return Err(ZooError::Invalid {
                name: "looped",
                value: format!("blocks {} to {last}", self.first),
                expected: format!("a group within blocks 0 to {}", layers.saturating_sub(1)),
            });
        }
        // Every run of a block has a cache of its own.
        positive("looped.times × blocks of the group", self.times.saturating_mul(last - self.first + 1))?;
        match self.halting {
            Some(epsilon) if !(epsilon > 0.0 && epsilon < 1.0) => Err(ZooError::Invalid {
                name: "looped.halting",
                value: epsilon.to_string(),
                expected: "between 0 and 1".into(),
            }),
            _ => Ok(()),
        }
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.halting.map_or(0, |_| d_model + 1)
    }

    pub fn init(&self, layers: usize, d_model: usize, init: &mut Init) -> Looped {
        Looped {
            halt_proj: self.halting.map(|_| Linear::new(d_model, 1, init)),
            // As in the published code: a token begins by leaving early, 0.73 of its mass (σ(1)) after the first loop.
            halt_bias: self.halting.map(|_| init.constant([1], 1.0)),
            first: self.first,
            last: self.last(layers),
            config: self.clone(),
        }
    }

    fn last(&self, layers: usize) -> usize {
        self.last.unwrap_or(layers.saturating_sub(1))
    }
}

/// Which blocks are looped, and when a token stops.
#[derive(Module, Debug)]
pub struct Looped {
    pub halt_proj: Option<Linear>,
    pub halt_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) first: usize,
    #[module(skip)]
    pub(crate) last: usize,
    #[module(skip)]
    config: LoopConfig,
}

impl Looped {
    /// How many blocks run, counted as often as they do, in a model of `layers`.
    pub(crate) fn depth(&self, layers: usize) -> usize {
        layers + (self.config.times - 1) * (self.last - self.first + 1)
    }

    /// Runs `group` on `[batch, time, d_model]` as often as configured. Offers `halting`
    /// `[batch, time, loops]`, the weights of the states, and `ponder` `[batch, time]`.
    pub(crate) fn run(
        &self,
        entering: Tensor<3>,
        tap: &mut dyn Tap,
        mut group: impl FnMut(Tensor<3>, &mut dyn Tap) -> Tensor<3>,
    ) -> Tensor<3> {
        let mut states: Vec<Tensor<3>> = Vec::new();
        for _ in 0..self.config.times {
            let x = match states.last() {
                None => entering.clone(),
                Some(state) if self.config.inject => state.clone() + entering.clone(),
                Some(state) => state.clone(),
            };
            states.push(group(x, tap));
        }
        let (Some(proj), Some(bias), Some(epsilon)) = (&self.halt_proj, &self.halt_bias, self.config.halting) else {
            return states.pop().expect("at least one loop");
        };
        let stop = |state: &Tensor<3>| sigmoid(proj.forward(state.clone()) + bias.val().unsqueeze());
        let (weights, ponder) = halt(&states.iter().map(stop).collect::<Vec<_>>(), epsilon);
        let weights = tap.at("halting", weights);
        tap.at("ponder", ponder);
        let weighted = states.into_iter().enumerate().map(|(r, state)| state * weights.clone().narrow(2, r, 1));
        weighted.reduce(|a, b| a + b).expect("at least one loop")
    }
}

/// From the probabilities to stop, `[batch, time, 1]` a loop, the weight of every loop
/// `[batch, time, loops]` and the ponder cost `[batch, time]`.
fn halt(probabilities: &[Tensor<3>], epsilon: f64) -> (Tensor<3>, Tensor<2>) {
    let zeros = probabilities[0].zeros_like();
    let (mut running, mut spent, mut ponder) = (zeros.ones_like(), zeros.clone(), zeros.clone());
    let mut weights = Vec::new();
    for (r, p) in probabilities.iter().enumerate() {
        let stops = match r + 1 == probabilities.len() {
            true => running.clone(),
            false => {
                let over = (spent.clone() + p.clone()).greater_elem(1.0 - epsilon);
                zeros.clone().mask_where(over, running.clone())
            }
        };
        let goes_on = running.clone() - stops.clone();
        let remainder = (spent.clone().neg() + 1.0) * stops;
        let weight = p.clone() * goes_on.clone() + remainder.clone();
        ponder = ponder + running + remainder;
        spent = spent + p.clone() * goes_on.clone();
        running = goes_on;
        weights.push(weight);
    }
    let [batch, time, _] = zeros.dims();
    (Tensor::cat(weights, 2), ponder.reshape([batch, time]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_token_stops_when_its_probabilities_reach_one() {
        let of = |p: [f64; 2]| Tensor::<3>::from_data([[[p[0]], [p[1]]]], &Device::flex());
        // The first token: 0.6 then 0.5 passes 0.99, the rest is 0.4. The second never gets there.
        let (weights, ponder) = halt(&[of([0.6, 0.1]), of([0.5, 0.2]), of([0.9, 0.3])], 0.01);
        let weights: Vec<f32> = weights.into_data().iter().collect();
        let expected = [0.6, 0.4, 0.0, 0.1, 0.2, 0.7];
        assert!(weights.iter().zip(expected).all(|(w, e)| (w - e).abs() < 1e-6), "{weights:?}");
        let ponder: Vec<f32> = ponder.into_data().iter().collect();
        assert!((ponder[0] - 2.4).abs() < 1e-6 && (ponder[1] - 3.7).abs() < 1e-6, "{ponder:?}");
    }

    #[test]
    fn more_runs_than_any_model_has_blocks_are_an_error() {
        let looped = LoopConfig::new(1 << 19);
        looped.validate(2).unwrap();
        let error = looped.validate(3).unwrap_err().to_string();
        assert!(error.contains("looped.times") && error.contains("1572864"), "{error}");
    }

    #[test]
    fn a_group_outside_the_model_is_an_error() {
        let error = LoopConfig { first: 2, last: Some(4), ..LoopConfig::new(2) }.validate(4).unwrap_err().to_string();
        assert!(error.contains("blocks 2 to 4") && error.contains("0 to 3"), "{error}");
    }
}
