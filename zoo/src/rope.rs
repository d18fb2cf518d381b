//! Rotary positions (Su et al. 2021), in the half-split layout of Hugging Face.

use crate::ZooError;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How a token's place enters attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Rotates the leading `fraction` of each head's channels by angles of base `theta`.
    Rope { theta: f64, fraction: f64 },
    /// No position: the causal mask is the only signal.
    None,
}

impl Default for Position {
    fn default() -> Self {
        Position::Rope { theta: 10_000.0, fraction: 1.0 }
    }
}

impl Position {
    pub fn validate(&self, head_dim: usize) -> Result<(), ZooError> {
        let Position::Rope { theta, fraction } = *self else { return Ok(()) };
        let invalid = |name, value: f64, expected: &str| {
            Err(ZooError::Invalid { name, value: value.to_string(), expected: expected.into() })
        };
        if !(theta > 0.0 && theta.is_finite()) {
            return invalid("rope theta", theta, "a positive number");
        }
        if !(0.0..=1.0).contains(&fraction) {
            return invalid("rope fraction", fraction, "between 0 and 1");
        }
        if !((head_dim as f64 * fraction) as usize).is_multiple_of(2) {
            return invalid("rotated channels", head_dim as f64 * fraction, "an even number (head_dim · fraction)");
        }
        Ok(())
    }

    /// Rotates `[batch, heads, time, head_dim]`, whose first token stands at position `start`.
    ///
    /// With `a_j = pos · θ^(−2j/r)` for `j < r/2` and `r` rotated channels:
    /// `x'_j = x_j cos a_j − x_{j+r/2} sin a_j`, `x'_{j+r/2} = x_{j+r/2} cos a_j + x_j sin a_j`.
    pub fn rotate(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        let Position::Rope { theta, fraction } = *self else { return x };
        let [_, _, time, head_dim] = x.dims();
        let half = (head_dim as f64 * fraction) as usize / 2;
        if half == 0 {
            return x;
        }
        let angle = |i: usize| (start + i / half) as f64 * theta.powf(-((i % half) as f64) / half as f64);
        let table = |f: fn(f64) -> f64| -> Tensor<4> {
            let values: Vec<f64> = (0..time * half).map(|i| f(angle(i))).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, time, half]), (&x.device(), x.dtype()))
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let first = x.clone().narrow(3, 0, half);
        let second = x.clone().narrow(3, half, half);
        let mut parts = vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
        if 2 * half < head_dim {
            parts.push(x.narrow(3, 2 * half, head_dim - 2 * half));
        }
        Tensor::cat(parts, 3)
    }
}
