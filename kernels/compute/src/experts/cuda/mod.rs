//! Experts on CUDA. Nothing about the routing is known to the host: the grids are as large as any routing could need,
//! and cubes without work end at once.
//!
//! [`mod@route`] lets every token choose its experts and sorts the places (`t · per_token + s`) by expert, as the tokens of an
//! embedding are sorted by id; [`products`] multiplies runs of rows, 64 at a time, by the matrix of their expert,
//! where it lies in the stack of all experts: `[experts, width, d]` of gates and of ups, `[experts, d, width]` of downs.
//!
//! Forward: `sort` and `list`; products with gates and ups, SwiGLU, products with downs; `combine`. Backward: `spread`
//! and `share_grads`; products back through the downs, SwiGLU's backward, products back through gates and, added, ups;
//! `combine` without weights; and the gradients of the matrices.

mod operator;
mod products;
pub mod route;

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{PLANES, UNITS};
use crate::cuda::source::{BF16, Source, element};
use crate::embedding::cuda::Sort;
use burn::tensor::DType;
use cubecl::prelude::*;
pub use operator::{GpuExperts, route};
use products::Product;
pub use products::SHARED;

/// Rows of a run that one cube multiplies, and columns of its result.
pub const TILE: u32 = 64;
/// Numbers that a unit gathers at once.
const VECTOR: usize = 8;

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub tokens: usize,
    pub per_token: usize,
    pub experts: usize,
    /// Numbers of a token, and of what an expert has inside: multiples of 8.
    pub d: usize,
    pub width: usize,
}

impl Call {
    pub fn places(&self) -> usize {
        self.tokens * self.per_token
    }

    /// Runs of rows, of which every expert has one that is not full at most.
    pub fn tiles(&self) -> usize {
        self.places() / TILE as usize + self.experts
    }

    /// Columns of a token, in vectors.
    fn columns(&self) -> u32 {
        (self.d / VECTOR) as u32
    }

    /// Whether there are tiles for experts of these widths.
    pub fn fits(&self) -> bool {
        [self.d, self.width].iter().all(|width| width.is_multiple_of(VECTOR) && *width > 0)
    }

    fn check(&self) {
        assert!(self.fits(), "no CUDA tiles for experts of {self:?}");
        assert!(1 <= self.per_token && self.per_token <= self.experts && self.tokens >= 1, "no experts: {self:?}");
    }

    /// The places in the order of their experts, of `[chosen, order, first]`.
    pub fn sort(&self) -> Kernel {
        Sort { tokens: self.places(), vocab: self.experts }.kernel()
    }

    /// The row of every place and the runs of rows of one expert, of `[order, first, back, tiles]`.
    pub fn list(&self) -> Kernel {
        let (places, experts, limit) = (self.places(), self.experts, self.tiles());
        kernel!(
            "expert_tiles".to_string(),
            [(places as u32).div_ceil(UNITS), 1, 1],
            CubeDim::new_1d(UNITS),
            route::expert_tiles as ExpertTiles,
            [order: places, first: experts + 1, back: places, tiles: 2 * limit],
            { places: u32 = places as u32, experts: u32 = experts as u32, limit: u32 = limit as u32 }
        )
    }

    /// The sums over the places of every token of their rows, each times its weight where `weighted`, of `[rows, weights, back, out]`.
    pub fn combine(&self, weighted: bool) -> Kernel {
        let (places, tokens) = (self.places(), self.tokens);
        kernel!(
            format!("expert_combine{}", if weighted { " weighted" } else { "" }),
            [(tokens as u32 * self.columns()).div_ceil(UNITS), 1, 1],
            CubeDim::new_1d(UNITS),
            route::combine as Combine,
            [rows: places * self.d => VECTOR, weights: places, back: places, out: tokens * self.d => VECTOR],
            { tokens: u32 = tokens as u32, columns: u32 = self.columns(), per_token: u32 = self.per_token as u32 },
            weighted,
            BF16,
            VECTOR
        )
    }

    /// The gradient of every row's output, of `[out_grad, weights, order, worked_grad]`.
    pub fn spread(&self) -> Kernel {
        let places = self.places();
        kernel!(
            "expert_spread".to_string(),
            [(places as u32 * self.columns()).div_ceil(UNITS), 1, 1],
            CubeDim::new_1d(UNITS),
            route::spread as Spread,
            [
                out_grad: self.tokens * self.d => VECTOR, weights: places, order: places,
                worked_grad: places * self.d => VECTOR
            ],
            { places: u32 = places as u32, columns: u32 = self.columns(), per_token: u32 = self.per_token as u32 },
            BF16,
            VECTOR
        )
    }

    /// The gradient of every place's weight, of `[out_grad, worked, back, weights_grad]`.
    pub fn share_grads(&self) -> Kernel {
        let places = self.places();
        kernel!(
            "expert_share_grads".to_string(),
            [(places as u32).div_ceil(PLANES), 1, 1],
            CubeDim::new_2d(32, PLANES),
            route::share_grads as ShareGrads,
            [
                out_grad: self.tokens * self.d => VECTOR, worked: places * self.d => VECTOR, back: places,
                weights_grad: places
            ],
            { places: u32 = places as u32, columns: u32 = self.columns(), per_token: u32 = self.per_token as u32 },
            BF16,
            VECTOR
        )
    }
}

/// The experts of every token, the best first, of `[shares, chosen]`: shares of `dtype`, chosen ones in i32.
fn choose([tokens, experts]: [usize; 2], per_token: usize, dtype: DType) -> Kernel {
    let (element, suffix) = element(dtype);
    kernel!(
        format!("top_experts{suffix}"),
        [(tokens as u32).div_ceil(PLANES), 1, 1],
        CubeDim::new_2d(32, PLANES),
        route::top_experts as TopExperts,
        [shares: tokens * experts, chosen: tokens * per_token],
        { tokens: u32 = tokens as u32, experts: u32 = experts as u32, per_token: u32 = per_token as u32 },
        element
    )
}

/// What the table holds of the choice.
pub fn route_sources() -> Vec<Source> {
    [DType::BF16, DType::F32].map(|dtype| choose([1, 1], 1, dtype).source()).into()
}

/// What the table holds: Qwen3-Next's experts.
pub fn sources() -> Vec<Source> {
    let call = Call { tokens: 1, per_token: 1, experts: 1, d: 2048, width: 512 };
    let rows = [call.list(), call.combine(true), call.combine(false), call.spread(), call.share_grads()];
    let products = Product::forward(&call).into_iter().chain(Product::backward(&call)).map(|p| p.kernel(&call));
    let gradients = Product::weight_grads(&call).map(|p| p.weight_grad(&call));
    rows.into_iter().chain(products).chain(gradients).map(|kernel| kernel.source()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_tile_for_every_run_of_any_routing() {
        for (tokens, per_token, experts) in [(1, 1, 1), (75, 2, 8), (1000, 3, 100), (64, 1, 4)] {
            let call = Call { tokens, per_token, experts, d: 8, width: 8 };
            // The rows that fill as few tiles as they can: all of one expert, the others one each.
            for busy in 1..=experts.min(call.places()) {
                let needed = busy - 1 + (call.places() - (busy - 1)).div_ceil(TILE as usize);
                assert!(needed <= call.tiles(), "{call:?}, {busy} busy");
            }
        }
    }
}
