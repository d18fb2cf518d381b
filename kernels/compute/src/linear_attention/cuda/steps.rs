//! Linear attention on CUDA, token after token: the decode step, and any length where latency does not matter.
//! The state is f32, in registers.

use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::element;
use crate::cuda::tile::{place, row_sum};
use burn::tensor::DType;
use cubecl::prelude::*;

/// Units that share a column of the state: each holds every fourth row.
const PARTS: u32 = 4;
/// Columns of the state, which are channels of the values, in a cube.
pub const COLUMNS: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decay {
    None,
    /// `decay [batch, heads, time]`.
    Head,
    /// `decay [batch, heads, time, width]`.
    Channel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// Values add up.
    Add,
    /// `erase [batch, heads, time]` is β.
    Beta,
    /// `erase [batch, heads, time, width]`, `write [batch, heads, time, value_width]`.
    EraseWrite,
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Steps {
    /// Numbers of a query and a key, a multiple of 4.
    pub width: usize,
    pub value_width: usize,
    pub decay: Decay,
    pub write: Write,
    /// Whether there is a state to begin with; zeros otherwise.
    pub start: bool,
}

impl Steps {
    /// Whether a column fits into the registers of four units.
    pub fn fits(&self) -> bool {
        self.width.is_multiple_of(PARTS as usize) && (4..=256).contains(&self.width)
    }

    /// What runs over the tokens of `heads` of every one of a batch; queries, keys, values and gates are of `dtype`.
    pub fn kernel(&self, [batch, heads]: [usize; 2], time: usize, dtype: DType) -> Kernel {
        assert!(self.fits(), "no CUDA kernel for {self:?}");
        let steps = *self;
        let Self { width, value_width, decay, write, start } = steps;
        let (element, suffix) = element(dtype);
        let all = batch * heads;
        let (tokens, state) = (all * time, all * width * value_width);
        let (keys, values) = (tokens * width, tokens * value_width);
        let decays = match decay {
            Decay::None => 0,
            Decay::Head => tokens,
            Decay::Channel => keys,
        };
        let (erases, writes) = match write {
            Write::Add => (0, 0),
            Write::Beta => (tokens, 0),
            Write::EraseWrite => (keys, values),
        };
        let from = if start { " state" } else { "" };
        kernel!(
            format!("linear_attention_steps {width} {value_width} {decay:?} {write:?}{from}{suffix}"),
            [(value_width as u32).div_ceil(COLUMNS), all as u32, 1],
            CubeDim::new_1d(PARTS * COLUMNS),
            linear_attention_steps as LinearAttentionSteps,
            [
                query: keys, key: keys, value: values, decay: decays, erase: erases, write: writes, strides: 18,
                start: if start { state } else { 0 }, out: values, end: state
            ],
            { heads: u32 = heads as u32, time: u32 = time as u32 },
            steps,
            element
        )
    }
}

/// `S ← (I − k (b ⊙ k)ᵀ) Diag(e^g) S + k (w ⊙ v)ᵀ`, `o = Sᵀ q` for every token.
///
/// `query, key [batch, heads, time, width]`, `value [batch, heads, time, value_width]`, and `decay`, `erase` and `write` as [`Decay`] and
/// [`Write`] say, where `strides [6, 3]` does; `out [batch, time, heads, value_width]`, `start, end [batch, heads, width, value_width]`. Decays
/// and states are f32: a rounded logarithm of a decay would be rounded again with every token.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn linear_attention_steps<E: Float>(
    query: &[E],
    key: &[E],
    value: &[E],
    decay: &[f32],
    erase: &[E],
    write: &[E],
    strides: &[u32],
    start: &[f32],
    out: &mut [E],
    end: &mut [f32],
    heads: u32,
    time: u32,
    #[comptime] steps: Steps,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(steps.width as u32);
    let value_width = comptime!(steps.value_width as u32);
    let rows = comptime!(steps.width / PARTS as usize);
    let by_channel = comptime!(steps.decay == Decay::Channel);

    let mut queries = Shared::<[f32]>::new_slice(comptime!(steps.width));
    let mut keys = Shared::<[f32]>::new_slice(comptime!(steps.width));
    // `b ⊙ k`, and what survives.
    let mut erased = Shared::<[f32]>::new_slice(comptime!(steps.width));
    let mut kept = Shared::<[f32]>::new_slice(comptime!(steps.width));

    let head = CUBE_POS_Y;
    let (query_base, query_stride) = place(strides, head / heads, head % heads, 0usize);
    let (key_base, key_stride) = place(strides, head / heads, head % heads, 1usize);
    let (value_base, value_stride) = place(strides, head / heads, head % heads, 2usize);
    let (decay_base, decay_stride) = place(strides, head / heads, head % heads, 3usize);
    let (erase_base, erase_stride) = place(strides, head / heads, head % heads, 4usize);
    let (write_base, write_stride) = place(strides, head / heads, head % heads, 5usize);
    let out_base = head / heads * time * heads + head % heads;
    let part = UNIT_POS_X % PARTS;
    let column = CUBE_POS_X * COLUMNS + UNIT_POS_X / PARTS;
    // Units beyond the last channel keep company, reading the last one's numbers.
    let inside = column < value_width;
    let column = min(column, comptime!(value_width - 1));

    let mut state = Array::<f32>::new(rows);
    #[unroll]
    for i in 0..rows {
        state[i] = 0.0;
        if comptime!(steps.start) {
            let row = i as u32 * PARTS + part;
            state[i] = start[((head * width + row) * value_width + column) as usize];
        }
    }

    for t in 0..time {
        let (decays, erases) = (decay_base + t * decay_stride, erase_base + t * erase_stride);
        // The last token's numbers have been read.
        sync_cube();
        let mut c = UNIT_POS_X;
        while c < width {
            let k = f32::cast_from(key[(key_base + t * key_stride + c) as usize]);
            queries[c as usize] = f32::cast_from(query[(query_base + t * query_stride + c) as usize]);
            keys[c as usize] = k;
            if comptime!(steps.write == Write::Beta) {
                erased[c as usize] = k * f32::cast_from(erase[erases as usize]);
            }
            if comptime!(steps.write == Write::EraseWrite) {
                erased[c as usize] = k * f32::cast_from(erase[(erases + c) as usize]);
            }
            if by_channel {
                kept[c as usize] = decay[(decays + c) as usize].exp();
            }
            c += CUBE_DIM_X;
        }
        sync_cube();

        let mut keep = 1.0f32.runtime();
        if comptime!(steps.decay == Decay::Head) {
            keep = decay[decays as usize].exp();
        }
        let mut old = 0.0f32;
        #[unroll]
        for i in 0..rows {
            let row = (i as u32 * PARTS + part) as usize;
            if by_channel {
                keep = kept[row];
            }
            state[i] = state[i] * keep;
            if comptime!(steps.write != Write::Add) {
                old += erased[row] * state[i];
            }
        }

        let mut new = f32::cast_from(value[(value_base + t * value_stride + column) as usize]);
        if comptime!(steps.write == Write::Beta) {
            new *= f32::cast_from(erase[erases as usize]);
        }
        if comptime!(steps.write == Write::EraseWrite) {
            new *= f32::cast_from(write[(write_base + t * write_stride + column) as usize]);
        }
        if comptime!(steps.write != Write::Add) {
            new -= row_sum(old);
        }

        let mut answer = 0.0f32;
        #[unroll]
        for i in 0..rows {
            let row = (i as u32 * PARTS + part) as usize;
            state[i] = state[i] + keys[row] * new;
            answer += queries[row] * state[i];
        }
        let answer = row_sum(answer);
        if inside && part == 0 {
            out[((out_base + t * heads) * value_width + column) as usize] = E::cast_from(answer);
        }
    }

    if inside {
        #[unroll]
        for i in 0..rows {
            let row = i as u32 * PARTS + part;
            end[((head * width + row) * value_width + column) as usize] = state[i];
        }
    }
}
