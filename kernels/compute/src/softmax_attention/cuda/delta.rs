//! What the gradients need of every row, before the passes over tiles.

use super::plan::{Gate, PLANES, Plan};
use super::tiles::gate_of;
use crate::cuda::tile::*;
use cubecl::prelude::*;

/// `D_t = Σ_c dO_tc O_tc`, of every map, and, where planned, the part of every row in the gradient of its head's
/// sink, `−e^{sink − log_sum} D_t`, and the gradients of the gate and of the output before it, which `dO` is then.
///
/// `out, other [batch, time, heads, value_width]`, `out_grad [batch, heads, time, value_width]` and `gate [batch, heads, time,
/// value_width or 1]` where `strides [2, 3]` says, `sinks [rows]` → `delta, sink_grad [rows]`, rows being `[batch, heads, time]`,
/// `inner_grad [rows, value_width]`, and `gate_grad`, which lies as `out` does. `out` is the output before the gate. With two maps
/// `delta [batch, heads, 2, time]` is that of `out + lambda · other` and that of `other`, and minus the latter is `lambda_grad [rows]`.
/// Cubes: one plane to a row, `PLANES` rows to a cube.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_delta<E: Float>(
    out: &[Pair<E>],
    out_grad: &[Pair<E>],
    gate: &[E],
    strides: &[u32],
    log_sum: &[f32],
    sinks: &[f32],
    other: &[Pair<E>],
    lambda: &[f32],
    delta: &mut [f32],
    sink_grad: &mut [f32],
    gate_grad: &mut [E],
    inner_grad: &mut [Pair<E>],
    lambda_grad: &mut [f32],
    rows: u32,
    heads: u32,
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * PLANES + UNIT_POS_Y;
    if row >= rows {
        terminate!();
    }
    let pairs = comptime!(plan.value_width as u32 / 2);
    let (t, head, batch) = (row % time, row / time % heads, row / time / heads);
    let (grad_base, grad_stride) = place(strides, batch, head, 0usize);
    let (gate_base, gate_stride) = place(strides, batch, head, 1usize);
    let grad_row = (grad_base + t * grad_stride) / 2;
    let gate_row = gate_base + t * gate_stride;
    let out_row = (batch * time + t) * heads + head;
    let mut sum = 0.0f32;
    let mut other_sum = 0.0f32;
    let mut gate_sum = 0.0f32;
    let mut c = UNIT_POS_X;
    while c < pairs {
        let at = (out_row * pairs + c) as usize;
        let mut grad = Pair::<f32>::cast_from(out_grad[(grad_row + c) as usize]);
        let mut product = Pair::<f32>::cast_from(out[at]) * grad;
        if comptime!(plan.gate != Gate::None) {
            if comptime!(plan.gate == Gate::Row) {
                gate_sum += product.extract(0usize) + product.extract(1usize);
            } else {
                gate_grad[2 * at] = E::cast_from(product.extract(0usize));
                gate_grad[2 * at + 1] = E::cast_from(product.extract(1usize));
            }
            let factor = gate_of::<E>(gate, gate_row, 2 * c, plan);
            product *= factor;
            grad *= factor;
            inner_grad[(row * pairs + c) as usize] = Pair::cast_from(grad);
        }
        if comptime!(plan.two_maps()) {
            let product = Pair::<f32>::cast_from(other[at]) * grad;
            other_sum += product.extract(0usize) + product.extract(1usize);
        }
        sum += product.extract(0usize) + product.extract(1usize);
        c += 32;
    }
    let sum = plane_sum(sum);
    if comptime!(plan.two_maps()) {
        other_sum = plane_sum(other_sum);
    }
    if comptime!(plan.gate == Gate::Row) {
        let gate_sum = plane_sum(gate_sum);
        if UNIT_POS_X == 0 {
            gate_grad[out_row as usize] = E::cast_from(gate_sum);
        }
    }
    if UNIT_POS_X == 0 {
        if comptime!(plan.two_maps()) {
            let share = lambda[row as usize];
            let at = (row + row / time * time) as usize;
            delta[at] = sum + share * other_sum;
            delta[at + time as usize] = other_sum;
            lambda_grad[row as usize] = -other_sum;
        } else if comptime!(plan.sigmoid) {
            // Weights that do not compete.
            delta[row as usize] = 0.0;
        } else {
            delta[row as usize] = sum;
        }
        if comptime!(plan.sinks) {
            let sink = sinks[row as usize];
            sink_grad[row as usize] = -sum * (sink - log_sum[row as usize]).exp();
        }
    }
}
