//! A row lies in the registers of one plane or of several, so that everything is read once;
//! the formulas are those of `../cpu.rs`. The weight's gradient is a sum of parts, one of every row that a cube works on
//! at a time, and is added up by [`column_sums`](crate::cuda::rows).

use super::super::{Activation, Beside, GatePlace};
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{PLANES, row_total, sigmoid, silu_slope, sum_columns, vector};
use crate::cuda::source::element;
use burn::tensor::DType;
use cubecl::prelude::*;

/// Numbers of a row that one unit holds, unless the row is too wide for all planes of a cube.
const HELD: usize = 16;
/// Cubes of the backward at most: their parts of the weight's gradient are added up.
const CUBES: usize = 256;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub width: usize,
    /// Divides by the root of the mean of the squares, or of their sum.
    pub mean: bool,
    pub weight: bool,
    pub beside: Option<Beside>,
}

impl Plan {
    /// Whether a row fits into the registers of a cube.
    pub const fn fits(&self) -> bool {
        1 <= self.width && self.width <= 8192
    }

    pub const fn vector(&self) -> usize {
        vector(self.width)
    }

    /// Planes that share a row: a power of two.
    pub const fn planes(&self) -> u32 {
        let mut planes = 1;
        while planes < PLANES && planes as usize * 32 * HELD < self.width {
            planes *= 2;
        }
        planes
    }

    /// Rows that a cube works on at a time.
    pub const fn slots(&self) -> u32 {
        PLANES / self.planes()
    }

    /// Vectors of a row that one unit holds.
    const fn steps(&self) -> usize {
        (self.width / self.vector()).div_ceil(32 * self.planes() as usize)
    }

    fn gated(&self, place: GatePlace) -> bool {
        matches!(self.beside, Some(Beside::Gate(_, there)) if there == place)
    }

    const fn silu(&self) -> bool {
        matches!(self.beside, Some(Beside::Gate(Activation::Silu, _)))
    }

    const fn adds(&self) -> bool {
        matches!(self.beside, Some(Beside::Residual))
    }

    /// Cubes of the forward, and of the backward.
    pub fn blocks(&self, rows: usize) -> [[u32; 3]; 2] {
        let all = (rows as u32).div_ceil(self.slots());
        [[all, 1, 1], [all.min(CUBES as u32), 1, 1]]
    }

    /// Rows of the parts of the weight's gradient.
    pub fn parts(&self, rows: usize) -> usize {
        (self.blocks(rows)[1][0] * self.slots()) as usize
    }
}

/// `φ(z)` and its derivative.
#[cube]
fn activation<N: Size>(z: Vector<f32, N>, #[comptime] silu: bool) -> (Vector<f32, N>, Vector<f32, N>) {
    let s = sigmoid(z);
    if silu { (z * s, silu_slope(z, s)) } else { (s, s * (Vector::new(1.0) - s)) }
}

/// `y = scale · (weight + offset) ∘ u / √(share · Σ u² + ε)`, where `u` is `x`, gated before, or `x + beside`, which becomes
/// `sum`; `y` gated after.
///
/// `x, beside, y, sum [rows, width]`, `weight [width]`, `inverse [rows]`, which becomes one over the root. Cubes:
/// `⌈rows / slots⌉` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn rms_norm_forward<E: Float, N: Size>(
    x: &[Vector<E, N>],
    weight: &[Vector<E, N>],
    beside: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    inverse: &mut [f32],
    sum: &mut [Vector<E, N>],
    rows: u32,
    eps: f32,
    offset: f32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let planes = comptime!(plan.planes());
    let steps = comptime!(plan.steps());
    let vectors = comptime!((plan.width / plan.vector()) as u32);
    let share = comptime!(if plan.mean { 1.0 / plan.width as f32 } else { 1.0 });
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));

    let own = CUBE_POS_X * comptime!(plan.slots()) + UNIT_POS_Y / planes;
    let inside = own < rows;
    // Planes beyond the last row keep company.
    let row = min(own, rows - 1);
    let unit = UNIT_POS_Y % planes * 32 + UNIT_POS_X;

    let mut held = Array::<Vector<f32, N>>::new(steps);
    let mut squares = 0.0f32;
    #[unroll]
    for i in 0..steps {
        let c = i as u32 * comptime!(planes * 32) + unit;
        let mut u = Vector::<f32, N>::new(0.0);
        if c < vectors {
            let at = (row * vectors + c) as usize;
            u = Vector::cast_from(x[at]);
            if comptime!(plan.gated(GatePlace::Before)) {
                let (value, _slope) = activation(Vector::<f32, N>::cast_from(beside[at]), comptime!(plan.silu()));
                u *= value;
            }
            if comptime!(plan.adds()) {
                let stored = Vector::<E, N>::cast_from(u + Vector::<f32, N>::cast_from(beside[at]));
                sum[at] = stored;
                // What others will read.
                u = Vector::cast_from(stored);
            }
        }
        held[i] = u;
        squares += (u * u).vector_sum();
    }
    let r = 1.0 / (row_total(squares, &mut between, planes) * share + eps).sqrt();

    if inside {
        #[unroll]
        for i in 0..steps {
            let c = i as u32 * comptime!(planes * 32) + unit;
            if c < vectors {
                let at = (row * vectors + c) as usize;
                let mut factor = Vector::<f32, N>::new(scale * r);
                if comptime!(plan.weight) {
                    factor *= Vector::<f32, N>::cast_from(weight[c as usize]) + Vector::new(offset);
                }
                let mut normed = held[i] * factor;
                if comptime!(plan.gated(GatePlace::After)) {
                    let (value, _slope) = activation(Vector::<f32, N>::cast_from(beside[at]), comptime!(plan.silu()));
                    normed *= value;
                }
                y[at] = Vector::cast_from(normed);
            }
        }
        if unit == 0 {
            inverse[row as usize] = r;
        }
    }
}

/// The gradients of `x` and of the gate, and the parts of the weight's. Of a norm of a sum, `x` is the sum and `beside` its
/// gradient.
///
/// Shapes as in [`rms_norm_forward`]; `parts [parts, width]` in f32. Cubes: [`Plan::blocks`] of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn rms_norm_backward<E: Float, N: Size>(
    x: &[Vector<E, N>],
    weight: &[Vector<E, N>],
    beside: &[Vector<E, N>],
    inverse: &[f32],
    y_grad: &[Vector<E, N>],
    x_grad: &mut [Vector<E, N>],
    gate_grad: &mut [Vector<E, N>],
    parts: &mut [Vector<f32, N>],
    rows: u32,
    offset: f32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
    #[define(N)] _vector: usize,
) {
    let planes = comptime!(plan.planes());
    let slots = comptime!(plan.slots());
    let steps = comptime!(plan.steps());
    let vectors = comptime!((plan.width / plan.vector()) as u32);
    let share = comptime!(if plan.mean { 1.0 / plan.width as f32 } else { 1.0 });
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));

    let slot = UNIT_POS_Y / planes;
    let unit = UNIT_POS_Y % planes * 32 + UNIT_POS_X;
    let part = CUBE_POS_X * slots + slot;

    let mut weight_grad = Array::<Vector<f32, N>>::new(steps);
    #[unroll]
    for i in 0..steps {
        weight_grad[i] = Vector::new(0.0);
    }
    let mut held = Array::<Vector<f32, N>>::new(steps);
    let mut through = Array::<Vector<f32, N>>::new(steps);

    let mut first = CUBE_POS_X * slots;
    while first < rows {
        let own = first + slot;
        let inside = own < rows;
        let row = min(own, rows - 1);
        let r = inverse[row as usize];
        let mut along = 0.0f32;
        #[unroll]
        for i in 0..steps {
            let c = i as u32 * comptime!(planes * 32) + unit;
            let mut u = Vector::<f32, N>::new(0.0);
            let mut back = Vector::<f32, N>::new(0.0);
            if c < vectors && inside {
                let at = (row * vectors + c) as usize;
                u = Vector::cast_from(x[at]);
                let mut normed_grad = Vector::<f32, N>::cast_from(y_grad[at]);
                let mut factor = Vector::<f32, N>::new(scale);
                if comptime!(plan.weight) {
                    factor *= Vector::<f32, N>::cast_from(weight[c as usize]) + Vector::new(offset);
                }
                if comptime!(plan.gated(GatePlace::Before) || plan.gated(GatePlace::After)) {
                    let z = Vector::<f32, N>::cast_from(beside[at]);
                    let (value, slope) = activation(z, comptime!(plan.silu()));
                    if comptime!(plan.gated(GatePlace::Before)) {
                        u *= value;
                    } else {
                        gate_grad[at] = Vector::cast_from(normed_grad * u * factor * Vector::new(r) * slope);
                        normed_grad *= value;
                    }
                }
                if comptime!(plan.weight) {
                    weight_grad[i] = weight_grad[i] + normed_grad * u * Vector::new(scale * r);
                }
                back = normed_grad * factor;
            }
            held[i] = u;
            through[i] = back;
            along += (u * back).vector_sum();
        }
        let back = row_total(along, &mut between, planes) * r * r * r * share;
        if inside {
            #[unroll]
            for i in 0..steps {
                let c = i as u32 * comptime!(planes * 32) + unit;
                if c < vectors {
                    let at = (row * vectors + c) as usize;
                    let mut grad = through[i] * Vector::new(r) - held[i] * Vector::new(back);
                    if comptime!(plan.gated(GatePlace::Before)) {
                        let z = Vector::<f32, N>::cast_from(beside[at]);
                        let (value, slope) = activation(z, comptime!(plan.silu()));
                        gate_grad[at] = Vector::cast_from(grad * Vector::<f32, N>::cast_from(x[at]) * slope);
                        grad *= value;
                    }
                    if comptime!(plan.adds()) {
                        grad += Vector::<f32, N>::cast_from(beside[at]);
                    }
                    x_grad[at] = Vector::cast_from(grad);
                }
            }
        }
        first += CUBE_COUNT_X * slots;
    }

    if comptime!(plan.weight) {
        #[unroll]
        for i in 0..steps {
            let c = i as u32 * comptime!(planes * 32) + unit;
            if c < vectors {
                parts[(part * vectors + c) as usize] = weight_grad[i];
            }
        }
    }
}

/// Sizes and constants of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub rows: usize,
    pub eps: f64,
    /// The factors are `scale · (weight + offset)`.
    pub offset: f64,
    pub scale: f64,
    pub plan: Plan,
    pub dtype: DType,
}

impl Call {
    fn name(&self, kernel: &str) -> String {
        let Plan { width, mean, weight, beside } = self.plan;
        let kind = match (mean, weight) {
            (true, true) => "",
            (true, false) => " bare",
            (false, true) => " l2 weight",
            (false, false) => " l2",
        };
        let beside = match beside {
            None => String::new(),
            Some(Beside::Gate(activation, place)) => format!(" {activation:?} {place:?}"),
            Some(Beside::Residual) => " of a sum".into(),
        };
        format!("rms_norm_{kernel} {width}{kind}{beside}{}", element(self.dtype).1)
    }

    /// Numbers of the input, the weight, what stands beside the input, a gate's gradient, and a sum.
    fn counts(&self) -> [usize; 5] {
        let Plan { width, weight, beside, .. } = self.plan;
        let (count, adds) = (self.rows * width, self.plan.adds());
        let if_there = |there: bool| if there { count } else { 0 };
        let besides = if_there(beside.is_some());
        [count, if weight { width } else { 0 }, besides, if_there(beside.is_some() && !adds), if_there(adds)]
    }

    /// Of `[x, weight, beside, y, inverse, sum]`.
    pub fn forward(&self) -> Kernel {
        assert!(self.plan.fits(), "no CUDA kernel for {self:?}");
        let [count, weights, besides, _, sums] = self.counts();
        let (plan, vector, rows, element) = (self.plan, self.plan.vector(), self.rows, element(self.dtype).0);
        kernel!(
            self.name("forward"),
            plan.blocks(rows)[0],
            CubeDim::new_2d(32, PLANES),
            rms_norm_forward as RmsNormForward,
            [
                x: count => vector, weight: weights => vector, beside: besides => vector, y: count => vector, inverse: rows,
                sum: sums => vector
            ],
            {
                rows: u32 = rows as u32, eps: f32 = self.eps as f32, offset: f32 = self.offset as f32,
                scale: f32 = self.scale as f32
            },
            plan,
            element,
            vector
        )
    }

    /// Of `[x, weight, beside, inverse, y_grad, x_grad, gate_grad, parts]`, with [`Plan::parts`] rows of parts.
    pub fn backward(&self) -> Kernel {
        assert!(self.plan.fits(), "no CUDA kernel for {self:?}");
        let [count, weights, besides, gates, _] = self.counts();
        let (plan, vector, rows, element) = (self.plan, self.plan.vector(), self.rows, element(self.dtype).0);
        let many = if plan.weight { plan.parts(rows) * plan.width } else { 0 };
        kernel!(
            self.name("backward"),
            plan.blocks(rows)[1],
            CubeDim::new_2d(32, PLANES),
            rms_norm_backward as RmsNormBackward,
            [
                x: count => vector, weight: weights => vector, beside: besides => vector, inverse: rows, y_grad: count => vector,
                x_grad: count => vector, gate_grad: gates => vector, parts: many => vector
            ],
            { rows: u32 = rows as u32, offset: f32 = self.offset as f32, scale: f32 = self.scale as f32 },
            plan,
            element,
            vector
        )
    }

    /// The gradient of the weight, of `[parts, weight_grad]`.
    pub fn weight_grad(&self) -> Kernel {
        sum_columns(self.plan.parts(self.rows), self.plan.width, self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_a_row_hold_every_vector_of_it_and_few_numbers_each() {
        for width in (1..=8192).step_by(7).chain([64, 128, 512, 513, 4096, 4097, 8192]) {
            let plan = Plan { width, mean: true, weight: true, beside: None };
            assert!(plan.fits() && width.is_multiple_of(plan.vector()) && PLANES.is_multiple_of(plan.planes()));
            let held = plan.steps() * plan.vector();
            assert!(held * plan.planes() as usize * 32 >= width, "width {width}");
            assert!(held <= if width <= 4096 { HELD } else { 2 * HELD }, "{held} numbers of {width}");
        }
    }

    #[test]
    fn every_row_has_a_slot_and_every_slot_of_the_backward_a_part() {
        for (rows, width) in [(1, 64), (7, 64), (100_000, 128), (33, 4096), (5000, 700)] {
            let plan = Plan { width, mean: true, weight: true, beside: None };
            let [forward, backward] = plan.blocks(rows);
            assert!((forward[0] * plan.slots()) as usize >= rows);
            assert!(backward[0] as usize <= CUBES && plan.parts(rows) == (backward[0] * plan.slots()) as usize);
        }
    }
}
