//! Evenly spaced levels between a minimum and a maximum.
//!
//! ```text
//! z = min x,  s = (max x − z) / (2^bits − 1)        code = round((x − z) / s)        x̂ = z + s · code
//! ```
//! `min` and `max` are those of one token's channels (one head), or those of one channel over the
//! tokens of a block. Keys have a few large channels, which widen the step of every other channel
//! of their token but only their own by channel; values do not. Hence KIVI's choice: keys by
//! channel, values by token.

use crate::error::{ZooError, positive};
use burn::tensor::{FloatDType, Int, IntDType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What shares a scale and a minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// The channels of one token in one head.
    Token,
    /// The tokens of a block in one channel of one head.
    Channel,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Channel => "channel",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniformFormat {
    /// Of one number: 2, 3, 4 or 8.
    pub bits: usize,
    pub keys: Axis,
    pub values: Axis,
    /// Tokens in full precision at most, which are encoded as one block: by channel, `recent` tokens
    /// share a scale.
    #[serde(default = "recent")]
    pub recent: usize,
}

pub(super) fn recent() -> usize {
    128
}

impl UniformFormat {
    /// Keys and values alike.
    pub fn new(bits: usize, axis: Axis) -> Self {
        Self { bits, keys: axis, values: axis, recent: recent() }
    }

    /// Keys by channel, values by token, as KIVI does.
    pub fn kivi(bits: usize) -> Self {
        Self { values: Axis::Token, ..Self::new(bits, Axis::Channel) }
    }

    pub fn validate(&self) -> Result<(), ZooError> {
        positive("recent", self.recent)?;
        if ![2, 3, 4, 8].contains(&self.bits) {
            let (value, expected) = (self.bits.to_string(), "2, 3, 4 or 8".into());
            return Err(ZooError::Invalid { name: "bits of a uniform cache", value, expected });
        }
        Ok(())
    }
}

/// What turns codes back into numbers: `[batch, heads, blocks, time, 1]` by token,
/// `[batch, heads, blocks, 1, channels]` by channel.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub scale: Tensor<5>,
    pub minimum: Tensor<5>,
}

/// Codes of blocks `[batch, heads, blocks, time, channels]`.
pub(super) fn encode(x: Tensor<5>, bits: usize, axis: Axis) -> (Tensor<5, Int>, Affine) {
    let shared = match axis {
        Axis::Token => 4,
        Axis::Channel => 3,
    };
    let highest = ((1 << bits) - 1) as f64;
    let minimum = x.clone().min_dim(shared);
    let scale = (x.clone().max_dim(shared) - minimum.clone()) / highest;
    // Where all are equal the scale is 0 and the minimum says everything.
    let codes = ((x - minimum.clone()) / scale.clone().clamp_min(1e-30)).round().clamp(0.0, highest);
    (codes.cast(IntDType::I32), Affine { scale, minimum })
}

/// The numbers that codes of the same shape stand for.
pub(super) fn decode(codes: Tensor<5, Int>, Affine { scale, minimum }: &Affine) -> Tensor<5> {
    codes.cast(FloatDType::from(scale.dtype())) * scale.clone() + minimum.clone()
}
