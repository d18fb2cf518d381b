//! Plain loops, compiled for the vector instructions that the machine turns out to have.

use super::Real;

/// Runs `f` compiled for the widest vector instructions of this machine.
///
/// `f` and what it calls must be `#[inline(always)]`: what is inlined here is compiled again for each
/// instruction set, and its loops over slices become vector loops.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
        {
            // SAFETY: the features have just been detected.
            return unsafe { avx512(f) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features have just been detected.
            return unsafe { avx2(f) };
        }
    }
    // Neon is part of every aarch64.
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// As many partial results as fill the registers: a float sum in one order cannot be vectorised.
const LANES: usize = 32;

#[inline(always)]
fn reduce<E: Real>(n: usize, start: E, at: impl Fn(usize) -> E, join: impl Fn(E, E) -> E) -> E {
    let mut lanes = [start; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (lane, slot) in lanes.iter_mut().enumerate() {
            *slot = join(*slot, at(i + lane));
        }
        i += LANES;
    }
    for i in whole..n {
        lanes[i - whole] = join(lanes[i - whole], at(i));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub fn sum<E: Real>(x: &[E]) -> E {
    reduce(x.len(), E::ZERO, |i| x[i], |a, b| a + b)
}

#[inline(always)]
pub fn dot<E: Real>(x: &[E], y: &[E]) -> E {
    let y = &y[..x.len()];
    reduce(x.len(), E::ZERO, |i| x[i] * y[i], |a, b| a + b)
}

/// The largest; −∞ of nothing. A NaN is not seen.
#[inline(always)]
pub fn maximum<E: Real>(x: &[E]) -> E {
    reduce(x.len(), E::NEG_INFINITY, |i| x[i], |a, b| if a > b { a } else { b })
}
