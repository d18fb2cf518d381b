//! How a token's place enters attention: rotation (RoPE) of queries and keys, a slope on the scores
//! (ALiBi), or nothing.

use crate::ZooError;
use crate::error::positive_number;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::rope::Pairs;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How a token's place enters attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Rotates queries and keys (Su et al. 2021).
    Rope(Rope),
    /// Adds `−m_h · distance` to the scores (Press et al. 2022), with the published slopes `m_h`.
    Alibi {},
    /// No position: the causal mask is the only signal.
    None {},
}

/// Rotation by angles `position · θ_j`, with `θ_j = theta^(−2j/r)` for `r` rotated channels and
/// `j < r/2`, changed by `scaling` for texts longer than those of the training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    pub theta: f64,
    /// The leading part of a head's channels that is rotated; 0.25 in Qwen3-Next.
    #[serde(default = "one")]
    pub fraction: f64,
    #[serde(default)]
    pub layout: RopeLayout,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

fn one() -> f64 {
    1.0
}

/// Which channels make a pair. One is the other with the rows of the query and key projections in
/// another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeLayout {
    /// `(j, j + r/2)`: Hugging Face.
    #[default]
    HalfSplit,
    /// `(2j, 2j + 1)`: the original, Meta's Llama, unilm.
    Interleaved,
}

/// Slower rotation for longer texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3: wavelengths `2π/θ_j` above `original / low_freq_factor` are stretched by `factor`,
    /// those below `original / high_freq_factor` kept, and those between interpolated.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64 },
    /// YaRN (Peng et al. 2023): channels that turn less than `beta_slow` times within `original`
    /// tokens are stretched by `factor`, those that turn more than `beta_fast` times kept, with a
    /// ramp between; cosine and sine are multiplied by `0.1 ln(factor) + 1`. The ramp runs from one
    /// whole pair of channels to another, unless `truncate` is false (gpt-oss).
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        #[serde(default = "yes")]
        truncate: bool,
    },
}

fn yes() -> bool {
    true
}

impl Default for Position {
    fn default() -> Self {
        Position::rope(10_000.0)
    }
}

impl Position {
    /// Full rotation of base `theta`.
    pub fn rope(theta: f64) -> Self {
        Self::partial_rope(theta, 1.0)
    }

    /// Rotation of the leading `fraction` of the channels.
    pub fn partial_rope(theta: f64, fraction: f64) -> Self {
        Self::Rope(Rope { theta, fraction, layout: RopeLayout::default(), scaling: None })
    }

    pub fn validate(&self, head_dim: usize) -> Result<(), ZooError> {
        match self {
            Self::Rope(rope) => rope.validate(head_dim),
            Self::Alibi {} | Self::None {} => Ok(()),
        }
    }

    /// Rotates `[batch, heads, time, head_dim]`, whose first token stands at position `start`.
    pub fn rotate(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        match self {
            Self::Rope(rope) => rope.rotate(x, start),
            Self::Alibi {} | Self::None {} => x,
        }
    }

    /// ALiBi's slope of every head: `slope · (s − t)` is added to the score of key `s` for query `t`.
    pub fn slopes(&self, heads: usize) -> Option<Vec<f64>> {
        matches!(self, Self::Alibi {}).then(|| alibi_slopes(heads))
    }
}

impl Rope {
    fn validate(&self, head_dim: usize) -> Result<(), ZooError> {
        let invalid = |name, value: f64, expected: &str| {
            Err(ZooError::Invalid { name, value: value.to_string(), expected: expected.into() })
        };
        positive_number("rope theta", self.theta)?;
        if !(0.0..=1.0).contains(&self.fraction) {
            return invalid("rope fraction", self.fraction, "between 0 and 1");
        }
        if !self.rotated(head_dim).is_multiple_of(2) {
            let rotated = self.rotated(head_dim) as f64;
            return invalid("rotated channels", rotated, "an even number (head_dim · fraction)");
        }
        let (factor, original) = match self.scaling {
            None => return Ok(()),
            Some(RopeScaling::Llama3 { factor, original, low_freq_factor, high_freq_factor }) => {
                positive_number("rope low_freq_factor", low_freq_factor)?;
                if high_freq_factor <= low_freq_factor || !high_freq_factor.is_finite() {
                    return invalid("rope high_freq_factor", high_freq_factor, "above low_freq_factor");
                }
                (factor, original)
            }
            Some(RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. }) => {
                positive_number("rope beta_slow", beta_slow)?;
                if beta_fast <= beta_slow || !beta_fast.is_finite() {
                    return invalid("rope beta_fast", beta_fast, "above beta_slow");
                }
                (factor, original)
            }
        };
        if !(factor >= 1.0 && factor.is_finite()) {
            return invalid("rope factor", factor, "at least 1");
        }
        positive_number("rope original", original)
    }

    fn rotated(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.fraction) as usize
    }

    /// `θ_j` of `channels` rotated channels, `[channels / 2]`, in radians per token, and what cosine
    /// and sine are multiplied by.
    pub fn frequencies(&self, channels: usize) -> (Vec<f64>, f64) {
        let half = channels / 2;
        let plain = (0..half).map(|j| self.theta.powf(-(j as f64) / half as f64));
        match self.scaling {
            None => (plain.collect(), 1.0),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original }) => {
                let scaled = plain.map(|frequency| {
                    let turns = original * frequency / TAU;
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                });
                (scaled.collect(), 1.0)
            }
            Some(RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate }) => {
                // The pair that turns `turns` times within the original length.
                let pair = |turns: f64| half as f64 * (original / (turns * TAU)).ln() / self.theta.ln();
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(channels as f64 - 1.0));
                let width = if high > low { high - low } else { 0.001 };
                let scaled = plain.enumerate().map(|(j, frequency)| {
                    let stretched = ((j as f64 - low) / width).clamp(0.0, 1.0);
                    frequency * (1.0 - stretched + stretched / factor)
                });
                (scaled.collect(), 0.1 * factor.ln() + 1.0)
            }
        }
    }

    /// With `a_j = position · θ_j`, a pair `(x, y)` becomes `(x cos a_j − y sin a_j, y cos a_j + x sin a_j)`.
    fn rotate(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        let [_, _, time, head_dim] = x.dims();
        let rotated = self.rotated(head_dim);
        if rotated < 2 {
            return x;
        }
        let pairs = match self.layout {
            RopeLayout::HalfSplit => Pairs::HalfSplit,
            RopeLayout::Interleaved => Pairs::Interleaved,
        };
        let [cos, sin] = self.tables(rotated, start..start + time, &x);
        kernels::rope(x, cos, sin, pairs)
    }

    /// Cosine and sine of the angles of `positions`, `[positions, rotated / 2]`; made once and kept, on the device and in
    /// the precision of `like`.
    fn tables(&self, rotated: usize, positions: Range<usize>, like: &Tensor<4>) -> [Tensor<2>; 2] {
        let mut kept = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*self, rotated, like.device().without_autodiff(), like.dtype());
        let place = kept.iter().position(|tables| tables.key == key);
        if let Some(tables) = place.map(|place| &mut kept[place])
            && tables.of[0].dims()[0] >= positions.end
        {
            return tables.part(positions);
        }
        // Twice as long each time: a text that grows token by token asks for few of them.
        let (length, half) = (positions.end.next_power_of_two(), rotated / 2);
        let (frequencies, amplitude) = self.frequencies(rotated);
        let of = [f64::cos, f64::sin].map(|f: fn(f64) -> f64| {
            let angle = |i: usize| (i / half) as f64 * frequencies[i % half];
            let values: Vec<f64> = (0..length * half).map(|i| amplitude * f(angle(i))).collect();
            Tensor::from_data(TensorData::new(values, [length, half]), (&key.2, key.3))
        });
        if let Some(place) = place {
            kept.swap_remove(place);
        } else if kept.len() == KEPT {
            kept.remove(0);
        }
        let mut tables = Tables { key, last: (0..length, of.clone()), of };
        let part = tables.part(positions);
        kept.push(tables);
        part
    }
}

struct Tables {
    key: (Rope, usize, Device, DType),
    of: [Tensor<2>; 2],
    /// What was asked for last: queries and keys of all layers ask for the same.
    last: (Range<usize>, [Tensor<2>; 2]),
}

impl Tables {
    fn part(&mut self, positions: Range<usize>) -> [Tensor<2>; 2] {
        if self.last.0 != positions {
            let part = self.of.clone().map(|table| table.narrow(0, positions.start, positions.len()));
            self.last = (positions, part);
        }
        self.last.1.clone()
    }
}

/// More kinds of rotation than that are not in use at a time.
const KEPT: usize = 16;

static TABLES: Mutex<Vec<Tables>> = Mutex::new(Vec::new());

/// `2^(−8h/H)` for `h = 1..=H`; for an `H` that is no power of two, those of the next lower power
/// and then every second one of twice that.
pub fn alibi_slopes(heads: usize) -> Vec<f64> {
    let geometric = |count: usize| (1..=count).map(move |h| 2f64.powf(-8.0 * h as f64 / count as f64));
    let power = 1 << heads.ilog2();
    geometric(power).chain(geometric(2 * power).step_by(2)).take(heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: [usize; 4]) -> Tensor<4> {
        let values: Vec<f64> = (0..shape.iter().product()).map(|i| ((i * 5 + 2) % 13) as f64 - 6.0).collect();
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
    }

    fn largest(x: Tensor<4>) -> f64 {
        x.abs().max().into_scalar()
    }

    fn rope(layout: RopeLayout, scaling: Option<RopeScaling>) -> Position {
        Position::Rope(Rope { theta: 100.0, fraction: 0.75, layout, scaling })
    }

    const YARN: RopeScaling =
        RopeScaling::Yarn { factor: 4.0, original: 64.0, beta_fast: 8.0, beta_slow: 1.0, truncate: true };

    #[test]
    fn scores_depend_on_the_distance_alone() {
        for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
            let position = rope(layout, Some(YARN));
            let (q, k) = (ramp([1, 2, 1, 8]), ramp([1, 2, 1, 8]) + 1.0);
            let score = |a, b| position.rotate(q.clone(), a).matmul(position.rotate(k.clone(), b).transpose());
            assert!(largest(score(9, 4) - score(105, 100)) < 1e-9, "{layout:?}");
            assert!(largest(score(9, 4) - score(9, 5)) > 1e-3, "{layout:?}");
        }
    }

    #[test]
    fn a_longer_table_goes_on_where_the_shorter_one_ended() {
        // A base that no other test has: its table begins with 4 positions.
        let position = Position::partial_rope(321.0, 0.75);
        let x = ramp([1, 2, 30, 8]);
        let early = position.rotate(x.clone().narrow(2, 0, 4), 0);
        let late = position.rotate(x.clone().narrow(2, 4, 26), 4);
        assert_eq!(largest(position.rotate(x.clone(), 0) - Tensor::cat(vec![early, late], 2)), 0.0);
        let single = position.rotate(x.clone().cast(DType::F32), 0).cast(DType::F64);
        assert!(largest(position.rotate(x, 0) - single) < 1e-5);
    }

    #[test]
    fn the_two_layouts_are_the_same_channels_in_another_order() {
        // Half-split channel j is interleaved channel 2j, and j + r/2 is 2j + 1.
        let x = ramp([1, 2, 5, 8]);
        let order = |x: &Tensor<4>, from: [usize; 8]| {
            Tensor::cat(from.into_iter().map(|c| x.clone().narrow(3, c, 1)).collect(), 3)
        };
        let to_half = [0, 2, 4, 1, 3, 5, 6, 7];
        let half = rope(RopeLayout::HalfSplit, None).rotate(order(&x, to_half), 3);
        let interleaved = rope(RopeLayout::Interleaved, None).rotate(x, 3);
        assert!(largest(half - order(&interleaved, to_half)) < 1e-12);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, fraction: 1.0, layout: RopeLayout::HalfSplit, scaling: Some(scaling) };
        let plain = Rope { scaling: None, ..rope };
        let ((scaled, _), (plain, _)) = (rope.frequencies(128), plain.frequencies(128));
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] - plain[63] / 8.0).abs() < 1e-18);
        let ratio: Vec<f64> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        assert!(ratio.is_sorted() && ratio.iter().any(|r| (1.5..7.0).contains(r)), "{ratio:?}");
    }

    #[test]
    fn yarn_of_factor_one_changes_nothing() {
        let scaling =
            Some(RopeScaling::Yarn { factor: 1.0, original: 64.0, beta_fast: 8.0, beta_slow: 1.0, truncate: true });
        let x = ramp([1, 1, 4, 8]);
        let plain = rope(RopeLayout::HalfSplit, None).rotate(x.clone(), 2);
        assert!(largest(rope(RopeLayout::HalfSplit, scaling).rotate(x, 2) - plain) < 1e-12);
    }

    #[test]
    fn the_slopes_are_the_published_ones() {
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        let six = alibi_slopes(6);
        assert_eq!(six[..4], alibi_slopes(4));
        assert_eq!(six[4..], [0.5, 0.125]);
    }

    #[test]
    fn bad_values_are_named() {
        let refuse = |rope: Rope| Position::Rope(rope).validate(16).unwrap_err().to_string();
        let good = Rope { theta: 1e4, fraction: 1.0, layout: RopeLayout::HalfSplit, scaling: Some(YARN) };
        assert!(Position::Rope(good).validate(16).is_ok());
        assert!(refuse(Rope { theta: -1.0, ..good }).contains("theta"));
        assert!(refuse(Rope { fraction: 1.5, ..good }).contains("between 0 and 1"));
        assert!(refuse(Rope { fraction: 0.19, ..good }).contains("even"));
        let yarn =
            |factor, beta_fast| RopeScaling::Yarn { factor, original: 64.0, beta_fast, beta_slow: 1.0, truncate: true };
        assert!(refuse(Rope { scaling: Some(yarn(0.5, 8.0)), ..good }).contains("factor must be at least 1"));
        assert!(refuse(Rope { scaling: Some(yarn(2.0, 0.5)), ..good }).contains("beta_fast"));
    }
}
