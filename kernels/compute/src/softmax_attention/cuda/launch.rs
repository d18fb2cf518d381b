//! The kernels of a call: their grids, their arguments, how far they go.

use super::key_value_grad::Of;
use super::plan::{Gate, PLANES, Plan, ROWS};
use super::tiles::STRIDES;
use super::{LOG2_E, delta, forward, key_value_grad, query_grad};
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::source::{BF16, Source};
use cubecl::prelude::*;

/// Sizes and options of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub time: usize,
    pub source: usize,
    pub width: usize,
    pub value_width: usize,
    pub scale: f64,
    pub window: Option<usize>,
    pub softcap: Option<f64>,
    pub slopes: bool,
    /// The shape of what is added to scores.
    pub bias: Option<[usize; 4]>,
    /// Whether its gradient is asked for.
    pub bias_grad: bool,
    pub sinks: bool,
    pub sigmoid: bool,
    pub gate: Gate,
    /// As in [`Plan`]; `heads` and `kv_heads` count a head of two maps once.
    pub maps: usize,
    pub key_maps: usize,
}

impl Call {
    /// One query and one key of these widths, and no options.
    pub const fn plain(width: usize, value_width: usize) -> Self {
        Self {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            time: 1,
            source: 1,
            width,
            value_width,
            scale: 1.0,
            window: None,
            softcap: None,
            slopes: false,
            bias: None,
            bias_grad: false,
            sinks: false,
            sigmoid: false,
            gate: Gate::None,
            maps: 1,
            key_maps: 1,
        }
    }

    /// What its kernels are compiled for, apart from their steps.
    pub fn plan(&self) -> Plan {
        Plan {
            step: 0,
            width: self.width,
            value_width: self.value_width,
            window: self.window.is_some(),
            softcap: self.softcap.is_some(),
            slopes: self.slopes,
            bias: self.bias.is_some(),
            bias_grad: self.bias_grad,
            sinks: self.sinks,
            sigmoid: self.sigmoid,
            gate: self.gate,
            maps: self.maps,
            key_maps: self.key_maps,
        }
    }

    /// Scale and cap in units of `ln 2`, and the scale.
    pub fn floats(&self) -> [f32; 3] {
        let log2_e = LOG2_E as f64;
        [(self.scale * log2_e) as f32, (self.softcap.unwrap_or(0.0) * log2_e) as f32, self.scale as f32]
    }

    /// A window that no query reaches the end of is as good as any longer one.
    fn window(&self) -> u32 {
        self.window.map_or(0, |window| window.min(self.source) as u32)
    }

    /// Cubes over `rows` of every one of `heads`.
    fn blocks(&self, rows: usize, heads: usize) -> [u32; 3] {
        [(rows as u32).div_ceil(ROWS), heads as u32, self.batch as u32]
    }

    /// Numbers of queries, keys, values, outputs, and rows of outputs and of all maps.
    fn counts(&self) -> [usize; 6] {
        let (rows, keys) = (self.batch * self.heads * self.time, self.batch * self.kv_heads * self.source);
        let of_maps = rows * self.maps;
        let (queries, outs) = (of_maps * self.width, rows * self.value_width);
        [queries, keys * self.key_maps * self.width, keys * self.value_width, outs, rows, of_maps]
    }

    /// `count` where there are two maps.
    fn second(&self, count: usize) -> usize {
        if self.maps == 2 { count } else { 0 }
    }

    /// Slopes, sinks and numbers of the gate and of the bias.
    fn options(&self) -> [usize; 4] {
        let [.., outs, rows, _] = self.counts();
        let gate = match self.gate {
            Gate::None => 0,
            Gate::Row => rows,
            Gate::Channel => outs,
        };
        let bias = self.bias.map_or(0, |shape| shape.iter().product());
        [self.slopes as usize * self.heads, self.sinks as usize * rows, gate, bias]
    }

    /// Numbers of the gradient of the bias.
    fn bias_grads(&self) -> usize {
        if self.bias_grad { self.batch * self.heads * self.time * self.source } else { 0 }
    }

    fn check(&self) {
        assert!(self.plan().fits(), "no CUDA tiles for widths {} and {}", self.width, self.value_width);
        assert!(
            self.time >= 1 && self.source >= self.time && self.heads.is_multiple_of(self.kv_heads),
            "not an attention: {self:?}"
        );
        assert_ne!(self.window, Some(0), "a window of no keys");
    }

    /// The forward pass in every step that fits; they compute the same.
    pub fn forward(&self) -> Vec<Kernel> {
        self.check();
        self.plan().forward_steps().iter().map(|&step| self.forward_by(step)).collect()
    }

    fn forward_by(&self, step: usize) -> Kernel {
        let [queries, keys, values, outs, rows, of_maps] = self.counts();
        let [slopes, sinks, gate, bias] = self.options();
        let (lambda, other) = (self.second(rows), self.second(outs));
        let gated = if self.gate == Gate::None { 0 } else { outs };
        let [scale, cap, _] = self.floats();
        let plan = Plan { step, ..self.plan() };
        kernel!(
            self.name("forward", &by(step, plan.forward_steps())),
            self.blocks(self.time, self.heads),
            units(self.maps),
            forward::attention_forward as AttentionForward,
            [
                query: queries, key: keys, value: values, strides: STRIDES, bias: bias, slopes: slopes, sinks: sinks, gate: gate, lambda: lambda,
                out: outs => 2, log_sum: of_maps, gated: gated => 2, other: other => 2
            ],
            {
                time: u32 = self.time as u32,
                source: u32 = self.source as u32,
                kv_heads: u32 = self.kv_heads as u32,
                window: u32 = self.window(),
                scale: f32 = scale,
                cap: f32 = cap,
            },
            plan,
            BF16
        )
    }

    pub fn delta(&self) -> Kernel {
        let [.., outs, rows, of_maps] = self.counts();
        let [_, sinks, gate, _] = self.options();
        let (lambda, other) = (self.second(rows), self.second(outs));
        let inner = if self.gate == Gate::None { 0 } else { outs };
        let sink_rows = if self.sinks { rows } else { 0 };
        let plan = self.plan();
        kernel!(
            self.name("delta", ""),
            [(rows as u32).div_ceil(PLANES), 1, 1],
            units(1),
            delta::attention_delta as AttentionDelta,
            [
                out: outs => 2, out_grad: outs => 2, gate: gate, strides: 6, log_sum: of_maps, sinks: sinks, other: other => 2,
                lambda: lambda, delta: of_maps, sink_grad: sink_rows, gate_grad: gate, inner_grad: inner => 2,
                lambda_grad: lambda
            ],
            { rows: u32 = rows as u32, heads: u32 = self.heads as u32, time: u32 = self.time as u32 },
            plan,
            BF16
        )
    }

    /// The gradient of the queries in every step that fits.
    pub fn query_grad(&self) -> Vec<Kernel> {
        self.plan().backward_steps().iter().map(|&step| self.query_grad_by(step)).collect()
    }

    fn query_grad_by(&self, step: usize) -> Kernel {
        let [queries, keys, values, outs, rows, of_maps] = self.counts();
        let [slopes, .., bias] = self.options();
        let lambda = self.second(rows);
        let [scale, cap, gradient_scale] = self.floats();
        let plan = Plan { step, ..self.ungated().plan() };
        kernel!(
            self.ungated().name("query_grad", &by(step, plan.backward_steps())),
            self.blocks(self.time, self.heads),
            units(1),
            query_grad::attention_query_grad as AttentionQueryGrad,
            [
                query: queries, key: keys, value: values, strides: STRIDES, bias: bias, slopes: slopes, out_grad: outs, log_sum: of_maps,
                delta: of_maps, lambda: lambda, grad: queries => 2, bias_grad: self.bias_grads()
            ],
            {
                time: u32 = self.time as u32,
                source: u32 = self.source as u32,
                kv_heads: u32 = self.kv_heads as u32,
                window: u32 = self.window(),
                scale: f32 = scale,
                cap: f32 = cap,
                gradient_scale: f32 = gradient_scale,
            },
            plan,
            BF16
        )
    }

    /// The gradients of keys and values: one kernel, or where the sums are too long for its registers two. Each in every step
    /// that fits.
    pub fn key_value_grads(&self) -> Vec<Vec<Kernel>> {
        let of: &[Of] = if self.plan().split_gradients() { &[Of::Key, Of::Value] } else { &[Of::KeyAndValue] };
        let steps = self.plan().backward_steps();
        of.iter().map(|&of| steps.iter().map(|&step| self.key_value_grad_by(step, of)).collect()).collect()
    }

    fn key_value_grad_by(&self, step: usize, of: Of) -> Kernel {
        let [queries, keys, values, outs, rows, of_maps] = self.counts();
        let [slopes, .., bias] = self.options();
        let lambda = self.second(rows);
        let [scale, cap, gradient_scale] = self.floats();
        let plan = Plan { step, ..self.ungated().plan() };
        let which = match of {
            Of::KeyAndValue => "",
            Of::Key => ", keys",
            Of::Value => ", values",
        };
        kernel!(
            self.ungated().name("key_value_grad", &format!("{which}{}", by(step, plan.backward_steps()))),
            self.blocks(self.source, self.kv_heads),
            units(1),
            key_value_grad::attention_key_value_grad as AttentionKeyValueGrad,
            [
                query: queries, key: keys, value: values, strides: STRIDES, bias: bias, slopes: slopes, out_grad: outs, log_sum: of_maps,
                delta: of_maps, lambda: lambda, key_grad: keys => 2, value_grad: values => 2
            ],
            {
                time: u32 = self.time as u32,
                source: u32 = self.source as u32,
                heads: u32 = self.heads as u32,
                window: u32 = self.window(),
                scale: f32 = scale,
                cap: f32 = cap,
                gradient_scale: f32 = gradient_scale,
            },
            plan,
            of,
            BF16
        )
    }

    /// As the gradients of queries, keys and values see it: the gate is in the gradient that they are given.
    fn ungated(&self) -> Self {
        Self { gate: Gate::None, ..*self }
    }

    fn name(&self, kernel: &str, which: &str) -> String {
        let plan = self.plan();
        let mut name = format!("attention_{kernel} {} {}", plan.width, plan.value_width);
        for (has, what) in [
            (plan.window, " window"),
            (plan.softcap, " cap"),
            (plan.slopes, " slopes"),
            (plan.bias, " bias"),
            (plan.bias_grad, " and its gradient"),
            (plan.sinks, " sinks"),
            (plan.sigmoid, " sigmoid"),
            (plan.gate == Gate::Row, " row gate"),
            (plan.gate == Gate::Channel, " gate"),
            (plan.two_maps(), " two maps"),
            (plan.own_keys(), " of own keys"),
        ] {
            if has {
                name += what;
            }
        }
        name + which
    }
}

/// Said of a step that is not the first one.
fn by(step: usize, steps: &[usize]) -> String {
    if step == steps[0] { String::new() } else { format!(" by {step}") }
}

/// `groups` of the planes of a cube.
fn units(groups: usize) -> CubeDim {
    CubeDim::new_2d(32, PLANES * groups as u32)
}

/// What the table holds: usual widths, DIFF V1 and V2, a gate, and everything at once where it is hardest, at the widest.
pub fn sources() -> Vec<Source> {
    let everything = Call {
        window: Some(1),
        softcap: Some(1.0),
        slopes: true,
        bias: Some([1; 4]),
        bias_grad: true,
        sinks: true,
        gate: Gate::Channel,
        ..Call::plain(256, 256)
    };
    let (v1, v2) = (Call { maps: 2, key_maps: 2, ..Call::plain(64, 128) }, Call { maps: 2, ..Call::plain(128, 128) });
    let sigmoid = Call { sigmoid: true, ..Call::plain(128, 128) };
    let calls = [
        Call::plain(64, 64),
        Call::plain(128, 128),
        Call::plain(64, 128),
        everything,
        v1,
        Call { width: 128, value_width: 256, ..v1 },
        v2,
        sigmoid,
    ];
    let gates = [Gate::Row, Gate::Channel].map(|gate| Call { gate, ..Call::plain(128, 128) });
    let mut kernels: Vec<Kernel> = calls
        .iter()
        .flat_map(|call| {
            [call.forward(), vec![call.delta()], call.query_grad(), call.key_value_grads().concat()].concat()
        })
        .collect();
    kernels.extend(gates.iter().flat_map(|call| [vec![call.forward_by(64)], vec![call.delta()]].concat()));
    kernels.iter().map(Kernel::source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_much_shared_memory_its_kernels_want() {
        let maps = |maps, key_maps, width, value_width| Call { maps, key_maps, ..Call::plain(width, value_width) };
        let calls =
            [(64, 64), (64, 128), (256, 256), (20, 68)].map(|(width, value_width)| Call::plain(width, value_width));
        for call in calls.into_iter().chain([maps(2, 2, 64, 128), maps(2, 2, 128, 256), maps(2, 1, 64, 64)]) {
            let passes = [vec![call.forward(), call.query_grad()], call.key_value_grads()].concat();
            let kernels = passes.iter().flatten();
            let most = kernels.map(|kernel| kernel.source().shared).max();
            assert_eq!(most, Some(call.plan().shared()), "{call:?}");
        }
    }
}
