//! The two real types, with functions that vectorise.

use burn::tensor::Element;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

pub trait Real:
    Element
    + bytemuck::Pod
    + PartialOrd
    + Debug
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    const ZERO: Self;
    const ONE: Self;
    const NAN: Self;
    const NEG_INFINITY: Self;

    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// eˣ, vectorisable in f32 (relative error below 2e-7); +∞ above the range, 0 below it, NaN of NaN.
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    /// `self · a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// `1 / (1 + e⁻ˣ)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }

    /// `x σ(x)`.
    #[inline(always)]
    fn silu(self) -> Self {
        self * self.sigmoid()
    }

    /// The derivative of [`silu`](Self::silu): `σ(x) (1 + x (1 − σ(x)))`.
    #[inline(always)]
    fn silu_slope(self) -> Self {
        let share = self.sigmoid();
        share * (Self::ONE + self * (Self::ONE - share))
    }

    /// `1 − 2 / (1 + e²ˣ)`.
    #[inline(always)]
    fn tanh(self) -> Self {
        let two = Self::ONE + Self::ONE;
        Self::ONE - two / (Self::ONE + (two * self).exp())
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f32::NAN;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    fn of(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        self.into()
    }

    /// `eˣ = 2ⁿ eʳ` with `n = round(x / ln 2)`, `|r| ≤ ln 2 / 2`, and eʳ by its Taylor polynomial.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding and subtracting 1.5 · 2²³ rounds to a whole number, which between the two stands in the last bits.
        const ROUND: f32 = 12_582_912.0;
        const ONE_BITS: u32 = 1f32.to_bits();
        let x = self;
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        // ln 2 in two parts, the first exact in few bits.
        let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
        let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
        let p = r.mul_add(p, 1.0 / 120.0);
        let p = r.mul_add(p, 1.0 / 24.0);
        let p = r.mul_add(p, 1.0 / 6.0);
        let p = r.mul_add(p, 0.5);
        let p = r.mul_add(p, 1.0);
        let p = r.mul_add(p, 1.0);
        // 2ⁿ for n from −126 to 127. Of NaN, `p` is NaN.
        let value = p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(ONE_BITS));
        let value = if x < -87.336 { 0.0 } else { value };
        if x > 88.376 { f32::INFINITY } else { value }
    }

    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f64::NAN;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    fn of(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_of_f32_is_right_to_2e_7_over_its_range() {
        let mut worst = 0.0f64;
        for i in -870_000..883_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::exp(x as f64);
            worst = worst.max((Real::exp(x) as f64 - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
    }

    #[test]
    fn the_exponential_keeps_what_is_not_finite() {
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(-1e30f32), 0.0);
        assert_eq!(Real::exp(f32::INFINITY), f32::INFINITY);
        assert!(Real::exp(f32::NAN).is_nan());
        assert!((Real::tanh(3e4f32), Real::tanh(-3e4f32)) == (1.0, -1.0));
        assert!((Real::sigmoid(3e4f32), Real::sigmoid(-3e4f32)) == (1.0, 0.0));
    }
}
