//! Loops over rows, and over rows of rows that are whole vectors long.
//!
//! For use inside [`vectorised`](super::vectorised).

use super::Real;

const LANES: usize = 16;

/// What a row of `n` numbers takes, filled up with zeros to whole vectors.
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// `f` of every number of `to` and the one in its place in `from`.
#[inline(always)]
pub fn zip<E: Real>(to: &mut [E], from: &[E], f: impl Fn(E, E) -> E) {
    // A plain loop: one over blocks of lanes becomes gathers.
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*to, *from);
    }
}

/// `to_j ← to_j · by`.
#[inline(always)]
pub fn scale<E: Real>(to: &mut [E], by: E) {
    to.iter_mut().for_each(|x| *x *= by);
}

/// `to ← to + Σ_j weight_j row_j`.
///
/// # Panics
/// When a row is not [`padded`].
#[inline(always)]
pub fn combine<E: Real>(to: &mut [E], weights: &[E], rows: &[E]) {
    let n = to.len();
    assert!(n.is_multiple_of(LANES), "rows of {n}");
    for (block, to) in to.chunks_exact_mut(LANES).enumerate() {
        let mut sums: [E; LANES] = (&*to).try_into().expect("a block of lanes");
        for (weight, row) in weights.iter().zip(rows.chunks_exact(n)) {
            let row: &[E; LANES] = row[block * LANES..][..LANES].try_into().expect("a block of lanes");
            for w in 0..LANES {
                sums[w] = weight.mul_add(row[w], sums[w]);
            }
        }
        to.copy_from_slice(&sums);
    }
}

/// `row_j ← row_j + weight_j x`.
#[inline(always)]
pub fn spread<E: Real>(rows: &mut [E], weights: &[E], x: &[E]) {
    for (row, weight) in rows.chunks_exact_mut(x.len()).zip(weights) {
        zip(row, x, |row, x| weight.mul_add(x, row));
    }
}
