//! A mixture of experts (Shazeer et al. 2017) as in Qwen3-Next: a router sends every token to a few
//! of many small networks, and a shared one sees them all.
//!
//! ```text
//! p = softmax(x W_rᵀ)            over the experts
//! S = the `per_token` experts of largest p        w_e = p_e / Σ_{S} p       (or p_e, not normalised)
//! y = Σ_{e ∈ S} w_e · SwiGLU_e(x)  +  σ(x w_sᵀ) · SwiGLU_shared(x)
//! ```
//! Where two experts are level, the one listed first is taken. The choice itself has no gradient;
//! the router learns through `w`, and through [`load_balance`], which keeps it from sending
//! everything to a few.
//!
//! The matrices of all experts lie in three stacks, from which kernels read them: to put those of
//! hundreds of experts together for every call would be to copy gigabytes.
//!
//! Parameters: `E·D + 3·E·D·F`, and `3·D·F_s + D` with a shared expert.

use crate::error::{ZooError, positive};
use crate::{Init, Linear, SwiGlu, Tap};
use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Tensor, activation};
use kernels::ExpertMatrices;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertsConfig {
    pub experts: usize,
    /// How many of them see a token.
    pub per_token: usize,
    /// Width of an expert.
    pub d_ff: usize,
    /// Width of the shared expert; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<usize>,
    /// Whether the weights of the chosen experts are scaled to the sum 1.
    #[serde(default = "yes")]
    pub normalised: bool,
    /// Blocks that keep the dense feed-forward network of width `ModelConfig::d_ff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<usize>,
}

fn yes() -> bool {
    true
}

impl ExpertsConfig {
    /// `experts` of width `d_ff`, of which two see a token, and a shared one of the same width.
    pub fn new(experts: usize, d_ff: usize) -> Self {
        Self { experts, per_token: 2.min(experts), d_ff, shared: Some(d_ff), normalised: true, dense: Vec::new() }
    }

    pub fn validate(&self) -> Result<(), ZooError> {
        positive("experts.experts", self.experts)?;
        positive("experts.d_ff", self.d_ff)?;
        if let Some(shared) = self.shared {
            positive("experts.shared", shared)?;
        }
        if self.per_token == 0 || self.per_token > self.experts {
            return Err(ZooError::Invalid {
                name: "experts.per_token",
                value: self.per_token.to_string(),
                expected: format!("from 1 to the {} experts", self.experts),
            });
        }
        Ok(())
    }

    pub fn parameters(&self, d_model: usize) -> usize {
        self.experts * (d_model + 3 * d_model * self.d_ff) + self.shared.map_or(0, |d_ff| 3 * d_model * d_ff + d_model)
    }

    pub fn init(&self, d_model: usize, init: &mut Init) -> MixtureOfExperts {
        let router = Linear::new(d_model, self.experts, init);
        let [gate, up, down] = init.networks(self.experts, d_model, self.d_ff);
        MixtureOfExperts {
            router,
            gate,
            up,
            down,
            shared: self.shared.map(|d_ff| SwiGlu::new(d_model, d_ff, init)),
            shared_gate: self.shared.map(|_| Linear::new(d_model, 1, init)),
            per_token: self.per_token,
            normalised: self.normalised,
        }
    }
}

#[derive(Module, Debug)]
pub struct MixtureOfExperts {
    pub router: Linear,
    /// Of all experts, `[experts, d_ff, d_model]`.
    pub gate: Param<Tensor<3>>,
    /// The same.
    pub up: Param<Tensor<3>>,
    /// `[experts, d_model, d_ff]`.
    pub down: Param<Tensor<3>>,
    pub shared: Option<SwiGlu>,
    pub shared_gate: Option<Linear>,
    #[module(skip)]
    per_token: usize,
    #[module(skip)]
    normalised: bool,
}

impl MixtureOfExperts {
    /// `[batch, time, d_model]` → the same.
    pub fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        let ([batch, time, d_model], [experts, ..]) = (x.dims(), self.gate.dims());
        let (tokens, k) = (batch * time, self.per_token);
        let shares = tap.at("router", activation::softmax(self.router.forward(x.clone()), 2));
        let shares = shares.reshape([tokens, experts]);
        let chosen = kernels::route(shares.clone(), k);
        let weights = shares.gather(1, chosen.clone());
        let weights = if self.normalised { weights.clone() / weights.sum_dim(1) } else { weights };
        let matrices = ExpertMatrices { gate: self.gate.val(), up: self.up.val(), down: self.down.val() };
        let mixed = kernels::experts(x.clone().reshape([tokens, d_model]), weights, chosen, matrices);
        let mixed = mixed.reshape([batch, time, d_model]);
        match (&self.shared, &self.shared_gate) {
            (Some(shared), Some(gate)) => mixed + activation::sigmoid(gate.forward(x.clone())) * shared.forward(x),
            _ => mixed,
        }
    }
}

/// How unevenly routers load their experts (Fedus et al. 2021, as in Hugging Face), `[1]`:
///
/// ```text
/// L = E · Σ_e f_e · P_e     f_e: tokens that chose e, per token     P_e: mean share of e
/// ```
/// over the tokens of all `routers` (what the taps `router` give, `[batch, time, experts]`)
/// together. Even loads give `per_token`, loads and shares that lean the same way more; the gradient goes through `P`. None
/// where there is no router.
pub fn load_balance(routers: &[Tensor<3>], per_token: usize) -> Option<Tensor<1>> {
    let experts = routers.first()?.dims()[2];
    let flat = |shares: &Tensor<3>| shares.clone().reshape([shares.dims()[0] * shares.dims()[1], experts]);
    let shares = Tensor::cat(routers.iter().map(flat).collect(), 0);
    let (tokens, options) = (shares.dims()[0], (&shares.device(), shares.dtype()));
    let chosen = kernels::route(shares.clone(), per_token);
    let ones = Tensor::<2>::ones([tokens, per_token], options);
    let loads = Tensor::<2>::zeros([tokens, experts], options).scatter(1, chosen, ones, IndexingUpdateOp::Add);
    Some((shares.mean_dim(0) * loads.mean_dim(0)).sum() * experts as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use burn::tensor::Device;

    fn experts(config: &ExpertsConfig) -> MixtureOfExperts {
        config.init(8, &mut Init::new(3, 0.5, 0.5, 1, &Device::flex()))
    }

    /// Expert `e` as a dense network.
    fn expert(model: &MixtureOfExperts, e: usize) -> SwiGlu {
        let of = |stack: &Param<Tensor<3>>| {
            let [_, rows, columns] = stack.dims();
            let matrix: Tensor<2> = stack.val().narrow(0, e, 1).reshape([rows, columns]);
            Linear { weight: Param::from_tensor(matrix), bias: None }
        };
        SwiGlu { gate_proj: of(&model.gate), up_proj: of(&model.up), down_proj: of(&model.down) }
    }

    fn input() -> Tensor<3> {
        Init::new(7, 1.0, 1.0, 1, &Device::flex()).weight([2, 5, 8]).val()
    }

    fn assert_close(a: Tensor<3>, b: Tensor<3>) {
        let difference: f32 = (a - b).abs().max().into_scalar();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn with_every_expert_chosen_it_is_the_sum_by_the_routers_shares() {
        let config = ExpertsConfig { per_token: 3, ..ExpertsConfig::new(3, 6) };
        let model = experts(&config);
        let x = &input();
        let shares = activation::softmax(model.router.forward(x.clone()), 2);
        let sum = (0..3).map(|e| expert(&model, e).forward(x.clone()) * shares.clone().narrow(2, e, 1));
        let gate = activation::sigmoid(model.shared_gate.as_ref().unwrap().forward(x.clone()));
        let shared = gate * model.shared.as_ref().unwrap().forward(x.clone());
        let sum = sum.reduce(|a, b| a + b).unwrap() + shared;
        assert_close(model.forward(x.clone(), &mut Silent), sum);
    }

    #[test]
    fn one_expert_that_is_always_chosen_is_a_dense_network() {
        let model = experts(&ExpertsConfig { shared: None, ..ExpertsConfig::new(1, 6) });
        assert_close(model.forward(input(), &mut Silent), expert(&model, 0).forward(input()));
    }

    #[test]
    fn a_token_is_worked_on_by_the_experts_of_its_largest_shares() {
        let config = ExpertsConfig { shared: None, normalised: false, ..ExpertsConfig::new(4, 6) };
        let model = experts(&config);
        let x = &input().narrow(0, 0, 1).narrow(1, 2, 1);
        let shares: Vec<f32> = activation::softmax(model.router.forward(x.clone()), 2).into_data().iter().collect();
        let mut order: Vec<usize> = (0..4).collect();
        order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
        let by = |e: usize| expert(&model, e).forward(x.clone()) * shares[e];
        assert_close(model.forward(x.clone(), &mut Silent), by(order[0]) + by(order[1]));
    }

    #[test]
    fn experts_are_drawn_like_as_many_dense_networks() {
        let init = || Init::new(3, 0.5, 0.25, 1, &Device::flex());
        let (model, mut init) = (ExpertsConfig::new(3, 6).init(8, &mut init()), init());
        let same = |a: &Linear, b: &Linear| assert_eq!(a.weight.val().into_data(), b.weight.val().into_data());
        same(&model.router, &Linear::new(8, 3, &mut init));
        for found in [expert(&model, 0), expert(&model, 1), expert(&model, 2), model.shared.clone().unwrap()] {
            let drawn = SwiGlu::new(8, 6, &mut init);
            same(&found.gate_proj, &drawn.gate_proj);
            same(&found.up_proj, &drawn.up_proj);
            same(&found.down_proj, &drawn.down_proj);
        }
    }

    #[test]
    fn even_loads_balance_to_the_experts_per_token_and_one_favourite_costs_more() {
        let even = Tensor::<3>::from_data([[[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]], &Device::flex());
        let loss: f32 = load_balance(&[even.clone(), even], 2).unwrap().into_scalar();
        assert!((loss - 2.0).abs() < 1e-6, "{loss}");
        // All tokens to expert 0, which has 0.7 of the share: 4 · 1 · 0.7.
        let favourite = Tensor::<3>::from_data([[[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]], &Device::flex());
        let loss: f32 = load_balance(&[favourite], 1).unwrap().into_scalar();
        assert!((loss - 2.8).abs() < 1e-6, "{loss}");
        assert!(load_balance(&[], 1).is_none());
    }

    #[test]
    fn more_experts_per_token_than_there_are_is_an_error() {
        let error = ExpertsConfig { per_token: 5, ..ExpertsConfig::new(4, 8) }.validate().unwrap_err().to_string();
        assert!(error.contains("experts.per_token") && error.contains("1 to the 4"), "{error}");
    }
}
