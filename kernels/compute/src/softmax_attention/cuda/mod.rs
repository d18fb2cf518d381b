//! Softmax attention on CUDA: inputs of 16 bits, products on tensor cores, sums in f32, no matrix of
//! scores in memory, no atomics.
//!
//! Scores are kept in units of `ln 2`, so that a weight is `2^(score − sum)`: the host multiplies
//! `scale` and `cap` by `log₂ e`.

pub mod backward;
pub mod delta;
pub mod forward;
pub mod launch;
mod operator;
pub mod plan;
mod tiles;

use cubecl::prelude::*;
pub use launch::sources;
pub use operator::{Attend, kernels};
use plan::Plan;

pub const LOG2_E: f32 = core::f32::consts::LOG2_E;
pub const LN_2: f32 = core::f32::consts::LN_2;
/// Below any score, so that a row which has seen no key yet has a maximum.
const FLOOR: f32 = -1e29;
/// Below the floor: its weight is zero whatever the maximum is.
const HIDDEN: f32 = -1e30;

/// The score of `product = query · key`.
#[cube]
fn score(product: f32, key: u32, own: u32, slope: f32, scale: f32, cap: f32, #[comptime] plan: Plan) -> f32 {
    let mut score = product * scale;
    if comptime!(plan.softcap) {
        score = cap * (score / cap).tanh();
    }
    if comptime!(plan.slopes) {
        score -= slope * (f32::cast_from(own) - f32::cast_from(key));
    }
    score
}
