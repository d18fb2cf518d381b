//! Attention over codes on CUDA, at decode. The keys of a query are split among cubes, so that one query fills a card;
//! each cube makes the table of products with every centroid, walks over its keys a tile at a time, and leaves its largest
//! score, its sum and its weighted values. A second kernel merges these in their order.

use super::cpu::Options;
use crate::cuda::kernel::{Kernel, kernel};
use crate::cuda::rows::{PLANES, UNITS, row_max, row_total};
use crate::cuda::source::{Source, element};
use crate::cuda::{Asked, Gpu, Program};
use crate::operator::{Operator, TOO_LARGE};
use crate::trace::Because;
use burn::tensor::{DType, FloatDType, Shape};
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};
use cubecl::prelude::*;

/// Keys of a tile: one for every unit.
const TILE: u32 = UNITS;
/// Parts into which the keys of a query are split at most.
const SPLITS: usize = 64;
/// Below any score, so that a part which has seen no key yet has a maximum.
const FLOOR: f32 = -1e29;
/// Below the floor: its weight is zero whatever the maximum is.
const HIDDEN: f32 = -1e30;

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Sub-spaces, centroids in each, and channels of a centroid.
    pub key: [usize; 3],
    pub value: [usize; 3],
    pub window: bool,
    pub softcap: bool,
    /// A score falls by the head's slope with every token of distance (ALiBi).
    pub slopes: bool,
    /// Every row has the head's logit in its sum.
    pub sinks: bool,
    /// Weights are `σ(score)` and do not compete.
    pub sigmoid: bool,
}

impl Plan {
    pub const fn width(&self) -> usize {
        self.key[0] * self.key[2]
    }

    pub const fn value_width(&self) -> usize {
        self.value[0] * self.value[2]
    }

    /// Numbers of the table.
    const fn entries(&self) -> usize {
        self.key[0] * self.key[1]
    }

    /// Units side by side over the channels of a value: a power of two, so that it divides the units of a cube.
    const fn lanes(&self) -> u32 {
        (self.value_width() as u32).next_power_of_two()
    }

    /// Bytes of shared memory of a block, most of them for the table.
    const fn shared(&self) -> usize {
        4 * (self.entries() + self.width() + 2 * UNITS as usize + PLANES as usize)
    }
}

/// The product of query and key `s` of `row`, scaled, by the table or in full.
#[cube]
#[allow(clippy::too_many_arguments)]
fn product<E: Float>(
    table: &[f32],
    query: &[f32],
    codes: &[i32],
    recent_keys: &[E],
    group: u32,
    s: u32,
    coded: u32,
    recent: u32,
    scale: f32,
    #[comptime] plan: Plan,
) -> f32 {
    let mut sum = 0.0f32;
    if s < coded {
        let at = (group * coded + s) * comptime!(plan.key[0] as u32);
        for m in 0..comptime!(plan.key[0] as u32) {
            let code = u32::cast_from(codes[(at + m) as usize]);
            sum += table[(m * comptime!(plan.key[1] as u32) + code) as usize];
        }
    } else {
        let at = (group * recent + s - coded) * comptime!(plan.width() as u32);
        for c in 0..comptime!(plan.width() as u32) {
            sum += query[c as usize] * f32::cast_from(recent_keys[(at + c) as usize]);
        }
        sum *= scale;
    }
    sum
}

/// The parts of every query.
///
/// `query [batch, heads, time, width]`, `key_codes, value_codes [batch, kv_heads, coded, sub-spaces]`, centroids `[sub-spaces, centroids, channels]`,
/// `key, value [batch, kv_heads, recent, ..]`, `slopes [heads]` → `sums [rows, parts, 2]`, `weighed [rows, parts, value_width]`. Cubes:
/// `(parts, batch · heads, time)` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn product_attention_parts<E: Float>(
    query: &[E],
    key_codes: &[i32],
    value_codes: &[i32],
    key_centroids: &[E],
    value_centroids: &[E],
    key: &[E],
    value: &[E],
    slopes: &[f32],
    sums: &mut [f32],
    weighed: &mut [f32],
    time: u32,
    coded: u32,
    recent: u32,
    heads: u32,
    kv_heads: u32,
    each: u32,
    span: u32,
    scale: f32,
    cap: f32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let width = comptime!(plan.width() as u32);
    let value_width = comptime!(plan.value_width() as u32);
    let lanes = comptime!(plan.lanes());
    let mut queries = Shared::<[f32]>::new_slice(comptime!(plan.width()));
    let mut table = Shared::<[f32]>::new_slice(comptime!(plan.entries()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut of_units = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut between = Shared::<[f32]>::new_slice(comptime!(PLANES as usize));

    let (head, batch) = (CUBE_POS_X % heads, CUBE_POS_X / heads);
    let group = batch * kv_heads + head / (heads / kv_heads);
    let row = CUBE_POS_X * time + CUBE_POS_Z;
    let source = coded + recent;
    let own = source - time + CUBE_POS_Z;
    let unit = UNIT_POS;

    let mut c = unit;
    while c < width {
        queries[c as usize] = f32::cast_from(query[(row * width + c) as usize]);
        c += CUBE_DIM;
    }
    sync_cube();
    let mut entry = unit;
    while entry < comptime!(plan.entries() as u32) {
        let m = entry / comptime!(plan.key[1] as u32);
        let mut sum = 0.0f32;
        for c in 0..comptime!(plan.key[2] as u32) {
            let number = f32::cast_from(key_centroids[(entry * comptime!(plan.key[2] as u32) + c) as usize]);
            sum += queries[(m * comptime!(plan.key[2] as u32) + c) as usize] * number;
        }
        table[entry as usize] = sum * scale;
        entry += CUBE_DIM;
    }

    let slope = if comptime!(plan.slopes) { slopes[head as usize] } else { 0.0f32.runtime() };
    // Units with a channel each, several with the same one share out the keys.
    let channel = unit % lanes;
    let share = unit / lanes;
    let (m, within) = (channel / comptime!(plan.value[2] as u32), channel % comptime!(plan.value[2] as u32));

    let mut largest = FLOOR.runtime();
    let mut total = 0.0f32;
    let mut sum = 0.0f32;
    let end = min(CUBE_POS_Y * each + each, own + 1);
    let mut tile = CUBE_POS_Y * each;
    while tile < end {
        // The table is there, and the last tile's weights have been read.
        sync_cube();
        let s = tile + unit;
        let mut visible = s < end;
        if comptime!(plan.window) {
            visible = visible && own < s + span;
        }
        let mut score = HIDDEN.runtime();
        if visible {
            score = product::<E>(&table, &queries, key_codes, key, group, s, coded, recent, scale, plan);
            if comptime!(plan.softcap) {
                // `cap · tanh(score / cap)`.
                score = cap - 2.0 * cap / (1.0 + (2.0 * score / cap).exp());
            }
            if comptime!(plan.slopes) {
                score -= slope * (f32::cast_from(own) - f32::cast_from(s));
            }
        }
        let mut weight = 0.0f32.runtime();
        if comptime!(plan.sigmoid) {
            if visible {
                weight = 1.0 / (1.0 + (-score).exp());
            }
        } else {
            let top = max(largest, row_max(score, &mut between, PLANES));
            weight = (score - top).exp();
            let fade = (largest - top).exp();
            sum *= fade;
            total = total * fade + row_total(weight, &mut between, PLANES);
            largest = top;
        }
        weights[unit as usize] = weight;
        sync_cube();
        if channel < value_width {
            let count = min(comptime!(TILE), end - tile);
            let mut i = share;
            while i < count {
                let s = tile + i;
                let number = if s < coded {
                    let code = value_codes[((group * coded + s) * comptime!(plan.value[0] as u32) + m) as usize];
                    let at = m * comptime!(plan.value[1] as u32) + u32::cast_from(code);
                    f32::cast_from(value_centroids[(at * comptime!(plan.value[2] as u32) + within) as usize])
                } else {
                    f32::cast_from(value[((group * recent + s - coded) * value_width + channel) as usize])
                };
                sum += weights[i as usize] * number;
                i += comptime!(UNITS / plan.lanes());
            }
        }
        tile += TILE;
    }

    of_units[unit as usize] = sum;
    sync_cube();
    let part = row * CUBE_COUNT_Y + CUBE_POS_Y;
    if unit < value_width {
        let mut whole = 0.0f32;
        #[unroll]
        for share in 0..comptime!(UNITS / plan.lanes()) {
            whole += of_units[(share * lanes + unit) as usize];
        }
        weighed[(part * value_width + unit) as usize] = whole;
    }
    if unit == 0 {
        sums[(2 * part) as usize] = largest;
        sums[(2 * part + 1) as usize] = total;
    }
}

/// `out [rows, value_width]` from the parts of every row; `sinks [heads]`. Cubes: `rows` of `(32, PLANES)`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn product_attention_merge<E: Float>(
    sums: &[f32],
    weighed: &[f32],
    sinks: &[f32],
    out: &mut [E],
    parts: u32,
    heads: u32,
    time: u32,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let value_width = comptime!(plan.value_width() as u32);
    let row = CUBE_POS_X;
    if UNIT_POS < value_width {
        let mut sum = 0.0f32;
        if comptime!(plan.sigmoid) {
            for part in row * parts..(row + 1) * parts {
                sum += weighed[(part * value_width + UNIT_POS) as usize];
            }
        } else {
            let mut largest = FLOOR.runtime();
            let mut total = 0.0f32;
            if comptime!(plan.sinks) {
                largest = sinks[(row / time % heads) as usize];
                total = 1.0;
            }
            let mut top = largest;
            for part in row * parts..(row + 1) * parts {
                top = max(top, sums[(2 * part) as usize]);
            }
            total *= (largest - top).exp();
            for part in row * parts..(row + 1) * parts {
                let fade = (sums[(2 * part) as usize] - top).exp();
                total += sums[(2 * part + 1) as usize] * fade;
                sum += weighed[(part * value_width + UNIT_POS) as usize] * fade;
            }
            sum /= total;
        }
        out[(row * value_width + UNIT_POS) as usize] = E::cast_from(sum);
    }
}

/// Sizes and options of a call.
#[derive(Clone, Copy, Debug)]
struct Call {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    time: usize,
    coded: usize,
    recent: usize,
    scale: f64,
    cap: f64,
    span: usize,
    plan: Plan,
    dtype: DType,
}

/// Whether there are kernels for inputs of these shapes.
///
/// # Errors
/// What there is none for.
pub fn permits(asked: &Asked, options: &Options, shapes: [Option<Shape>; 7]) -> Result<(), Because> {
    asked.in_f32()?;
    let plan = call(options, shapes, asked.dtype)?.plan;
    if plan.value_width() > UNITS as usize {
        return Err(Because::NoKernel("values this wide; there is one for up to 256 channels"));
    }
    if plan.shared() > asked.card.shared {
        return Err(Because::NoKernel("this many centroids on this GPU: its blocks have too little shared memory"));
    }
    Ok(())
}

/// The call of `q`, recent `k` and `v`, the centroids of keys and of values, `bias` and `sink`.
fn call(options: &Options, shapes: [Option<Shape>; 7], dtype: DType) -> Result<Call, Because> {
    let no = |what| Err(Because::NoKernel(what));
    let [q, k, _, key, value, bias, sink] = shapes;
    let there = "queries, recent tokens and centroids are always there";
    let [[batch, heads, time, _], [_, kv_heads, recent, _]] = [q, k].map(|shape| shape.expect(there).dims::<4>());
    let [key, value] = [key, value].map(|shape| shape.expect(there).dims::<3>());
    let Options { coded, scale, window, softcap, .. } = *options;
    if bias.is_some() {
        return no("a bias");
    }
    if sink.as_ref().is_some_and(|sink| sink.dims::<4>() != [1, heads, 1, 1]) {
        return no("a sink for every query; there is one for a sink for every head");
    }
    if time == 0 || coded == 0 || window == Some(0) {
        return no("no tokens");
    }
    if time >= 1 << 16 {
        return Err(TOO_LARGE);
    }
    let plan = Plan {
        key,
        value,
        window: window.is_some(),
        softcap: softcap.is_some(),
        slopes: options.slopes.is_some(),
        sinks: sink.is_some(),
        sigmoid: options.sigmoid,
    };
    let (cap, span) = (softcap.unwrap_or(1.0), window.unwrap_or(0).min(coded + recent));
    Ok(Call { batch, heads, kv_heads, time, coded, recent, scale, cap, span, plan, dtype })
}

/// The inputs are `q`, recent `k` and `v`, the centroids of keys and of values, `bias` and `sink`; there is no bias.
#[derive(Clone, Debug)]
pub struct GpuLookUp<B: Gpu> {
    /// `[batch, kv_heads, coded, subspaces]` in i32, as are the values'.
    pub keys: IntTensor<B>,
    pub values: IntTensor<B>,
    pub options: Options,
}

impl<B: Gpu> Operator<B, 7> for GpuLookUp<B> {
    type Saved = ();

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 7]) -> (FloatTensor<B>, ()) {
        let there = "always there";
        let shapes = inputs.each_ref().map(|x| x.as_ref().map(TensorMetadata::shape));
        let dtype = inputs[0].as_ref().expect(there).dtype();
        let call = call(&self.options, shapes, dtype)
            .unwrap_or_else(|because| unreachable!("`choose` lets no call through that has {because}"));
        let [q, k, v, key_centroids, value_centroids, _, sink] = inputs;
        let floats = [q, k, v, key_centroids, value_centroids].map(|x| x.expect(there));
        let codes = [&self.keys, &self.values].map(|codes| B::memory(codes.clone()));
        let sinks = sink.map(|sink| B::float_cast(sink, FloatDType::F32));

        let mut program = Program::new("product_attention");
        let [q, k, v, key_centroids, value_centroids] = floats.each_ref().map(|x| program.input(x));
        let [key_codes, value_codes] = codes.each_ref().map(|x| program.input_of(DType::I32, x));
        let sink = sinks.as_ref().map(|x| program.input(x));
        let nothing = program.nothing();
        let slopes = self.options.slopes.as_ref().map(|slopes| program.constant(slopes.iter().map(|&x| x as f32)));
        let out = program.output([call.batch, call.heads, call.time, call.plan.value_width()], dtype);
        let [sums, weighed] = call.scratch().map(|count| program.buffer([count], DType::F32));
        let slopes = slopes.unwrap_or(nothing);
        program.then(
            call.attend(),
            &[q, key_codes, value_codes, key_centroids, value_centroids, k, v, slopes, sums, weighed],
        );
        program.then(call.merge(), &[sums, weighed, sink.unwrap_or(nothing), out]);
        let inputs = floats.into_iter().chain(codes).chain(sinks);
        (B::execute(program, inputs.collect()).pop().expect("an output"), ())
    }

    fn backward(&self, _: (), _: FloatTensor<B>, _: [bool; 7]) -> [Option<FloatTensor<B>>; 7] {
        unreachable!("chosen only where nothing is tracked")
    }
}

impl Call {
    fn rows(&self) -> usize {
        self.batch * self.heads * self.time
    }

    /// Keys of a part, a whole number of tiles, and the number of parts.
    fn parts(&self) -> [usize; 2] {
        let tiles = (self.coded + self.recent).div_ceil(TILE as usize);
        let each = tiles.div_ceil(SPLITS);
        [each * TILE as usize, tiles.div_ceil(each)]
    }

    /// Numbers that the first kernel leaves, in f32: largest scores and sums, and weighted values.
    fn scratch(&self) -> [usize; 2] {
        let parts = self.rows() * self.parts()[1];
        [2 * parts, parts * self.plan.value_width()]
    }

    fn name(&self, kernel: &str) -> String {
        let Plan { key, value, window, softcap, slopes, sinks, sigmoid } = self.plan;
        let mut name = format!("product_attention_{kernel} {key:?} {value:?}");
        let options =
            [(window, " window"), (softcap, " cap"), (slopes, " slopes"), (sinks, " sinks"), (sigmoid, " sigmoid")];
        options.iter().filter(|(has, _)| *has).for_each(|(_, what)| name += what);
        name + element(self.dtype).1
    }

    /// Of `[query, key_codes, value_codes, key_centroids, value_centroids, key, value, slopes, sums, weighed]`, where codes are i32 below
    /// the number of centroids, and slopes f32.
    fn attend(&self) -> Kernel {
        let Self { batch, heads, kv_heads, time, coded, recent, span, plan, .. } = *self;
        assert!(plan.value_width() <= UNITS as usize, "no CUDA kernel for codes as in {plan:?}");
        assert!(time >= 1 && recent >= time && heads.is_multiple_of(kv_heads), "not an attention: {self:?}");
        let [key_codes, value_codes] = [plan.key, plan.value].map(|of| batch * kv_heads * coded * of[0]);
        let [key_numbers, value_numbers] = [plan.key, plan.value].map(|of| of.iter().product::<usize>());
        let groups = batch * kv_heads * recent;
        let ([each, parts], [sums, weighed]) = (self.parts(), self.scratch());
        let element = element(self.dtype).0;
        kernel!(
            self.name("parts"),
            [(batch * heads) as u32, parts as u32, time as u32],
            CubeDim::new_2d(32, PLANES),
            product_attention_parts as ProductAttentionParts,
            [
                query: self.rows() * plan.width(), key_codes: key_codes, value_codes: value_codes, key_centroids: key_numbers,
                value_centroids: value_numbers, key: groups * plan.width(), value: groups * plan.value_width(),
                slopes: if plan.slopes { heads } else { 0 }, sums: sums, weighed: weighed
            ],
            {
                time: u32 = time as u32, coded: u32 = coded as u32, recent: u32 = recent as u32, heads: u32 = heads as u32,
                kv_heads: u32 = kv_heads as u32, each: u32 = each as u32, span: u32 = span as u32,
                scale: f32 = self.scale as f32, cap: f32 = self.cap as f32
            },
            plan,
            element
        )
    }

    /// Of `[sums, weighed, sinks, out]`, sinks in f32.
    fn merge(&self) -> Kernel {
        let Self { heads, time, plan, .. } = *self;
        let [sums, weighed] = self.scratch();
        let element = element(self.dtype).0;
        kernel!(
            self.name("merge"),
            [self.rows() as u32, 1, 1],
            CubeDim::new_2d(32, PLANES),
            product_attention_merge as ProductAttentionMerge,
            [
                sums: sums, weighed: weighed, sinks: if plan.sinks { heads } else { 0 },
                out: self.rows() * plan.value_width()
            ],
            { parts: u32 = self.parts()[1] as u32, heads: u32 = heads as u32, time: u32 = time as u32 },
            plan,
            element
        )
    }
}

/// What the table holds: MILLION's 4 bits a channel (sub-vectors of two, 256 centroids), and everything at once with wider ones.
pub fn sources() -> Vec<Source> {
    let plain = Plan {
        key: [64, 256, 2],
        value: [64, 256, 2],
        window: false,
        softcap: false,
        slopes: false,
        sinks: false,
        sigmoid: false,
    };
    let wide = Plan { key: [64, 256, 4], value: [64, 256, 4], ..plain };
    let all = Plan { window: true, softcap: true, slopes: true, sinks: true, ..wide };
    let call = |(plan, dtype)| Call {
        batch: 1,
        heads: 1,
        kv_heads: 1,
        time: 1,
        coded: 1,
        recent: 1,
        scale: 1.0,
        cap: 1.0,
        span: 1,
        plan,
        dtype,
    };
    let calls = [(plain, DType::BF16), (plain, DType::F32), (all, DType::BF16)].map(call);
    calls.iter().flat_map(|call| [call.attend(), call.merge()]).map(|kernel| kernel.source()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_hold_every_key_and_none_is_empty() {
        let plan = Plan {
            key: [8, 16, 8],
            value: [8, 16, 5],
            window: false,
            softcap: false,
            slopes: false,
            sinks: false,
            sigmoid: false,
        };
        assert!(UNITS.is_multiple_of(plan.lanes()));
        for (coded, recent) in [(0, 1), (75, 3), (255, 1), (256, 1), (16_384, 100), (100_000, 5)] {
            let call = Call {
                batch: 1,
                heads: 1,
                kv_heads: 1,
                time: 1,
                coded,
                recent,
                scale: 1.0,
                cap: 0.0,
                span: 0,
                plan,
                dtype: DType::BF16,
            };
            let [each, parts] = call.parts();
            assert!(each.is_multiple_of(TILE as usize) && parts <= SPLITS);
            assert!(each * parts >= coded + recent && each * (parts - 1) < coded + recent, "{coded} + {recent}");
        }
    }
}
