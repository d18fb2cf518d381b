//! Softmax attention as it runs on a GPU, against the reference in f64.

use crate::emulator::{choosing, emulator};
use crate::numbers::*;
use burn::tensor::{DType, Tensor};
use kernels::cuda::emulated;
use kernels::cuda::program::Emulator;
use kernels::{
    AttentionOptions, Implementation, Normaliser, by_reference, differential_attention, softmax_attention, trace,
};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Gate {
    None,
    Row,
    Channel,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    time: usize,
    source: usize,
    width: usize,
    value_width: usize,
    scale: f64,
    window: Option<usize>,
    softcap: Option<f64>,
    slopes: bool,
    sinks: Sinks,
    /// Axes of a bias: which of batch, heads and time have one of their own.
    bias: Option<[bool; 3]>,
    gate: Gate,
    /// Whether inputs are views: queries and gates as projections give them, keys and values in a cache with room; and the
    /// output's gradient as a projection gives it.
    views: bool,
}

/// What stands beside the scores of a row, or in the place of their sum.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sinks {
    None,
    OfAll,
    OfHeads,
    OfRows,
    Sigmoid,
}

type Named = BTreeMap<&'static str, Vec<f64>>;

impl Call {
    fn sinks(&self, dtype: DType) -> Option<Tensor<4>> {
        let of_heads: Vec<f64> = (0..self.heads).map(|h| h as f64 - 0.5).collect();
        let [batch, heads, time] = [self.batch, self.heads, self.time];
        match self.sinks {
            Sinks::None | Sinks::Sigmoid => None,
            Sinks::OfAll => Some(leaf(&[0.5], [1; 4], dtype)),
            Sinks::OfHeads => Some(leaf(&of_heads, [1, heads, 1, 1], dtype)),
            Sinks::OfRows => Some(leaf(&numbers(7, batch * heads * time), [batch, heads, time, 1], dtype)),
        }
    }

    fn normaliser(&self, sink: Option<Tensor<4>>) -> Normaliser {
        if self.sinks == Sinks::Sigmoid { Normaliser::Sigmoid } else { Normaliser::Softmax { sink } }
    }

    /// The bias, and what it is a view of.
    fn bias(&self, dtype: DType) -> Option<[Tensor<4>; 2]> {
        let own = self.bias?;
        let sizes = [self.batch, self.heads, self.time];
        let [batch, heads, time] = std::array::from_fn(|axis| if own[axis] { sizes[axis] } else { 1 });
        let mut values = numbers(8, batch * heads * time * self.source);
        // Every row sees its own key, some others not at all.
        values.iter_mut().enumerate().filter(|(i, _)| i % 11 == 3 && time == 1).for_each(|(_, x)| *x = -200.0);
        let shape = [batch, heads, time, self.source];
        if !self.views {
            let all = leaf(&values, shape, dtype);
            return Some([all.clone(), all]);
        }
        // Keys do not lie side by side, as in a table of distances.
        let all = leaf(&values, [batch, self.source, heads, time], dtype);
        Some([all.clone().permute([0, 2, 3, 1]), all])
    }

    fn slopes(&self) -> Option<Vec<f64>> {
        self.slopes.then(|| (0..self.heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect())
    }

    /// The gate, and what it is a view of.
    fn gate(&self, dtype: DType) -> Option<[Tensor<4>; 2]> {
        let last = match self.gate {
            Gate::None => return None,
            Gate::Row => 1,
            Gate::Channel => self.value_width,
        };
        Some(self.of_tokens(5, [self.batch, self.heads, self.time, last], dtype))
    }

    /// Numbers that lie by tokens, in views; and what they are a view of.
    fn of_tokens(&self, seed: usize, [batch, heads, time, width]: [usize; 4], dtype: DType) -> [Tensor<4>; 2] {
        let values = numbers(seed, batch * heads * time * width);
        if !self.views {
            let all = leaf(&values, [batch, heads, time, width], dtype);
            return [all.clone(), all];
        }
        let all = leaf(&values, [batch, time, heads, width], dtype);
        [all.clone().swap_dims(1, 2), all]
    }

    /// Numbers in a room that is longer, in views; and the room.
    fn in_a_room(&self, seed: usize, [batch, heads, source, width]: [usize; 4], dtype: DType) -> [Tensor<4>; 2] {
        const BEFORE: usize = 8;
        let values = numbers(seed, batch * heads * source * width);
        if !self.views {
            let all = leaf(&values, [batch, heads, source, width], dtype);
            return [all.clone(), all];
        }
        let all = values.chunks(source * width).flat_map(|head| {
            let nothing = |rows: usize| vec![f64::NAN; rows * width];
            [nothing(BEFORE), head.to_vec(), nothing(5)].concat()
        });
        let room = leaf(&all.collect::<Vec<_>>(), [batch, heads, BEFORE + source + 5, width], dtype);
        [room.clone().narrow(2, BEFORE, source), room]
    }

    fn out_grad(&self) -> Vec<f64> {
        numbers(4, self.batch * self.heads * self.time * self.value_width)
    }

    /// The output and the gradients by name.
    fn results(&self, dtype: DType) -> Named {
        let &Call { batch, heads, kv_heads, time, source, width, value_width, scale, window, softcap, .. } = self;
        let [q, all_q] = self.of_tokens(1, [batch, heads, time, width], dtype);
        let [k, all_k] = self.in_a_room(2, [batch, kv_heads, source, width], dtype);
        let [v, all_v] = self.in_a_room(3, [batch, kv_heads, source, value_width], dtype);
        let (sink, bias) = (self.sinks(dtype), self.bias(dtype));
        let gate = self.gate(dtype);
        let options = AttentionOptions {
            window,
            softcap,
            slopes: self.slopes(),
            bias: bias.as_ref().map(|[bias, _]| bias.clone()),
            normaliser: self.normaliser(sink.clone()),
            gate: gate.as_ref().map(|[gate, _]| gate.clone()),
            scale,
        };
        let out = softmax_attention(q, k, v, options);
        let seen = if self.views { out.clone().swap_dims(1, 2) } else { out.clone() };
        let weights = leaf(&self.out_grad(), seen.dims(), dtype);
        let gradients = (seen * weights).sum().backward();
        let mut found = Named::from([("the output", values(out))]);
        let mut keep = |name, x: &Tensor<4>| found.insert(name, values(x.grad(&gradients).unwrap()));
        keep("the queries' gradient", &all_q);
        keep("the keys' gradient", &all_k);
        keep("the values' gradient", &all_v);
        if let Some(sink) = &sink {
            keep("the sinks' gradient", sink);
        }
        if let Some([_, bias]) = &bias {
            keep("the bias' gradient", bias);
        }
        if let Some([_, gate]) = &gate {
            keep("the gate's gradient", gate);
        }
        found
    }

    /// The sinks' gradient is `−p Σ_j dO_j O_j` summed over rows, and its terms cancel: what rounding of O to 16 bits leaves is
    /// a share of `p Σ_j |dO_j O_j|`. In the order of the sinks.
    fn size_of_sink_grads(&self, out: &[f64]) -> Vec<f64> {
        let ones = Call { value_width: 4, gate: Gate::None, ..*self };
        let &Call { batch, heads, kv_heads, time, source, width, window, softcap, scale, .. } = &ones;
        let make = |seed, shape: [usize; 4]| constant(&numbers(seed, shape.iter().product()), shape, DType::F64);
        let options = AttentionOptions {
            window,
            softcap,
            slopes: self.slopes(),
            bias: self.bias(DType::F64).map(|[bias, _]| bias),
            normaliser: self.normaliser(self.sinks(DType::F64)),
            ..AttentionOptions::from(scale)
        };
        let (q, k) = (make(1, [batch, heads, time, width]), make(2, [batch, kv_heads, source, width]));
        let v = Tensor::ones_like(&make(3, [batch, kv_heads, source, 4]));
        let kept = by_reference(|| values(softmax_attention(q, k, v, options)));
        let number = |row: usize| match self.sinks {
            Sinks::OfHeads => row / time % heads,
            Sinks::OfRows => row,
            _ => 0,
        };
        let mut sizes = vec![0.0; number(batch * heads * time - 1) + 1];
        let out_grad = self.out_grad();
        for (row, (out, grad)) in out.chunks(self.value_width).zip(out_grad.chunks(self.value_width)).enumerate() {
            let products: f64 = out.iter().zip(grad).map(|(o, d)| (o * d).abs()).sum();
            sizes[number(row)] += (1.0 - kept[4 * row]) * products;
        }
        sizes
    }
}

/// Every output and every gradient of `calls`.
fn check(calls: &[Call]) {
    check_on(emulator(), calls);
}

fn check_on(emulator: Emulator, calls: &[Call]) {
    for call in calls {
        let expected = by_reference(|| call.results(DType::F64));
        let (found, ran) = trace(|| emulated(emulator.clone(), || call.results(DType::BF16)));
        assert_eq!(ran[0].implementation, Implementation::Cuda, "{call:?}: {}", ran[0]);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, expected_values) in &expected {
            let what = format!("{name} of {call:?}");
            match *name {
                "the sinks' gradient" => {
                    let sizes = call.size_of_sink_grads(&expected["the output"]);
                    let allowed: Vec<f64> = sizes.iter().map(|size| 0.01 * size).collect();
                    assert_within(&what, &found[name], expected_values, &allowed);
                }
                "the output" => assert_close(&what, &found[name], expected_values, 0.01),
                _ => assert_close(&what, &found[name], expected_values, 0.02),
            }
        }
    }
}

const PLAIN: Call = Call {
    batch: 1,
    heads: 2,
    kv_heads: 1,
    time: 75,
    source: 75,
    width: 16,
    value_width: 16,
    scale: 0.4,
    window: None,
    softcap: None,
    slopes: false,
    sinks: Sinks::None,
    bias: None,
    gate: Gate::None,
    views: false,
};
const EVERYTHING: Call =
    Call { window: Some(40), softcap: Some(1.5), slopes: true, sinks: Sinks::OfHeads, gate: Gate::Channel, ..PLAIN };

#[test]
fn odd_lengths_groups_of_heads_and_a_cache() {
    check(&[
        PLAIN,
        Call { time: 1, source: 1, ..PLAIN },
        Call { time: 1, source: 150, ..PLAIN },
        Call { time: 63, source: 63, batch: 2, heads: 4, kv_heads: 2, ..PLAIN },
        Call { time: 70, source: 133, ..PLAIN },
        Call { time: 200, source: 200, kv_heads: 2, ..PLAIN },
    ]);
}

#[test]
fn a_window_a_soft_cap_slopes_sinks_and_a_gate() {
    check(&[
        EVERYTHING,
        Call { window: Some(1), time: 63, source: 63, ..EVERYTHING },
        Call { window: Some(3), time: 70, source: 200, batch: 2, heads: 4, kv_heads: 2, ..EVERYTHING },
        Call { window: Some(500), time: 130, source: 130, ..EVERYTHING },
        Call { window: Some(100), time: 1, source: 300, ..EVERYTHING },
        // Blocks of keys that no query sees: their gradients are zero, not what memory held.
        Call { window: Some(5), time: 3, source: 200, ..EVERYTHING },
    ]);
}

#[test]
fn a_bias_of_every_score_or_shared_and_sinks_of_rows() {
    let own = |axes: [bool; 3]| Call { bias: Some(axes), batch: 2, heads: 4, kv_heads: 2, ..PLAIN };
    check(&[
        Call { time: 70, source: 133, ..own([true; 3]) },
        Call { sinks: Sinks::OfRows, softcap: Some(1.5), window: Some(30), views: true, ..own([false, true, true]) },
        Call { sinks: Sinks::OfAll, ..own([false, false, false]) },
        Call { time: 1, source: 1, ..own([true, false, false]) },
    ]);
}

#[test]
fn weights_that_do_not_compete() {
    let sigmoid = Call { sinks: Sinks::Sigmoid, ..PLAIN };
    check(&[
        sigmoid,
        Call { softcap: Some(1.5), window: Some(40), slopes: true, gate: Gate::Channel, views: true, ..sigmoid },
        Call { bias: Some([false, true, false]), time: 3, source: 200, ..sigmoid },
    ]);
}

#[test]
fn views_are_read_where_they_lie() {
    let views = Call { views: true, batch: 2, heads: 4, kv_heads: 2, ..PLAIN };
    check(&[
        Call { time: 70, source: 133, ..views },
        Call { time: 63, source: 63, gate: Gate::Channel, ..views },
        // Rows that do not begin where copies can.
        Call { width: 12, value_width: 20, gate: Gate::Row, ..views },
    ]);
}

#[test]
fn widths_that_fill_no_tile_values_wider_than_keys_and_a_gate_for_every_head() {
    check(&[Call { width: 20, value_width: 68, gate: Gate::Row, ..PLAIN }]);
}

/// Differential attention: `heads` and `kv_heads` count a head of two maps once.
#[derive(Clone, Copy, Debug)]
struct Difference {
    /// Whether both maps have keys of their own (V1), or the same (V2).
    own_keys: bool,
    /// One λ for every token and head, or one for all tokens.
    lambda_of_tokens: bool,
    call: Call,
}

impl Difference {
    fn results(&self, dtype: DType) -> Named {
        let Call { batch, heads, kv_heads, time, source, width, value_width, scale, window, softcap, .. } = self.call;
        let make = |seed, shape: [usize; 4]| leaf(&numbers(seed, shape.iter().product()), shape, dtype);
        let key_heads = if self.own_keys { 2 * kv_heads } else { kv_heads };
        let [q, all_q] = self.call.of_tokens(1, [batch, 2 * heads, time, width], dtype);
        let [k, all_k] = self.call.in_a_room(2, [batch, key_heads, source, width], dtype);
        let [v, all_v] = self.call.in_a_room(3, [batch, kv_heads, source, value_width], dtype);
        let lambda = make(4, if self.lambda_of_tokens { [batch, heads, time, 1] } else { [1, heads, 1, 1] });
        let gate = self.call.gate(dtype);
        let slopes = self.call.slopes();
        let given = gate.as_ref().map(|[gate, _]| gate.clone());
        let options = AttentionOptions { window, softcap, slopes, gate: given, ..scale.into() };
        let out = differential_attention(q, k, v, lambda.clone(), options);
        let seen = if self.call.views { out.clone().swap_dims(1, 2) } else { out.clone() };
        let out_grad = constant(&numbers(6, seen.dims().iter().product()), seen.dims(), dtype);
        let gradients = (seen * out_grad).sum().backward();
        let mut found = Named::from([("the output", values(out))]);
        let leaves = [("q", &all_q), ("k", &all_k), ("v", &all_v), ("λ", &lambda)].into_iter();
        for (name, x) in leaves.chain(gate.as_ref().map(|[_, gate]| ("the gate", gate))) {
            found.insert(name, values(x.grad(&gradients).unwrap()));
        }
        found
    }
}

fn check_differences(differences: &[Difference]) {
    let emulator = emulator();
    for difference in differences {
        let expected = by_reference(|| difference.results(DType::F64));
        let (found, ran) = trace(|| emulated(emulator.clone(), || difference.results(DType::BF16)));
        assert_eq!((ran[0].operator, ran[0].implementation), ("differential_attention", Implementation::Cuda));
        assert_eq!(ran.len(), 1, "nothing beside the two maps' own kernels: {ran:?}");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, expected) in &expected {
            assert_close(&format!("{name} of {difference:?}"), &found[name], expected, 0.02);
        }
    }
}

#[test]
fn the_difference_of_two_maps_over_the_same_values() {
    let call = Call { batch: 2, heads: 4, kv_heads: 2, time: 70, source: 75, value_width: 32, slopes: true, ..PLAIN };
    let everything = Call { gate: Gate::Channel, window: Some(40), softcap: Some(1.5), ..call };
    let (v1, v2) = (
        Difference { own_keys: true, lambda_of_tokens: false, call: Call { gate: Gate::Row, ..call } },
        Difference { own_keys: false, lambda_of_tokens: true, call: everything },
    );
    check_differences(&[
        v1,
        Difference { call: Call { time: 1, source: 150, ..v1.call }, ..v1 },
        Difference { call: Call { time: 200, source: 200, batch: 1, ..v1.call }, ..v1 },
        v2,
        Difference { call: Call { time: 3, source: 200, batch: 1, ..v2.call }, ..v2 },
        Difference { call: Call { views: true, ..v1.call }, ..v1 },
        Difference { call: Call { views: true, ..v2.call }, ..v2 },
    ]);
    for own_keys in [true, false] {
        // Without an option, and widths that fill no tile.
        let call = Call { width: 20, value_width: 68, time: 63, source: 63, ..PLAIN };
        check_differences(&[Difference { own_keys, lambda_of_tokens: own_keys, call }]);
    }
}

#[test]
#[ignore = "a minute of C++ compilation: cargo test --workspace --test cuda -- --ignored --skip table"]
fn every_size_of_the_tiles_computes_the_same() {
    let calls = [PLAIN, Call { time: 133, source: 150, window: Some(70), heads: 1, ..PLAIN }];
    (1..3).for_each(|choice| check_on(choosing(choice), &calls));
    check_on(choosing(1), &[Call { width: 128, value_width: 128, scale: 0.1, heads: 1, ..PLAIN }]);
}

#[test]
#[ignore = "a minute of C++ compilation: cargo test --workspace --test cuda -- --ignored --skip table"]
fn the_widest_heads_sum_their_gradients_in_two_kernels() {
    let wide = |width, value_width| Call { width, value_width, scale: 0.1, heads: 1, ..EVERYTHING };
    check(&[wide(256, 256)]);
    check(&[wide(128, 256)]);
    check(&[Call { time: 130, source: 140, ..wide(60, 100) }]);
    check(&[wide(64, 64)]);
    check(&[wide(128, 128)]);
    let call = Call { width: 128, value_width: 256, scale: 0.1, heads: 1, ..PLAIN };
    check_differences(&[Difference { own_keys: true, lambda_of_tokens: true, call }]);
}
