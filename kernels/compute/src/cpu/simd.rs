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

/// `value` of all pairs, joined. In chunks of fixed length, of which the compiler makes vectors.
#[inline(always)]
fn reduce<E: Real>(x: &[E], y: &[E], start: E, value: impl Fn(E, E) -> E, join: impl Fn(E, E) -> E + Copy) -> E {
    let mut lanes = [start; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] = join(lanes[lane], value(x[lane], y[lane]));
        }
    }
    let lanes: [E; 16] = halved(lanes, join);
    let mut lanes: [E; 8] = halved(lanes, join);
    let ((x, x_rest), (y, y_rest)) = (x_rest.as_chunks::<8>(), y_rest.as_chunks::<8>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..8 {
            lanes[lane] = join(lanes[lane], value(x[lane], y[lane]));
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane = join(*lane, value(*x, *y));
    }
    let [a, b, c, d] = halved(lanes, join);
    join(join(a, c), join(b, d))
}

#[inline(always)]
fn halved<E: Real, const N: usize, const HALF: usize>(x: [E; N], join: impl Fn(E, E) -> E) -> [E; HALF] {
    std::array::from_fn(|i| join(x[i], x[i + HALF]))
}

#[inline(always)]
pub fn sum<E: Real>(x: &[E]) -> E {
    reduce(x, x, E::ZERO, |x, _| x, |a, b| a + b)
}

#[inline(always)]
pub fn dot<E: Real>(x: &[E], y: &[E]) -> E {
    reduce(x, &y[..x.len()], E::ZERO, |x, y| x * y, |a, b| a + b)
}

/// The largest; −∞ of nothing. A NaN is not seen.
#[inline(always)]
pub fn maximum<E: Real>(x: &[E]) -> E {
    reduce(x, x, E::NEG_INFINITY, |x, _| x, |a, b| if a > b { a } else { b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_see_every_number_once_whatever_the_length() {
        for length in 0..100 {
            let x: Vec<f64> = (0..length).map(f64::from).collect();
            let expected: f64 = x.iter().sum();
            assert_eq!(sum(&x), expected, "{length}");
            assert_eq!(dot(&x, &x), x.iter().map(|x| x * x).sum::<f64>(), "{length}");
            assert_eq!(maximum(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max), "{length}");
        }
    }
}
