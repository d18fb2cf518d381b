//! The launches: what must hold for buffers and sizes is checked here, once, so that kernels need not.

use super::LOG2_E;
use super::backward::{self, Of};
use super::forward;
use super::plan::{PLANES, Plan, ROWS};
use cubecl::prelude::*;
use cubecl::server::Handle;

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
    pub sinks: bool,
}

impl Call {
    pub fn plan(&self) -> Plan {
        Plan {
            width: self.width,
            value_width: self.value_width,
            window: self.window.is_some(),
            softcap: self.softcap.is_some(),
            slopes: self.slopes,
            sinks: self.sinks,
        }
    }

    /// Scale and cap in units of `ln 2`, and the scale.
    pub fn floats(&self) -> [f32; 3] {
        let log2_e = LOG2_E as f64;
        [(self.scale * log2_e) as f32, (self.softcap.unwrap_or(0.0) * log2_e) as f32, self.scale as f32]
    }

    /// A window that no query reaches the end of is as good as any longer one.
    pub fn window(&self) -> u32 {
        self.window.map_or(0, |window| window.min(self.source) as u32)
    }

    /// Cubes over `rows` of every one of `heads`.
    pub fn blocks(&self, rows: usize, heads: usize) -> [u32; 3] {
        [(rows as u32).div_ceil(ROWS), heads as u32, self.batch as u32]
    }

    /// Numbers of queries, keys, values, outputs, and rows.
    fn counts(&self) -> [usize; 5] {
        let (rows, keys) = (self.batch * self.heads * self.time, self.batch * self.kv_heads * self.source);
        [rows * self.width, keys * self.width, keys * self.value_width, rows * self.value_width, rows]
    }

    fn check(&self, dtype: ElemType) {
        assert!(self.plan().fits(), "no CUDA tiles for widths {} and {}", self.width, self.value_width);
        assert!(
            self.time >= 1 && self.source >= self.time && self.heads.is_multiple_of(self.kv_heads),
            "not an attention: {self:?}"
        );
        assert_ne!(self.window, Some(0), "a window of no keys");
        assert_eq!(dtype.size(), 2, "tensor cores take 16-bit floats here, not {dtype:?}");
        // Kernels count in 32 bits; a grid has 65535 rows.
        assert!(self.counts().iter().all(|&count| count < 1 << 31), "too large for 32-bit indices: {self:?}");
        assert!(self.heads < 1 << 16 && self.batch < 1 << 16, "too many heads for a grid: {self:?}");
    }
}

/// `count` numbers of `bytes` each, in `handle`.
fn numbers(handle: &Handle, count: usize, bytes: usize) -> BufferArg {
    let (has, needs) = (handle.size_in_used(), (count * bytes) as u64);
    assert!(has >= needs, "a buffer of {has} bytes where {needs} are needed");
    assert!(handle.offset_start.unwrap_or(0).is_multiple_of(16), "a buffer that begins between 16-byte words");
    // SAFETY: the buffer holds that many.
    unsafe { BufferArg::from_raw_parts(handle.clone(), count) }
}

fn cubes([x, y, z]: [u32; 3]) -> CubeCount {
    CubeCount::Static(x, y, z)
}

fn units() -> CubeDim {
    CubeDim::new_2d(32, PLANES)
}

/// Contiguous `[query, key, value]` of `dtype` and `[slopes, sinks]`, f32 and one a head (any buffer where not planned) → `[out,
/// log_sum]`, of `dtype` and f32.
pub fn forward(
    client: &Client,
    dtype: ElemType,
    call: &Call,
    [query, key, value]: [&Handle; 3],
    [slopes, sinks]: [&Handle; 2],
    [out, log_sum]: [&Handle; 2],
) {
    call.check(dtype);
    let [queries, keys, values, outs, rows] = call.counts();
    let per_head = |needed| if needed { call.heads } else { 0 };
    let [scale, cap, _] = call.floats();
    // SAFETY: buffers hold what the sizes say, and the kernel visits no row and no column beyond them.
    unsafe {
        forward::attention_forward::launch_unchecked(
            client,
            cubes(call.blocks(call.time, call.heads)),
            units(),
            numbers(query, queries, 2),
            numbers(key, keys, 2),
            numbers(value, values, 2),
            numbers(slopes, per_head(call.slopes), 4),
            numbers(sinks, per_head(call.sinks), 4),
            numbers(out, outs / 2, 4),
            numbers(log_sum, rows, 4),
            call.time as u32,
            call.source as u32,
            call.kv_heads as u32,
            call.window(),
            scale,
            cap,
            call.plan(),
            dtype,
        );
    }
}

/// What the backward reads besides the inputs of the forward, and its two buffers of one f32 a row.
pub struct Backward<'a> {
    pub out: &'a Handle,
    pub log_sum: &'a Handle,
    pub out_grad: &'a Handle,
    pub delta: &'a Handle,
    /// A sum over batch and time is the gradient of a head's sink.
    pub sink_grad: &'a Handle,
}

/// The gradients of `[query, key, value]`, as they are laid out.
pub fn backward(
    client: &Client,
    dtype: ElemType,
    call: &Call,
    [query, key, value]: [&Handle; 3],
    [slopes, sinks]: [&Handle; 2],
    saved: &Backward,
    [query_grad, key_grad, value_grad]: [&Handle; 3],
) {
    call.check(dtype);
    let [queries, keys, values, outs, rows] = call.counts();
    let per_head = |needed| if needed { call.heads } else { 0 };
    let [scale, cap, gradient_scale] = call.floats();
    let plan = call.plan();
    // SAFETY: as in `forward`.
    unsafe {
        backward::attention_delta::launch_unchecked(
            client,
            cubes([(rows as u32).div_ceil(PLANES), 1, 1]),
            units(),
            numbers(saved.out, outs / 2, 4),
            numbers(saved.out_grad, outs / 2, 4),
            numbers(saved.log_sum, rows, 4),
            numbers(sinks, per_head(call.sinks), 4),
            numbers(saved.delta, rows, 4),
            numbers(saved.sink_grad, rows, 4),
            rows as u32,
            call.heads as u32,
            call.time as u32,
            plan,
            dtype,
        );
        backward::attention_query_grad::launch_unchecked(
            client,
            cubes(call.blocks(call.time, call.heads)),
            units(),
            numbers(query, queries, 2),
            numbers(key, keys, 2),
            numbers(value, values, 2),
            numbers(slopes, per_head(call.slopes), 4),
            numbers(saved.out_grad, outs, 2),
            numbers(saved.log_sum, rows, 4),
            numbers(saved.delta, rows, 4),
            numbers(query_grad, queries / 2, 4),
            call.time as u32,
            call.source as u32,
            call.kv_heads as u32,
            call.window(),
            scale,
            cap,
            gradient_scale,
            plan,
            dtype,
        );
    }
    let of: &[Of] = if plan.split_gradients() { &[Of::Key, Of::Value] } else { &[Of::KeyAndValue] };
    for &of in of {
        // SAFETY: as in `forward`.
        unsafe {
            backward::attention_key_value_grad::launch_unchecked(
                client,
                cubes(call.blocks(call.source, call.kv_heads)),
                units(),
                numbers(query, queries, 2),
                numbers(key, keys, 2),
                numbers(value, values, 2),
                numbers(slopes, per_head(call.slopes), 4),
                numbers(saved.out_grad, outs, 2),
                numbers(saved.log_sum, rows, 4),
                numbers(saved.delta, rows, 4),
                numbers(key_grad, keys / 2, 4),
                numbers(value_grad, values / 2, 4),
                call.time as u32,
                call.source as u32,
                call.heads as u32,
                call.window(),
                scale,
                cap,
                gradient_scale,
                plan,
                of,
                dtype,
            );
        }
    }
}
