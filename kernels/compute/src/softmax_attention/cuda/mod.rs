//! Softmax attention on CUDA: inputs of 16 bits, products on tensor cores, sums in f32, no matrix of
//! scores in memory, no atomics.
//!
//! Scores are kept in units of `ln 2`, so that a weight is `2^(score − sum)`: the host multiplies
//! `scale` and `cap` by `log₂ e`.
//!
//! In the gradients weights are computed again from the saved logarithm of every row's sum:
//!
//! ```text
//! P = 2^(S − log_sum),   D_t = Σ_c dO_tc O_tc,   dS = P ⊙ (dO Vᵀ − D)
//! dQ = scale · dS K,     dK = scale · dSᵀ Q,     dV = Pᵀ dO
//! ```
//! `dS` is the gradient of a bias; where scores are capped it is then multiplied by `1 − tanh²`. Sigmoid weights do not compete:
//! `P = 1 / (1 + 2^(−S))` and `dS = P ⊙ (1 − P) ⊙ dO Vᵀ`. One cube per 64 queries sums `dQ`, one per 64
//! keys sums `dK` and `dV` over the queries of its group of heads: every number is written once, by
//! one unit, in a fixed order.

pub mod delta;
pub mod forward;
pub mod key_value_grad;
pub mod launch;
mod operator;
pub mod plan;
pub mod query_grad;
mod tiles;

use crate::cuda::tile::exp2;
use cubecl::prelude::*;
pub use launch::sources;
pub use operator::{Attend, permits};
use plan::Plan;

pub const LOG2_E: f32 = core::f32::consts::LOG2_E;
pub const LN_2: f32 = core::f32::consts::LN_2;
/// Below any score, so that a row which has seen no key yet has a maximum.
const FLOOR: f32 = -1e29;
/// Below the floor: its weight is zero whatever the maximum is.
const HIDDEN: f32 = -1e30;

/// What a bias is raised to at least: far below other scores, and so near that the logarithm of a row's sum, from which weights
/// are computed again, tells them apart where a row sees nothing else.
const LOWEST_BIAS: f32 = -1e4;

/// What is added to the score of `key` for query `t`, whose row of `bias` begins at `row`.
#[cube]
fn bias_of<E: Float>(bias: &[E], row: u32, key: u32, source: u32, #[comptime] plan: Plan) -> f32 {
    let mut x = 0.0f32.runtime();
    if comptime!(plan.bias) {
        x = f32::cast_from(bias[(row + min(key, source - 1)) as usize]) * LOG2_E;
        x = select(x < LOWEST_BIAS, LOWEST_BIAS, x);
    }
    x
}

/// The score of `product = query · key`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn score(product: f32, key: u32, own: u32, slope: f32, bias: f32, scale: f32, cap: f32, #[comptime] plan: Plan) -> f32 {
    let mut score = product * scale;
    if comptime!(plan.softcap) {
        score = cap * (score / cap).tanh();
    }
    if comptime!(plan.bias) {
        score += bias;
    }
    if comptime!(plan.slopes) {
        score -= slope * (f32::cast_from(own) - f32::cast_from(key));
    }
    score
}

/// `1 / (1 + 2^(−x))`.
#[cube]
fn sigmoid2(x: f32) -> f32 {
    1.0 / (1.0 + exp2(-x))
}

/// The weight of a score, and the derivatives by the score and by the product times scale: multiplied by the weight's gradient
/// less `D` they are the gradients of both.
#[cube]
#[allow(clippy::too_many_arguments)]
fn weight_and_derivatives(
    product: f32,
    key: u32,
    own: u32,
    log_sum: f32,
    seen: bool,
    slope: f32,
    bias: f32,
    scale: f32,
    cap: f32,
    #[comptime] plan: Plan,
) -> (f32, f32, f32) {
    let x = score(product, key, own, slope, bias, scale, cap, plan);
    let mut weight = exp2(select(seen, x - log_sum, HIDDEN));
    let mut of_score = weight;
    if comptime!(plan.sigmoid) {
        weight = sigmoid2(select(seen, x, HIDDEN));
        of_score = weight * (1.0 - weight);
    }
    let mut of_product = of_score;
    if comptime!(plan.softcap) {
        let th = (product * scale / cap).tanh();
        of_product *= 1.0 - th * th;
    }
    (weight, of_score, of_product)
}
