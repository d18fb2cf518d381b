//! The gradients of linear attention on CUDA, of the whole family: products and sums in f32, no atomics.
//!
//! With the names of `cpu/chunk.rs`, but `B = b ⊙ K` without its minus sign, `Q̂ = Q ⊙ e^γ`, `B̂ = B ⊙ e^γ`, `K̂ = K ⊙ e^{γ_C − γ}`
//! and `S` the state before a chunk,
//!
//! ```text
//! P = lower ⟨Q, K⟩,   M = (I + strict_lower ⟨B, K⟩)⁻¹,   U = M (w ⊙ V − B̂ S),   O = Q̂ S + P U,   S' = Diag(e^{γ_C}) S + K̂ᵀ U
//! ```
//!
//! Four kernels: [`prepare`] makes `γ`, `P` and `M` of every chunk side by side; [`walks`] recompute the states from
//! chunk to chunk, and then their gradients from the last to the first,
//!
//! ```text
//! dU = Pᵀ dO + K̂ dS',   dR = Mᵀ dU,   dS = Diag(e^{γ_C}) dS' + Q̂ᵀ dO − B̂ᵀ dR
//! ```
//!
//! and [`tokens`] has, chunk by chunk and side by side again, `dP = lower(dO Uᵀ)`, `dA = −strict_lower(dR Uᵀ)`, and through them
//! and the states the gradients of everything that a token brings.

pub mod prepare;
pub mod tokens;
pub mod walks;

use super::steps::{Decay, Write};
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// Tokens of a chunk, and channels of the values in a cube that walks: the lanes of a plane.
pub const CHUNK: u32 = 32;
/// Planes of a cube: each has four of the tokens.
pub const PLANES: u32 = 8;
/// Numbers of a row of a chunk × chunk matrix in shared memory.
const SQUARE: u32 = CHUNK + 1;
const LOG2_E: f32 = core::f32::consts::LOG2_E;

/// Four neighbouring numbers of a row.
pub type Quad<E> = Vector<E, Const<4>>;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Numbers of a query and a key.
    pub width: usize,
    pub value_width: usize,
    pub decay: Decay,
    pub write: Write,
    /// Whether there is a state to begin with; zeros otherwise.
    pub start: bool,
    /// Whether the state at the end has a gradient; zeros otherwise.
    pub end_grad: bool,
}

impl Plan {
    /// Whether rows are whole quads and tiles fit into shared memory.
    pub fn fits(&self) -> bool {
        let fits = |width: usize| width.is_multiple_of(4) && (4..=256).contains(&width);
        fits(self.width) && fits(self.value_width)
    }

    /// The width in shared memory: four rows of the state for every plane, as often as needed.
    pub const fn depth(&self) -> usize {
        self.width.next_multiple_of(32)
    }

    pub const fn erases(&self) -> bool {
        !matches!(self.write, Write::Add)
    }

    pub const fn by_channel(&self) -> bool {
        matches!(self.decay, Decay::Channel)
    }

    pub const fn by_head(&self) -> bool {
        matches!(self.decay, Decay::Head)
    }

    /// Numbers of a token's decay.
    const fn decays(&self) -> usize {
        match self.decay {
            Decay::None => 0,
            Decay::Head => 1,
            Decay::Channel => self.width,
        }
    }
}

/// `x[t, c]` of a head, zero outside of `time` and `width`.
#[cube]
fn number<E: Float>(x: &[E], head: u32, t: u32, c: u32, time: u32, #[comptime] width: u32) -> f32 {
    let mut number = 0.0f32.runtime();
    if t < time && c < width {
        number = f32::cast_from(x[((head * time + t) * width + c) as usize]);
    }
    number
}

/// Four of those numbers, from column `c` on.
#[cube]
fn quad<E: Float>(x: &[Quad<E>], head: u32, t: u32, c: u32, time: u32, #[comptime] width: u32) -> Quad<f32> {
    let mut quad = Quad::<f32>::new(0.0);
    if t < time && c < width {
        quad = Quad::cast_from(x[(((head * time + t) * width + c) / 4) as usize]);
    }
    quad
}

/// The gate on what token `t` erases in channel `c`.
#[cube]
fn erase_gate<E: Float>(erase: &[E], head: u32, t: u32, c: u32, time: u32, #[comptime] plan: Plan) -> f32 {
    if comptime!(plan.write == Write::Beta) {
        number::<E>(erase, head, t, 0u32.runtime(), time, 1u32)
    } else {
        number::<E>(erase, head, t, c, time, comptime!(plan.width as u32))
    }
}

/// `γ` of channel `c` in row `row` of `gamma`, in units of `ln 2`.
#[cube]
fn gamma_at(gamma: &[f32], row: u32, c: u32, #[comptime] plan: Plan) -> f32 {
    if comptime!(plan.by_head()) {
        gamma[row as usize]
    } else if comptime!(plan.by_channel()) {
        let last = comptime!(plan.width as u32 - 1);
        gamma[(row * comptime!(plan.width as u32) + min(c, last)) as usize]
    } else {
        0.0f32.runtime()
    }
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Those of the whole batch.
    pub heads: usize,
    pub time: usize,
    pub plan: Plan,
    /// Of all but decays and states, which are f32.
    pub dtype: DType,
}

impl Call {
    fn chunks(&self) -> usize {
        self.time.div_ceil(CHUNK as usize)
    }

    /// Cubes side by side, for every chunk, and cubes that walk.
    fn cubes(&self) -> [[u32; 3]; 2] {
        let heads = self.heads as u32;
        [[self.chunks() as u32, heads, 1], [(self.plan.value_width as u32).div_ceil(CHUNK), heads, 1]]
    }

    fn name(&self, kernel: &str) -> String {
        let Plan { width, value_width, decay, write, start, end_grad } = self.plan;
        let [start, end] = [(start, " state"), (end_grad, " end")].map(|(has, what)| if has { what } else { "" });
        format!("linear_{kernel} {width} {value_width} {decay:?} {write:?}{start}{end}{}", element(self.dtype).1)
    }

    /// Numbers of keys, values, decays, erase gates, write gates, and of a state.
    fn counts(&self) -> [usize; 6] {
        let Plan { width, value_width, write, .. } = self.plan;
        let tokens = self.heads * self.time;
        let (erases, writes) = match write {
            Write::Add => (0, 0),
            Write::Beta => (tokens, 0),
            Write::EraseWrite => (tokens * width, tokens * value_width),
        };
        [
            tokens * width,
            tokens * value_width,
            tokens * self.plan.decays(),
            erases,
            writes,
            self.heads * width * value_width,
        ]
    }

    /// Numbers, all f32, that the kernels leave to each other: `gamma`, `weights`, `inverse`, `written`, `states`,
    /// `written_grad` and `state_grads`.
    pub fn scratch(&self) -> [usize; 7] {
        let chunk = CHUNK as usize;
        let all = self.heads * self.chunks();
        let [_, values, _, _, _, state] = self.counts();
        let (square, states) = (all * chunk * chunk, state * self.chunks());
        [all * chunk * self.plan.decays(), square, square, values, states, values, states]
    }

    /// Of `[query, key, decay, erase, gamma, weights, inverse]`.
    pub fn prepare(&self) -> Kernel {
        assert!(self.plan.fits() && self.time >= 1, "no CUDA kernels for the gradients of {self:?}");
        let ([keys, _, decays, erases, ..], [gammas, squares, ..]) = (self.counts(), self.scratch());
        let (plan, element) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("prepare"),
            self.cubes()[0],
            CubeDim::new_2d(32, PLANES),
            prepare::linear_prepare as LinearPrepare,
            [
                query: keys, key: keys, decay: decays, erase: erases, gamma: gammas, weights: squares, inverse: squares
            ],
            { time: u32 = self.time as u32 },
            plan,
            element
        )
    }

    /// Of `[key, value, erase, write, start, gamma, inverse, written, states]`.
    pub fn states(&self) -> Kernel {
        let [keys, values, _, erases, writes, state] = self.counts();
        let [gammas, squares, _, written, states, ..] = self.scratch();
        let (plan, element) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("states"),
            self.cubes()[1],
            CubeDim::new_2d(32, PLANES),
            walks::linear_states as LinearStates,
            [
                key: keys => 4, value: values, erase: erases, write: writes, start: if plan.start { state } else { 0 },
                gamma: gammas, inverse: squares, written: written, states: states
            ],
            { time: u32 = self.time as u32 },
            plan,
            element
        )
    }

    /// Of `[query, key, erase, out_grad, end_grad, gamma, weights, inverse, written_grad, state_grads, start_grad]`.
    pub fn state_grads(&self) -> Kernel {
        let [keys, values, _, erases, _, state] = self.counts();
        let [gammas, squares, _, written, states, ..] = self.scratch();
        let (plan, element) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("state_grads"),
            self.cubes()[1],
            CubeDim::new_2d(32, PLANES),
            walks::linear_state_grads as LinearStateGrads,
            [
                query: keys => 4, key: keys => 4, erase: erases, out_grad: values,
                end_grad: if plan.end_grad { state } else { 0 }, gamma: gammas, weights: squares, inverse: squares,
                written_grad: written, state_grads: states, start_grad: state
            ],
            { time: u32 = self.time as u32 },
            plan,
            element
        )
    }

    /// Of `[query, key, value, erase, write, out_grad, gamma, written, states, written_grad, state_grads, query_grad, key_grad,
    /// value_grad, decay_grad, erase_grad, write_grad]`.
    pub fn token_grads(&self) -> Kernel {
        let [keys, values, decays, erases, writes, _] = self.counts();
        let [gammas, _, _, written, states, ..] = self.scratch();
        let (plan, element) = (self.plan, element(self.dtype).0);
        kernel!(
            self.name("token_grads"),
            self.cubes()[0],
            CubeDim::new_2d(32, PLANES),
            tokens::linear_token_grads as LinearTokenGrads,
            [
                query: keys, key: keys, value: values => 4, erase: erases, write: writes => 4, out_grad: values => 4,
                gamma: gammas, written: written => 4, states: states => 4, written_grad: written => 4,
                state_grads: states => 4, query_grad: keys, key_grad: keys, value_grad: values => 4, decay_grad: decays,
                erase_grad: erases, write_grad: writes => 4
            ],
            { time: u32 = self.time as u32 },
            plan,
            element
        )
    }
}
