//! Chunks of tokens as matrix products, the WY/UT representation.
//!
//! Inside a chunk, rows are tokens, `B = b ⊙ K`, `W = w ⊙ V`, and `⟨x_i, k_j⟩ = Σ_c x_ic k_jc
//! e^{γ_ic − γ_jc}` with `γ_i = Σ_{s≤i} g_s` is the product of two rows with the decay between them:
//! ```text
//! A = strict_lower ⟨B, K⟩,   M = (I + A)⁻¹,   U = M W,   E = M (B ⊙ e^γ)
//! V' = U − E S,   O = (Q ⊙ e^γ) S + lower ⟨Q, K⟩ V',   S ← Diag(e^{γ_C}) S + (K ⊙ e^{γ_C − γ})ᵀ V'
//! ```
//! Without an erase term `V' = W`. An exponent is always the sum of the decays that it spans, never
//! a difference of two running sums: beside one `g = −300` such a difference has lost its digits,
//! and `e^{−γ_j}` alone would overflow.

use super::{Gates, LogDecay};
use burn::tensor::{DType, Device, Tensor, TensorData};

pub fn run(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: &LogDecay,
    gates: &Gates,
    mut state: Tensor<4>,
    chunk: usize,
) -> (Tensor<4>, Tensor<4>) {
    assert!(chunk.is_power_of_two(), "the chunk must be a power of two, got {chunk}");
    let [batch, heads, time, d_key] = q.dims();
    let d_value = v.dims()[3];
    let chunks = time.div_ceil(chunk);
    // A token of zeros (b ⊙ k = 0, w ⊙ v = 0, g = 0) changes neither the state nor what came before.
    let split = |x: Tensor<4>| {
        let d = x.dims()[3];
        pad(x, chunks * chunk).reshape([batch * heads, chunks, chunk, d])
    };
    let erased = gates.erased(&k).map(split);
    let (q, k, written) = (split(q), split(k), split(gates.written(v)));
    let fade = Fade::of(decay.per_token(&q).map_or_else(|| q.clone().narrow(3, 0, 1).zeros_like(), split));

    let scores = fade.product(q.clone(), k.clone());
    let erase = erased.map(|erased| {
        let inverse = inverse_unit_lower(strict_lower(fade.product(erased.clone(), k.clone())));
        (inverse.clone().matmul(written.clone()), inverse.matmul(erased * fade.from_start.clone()))
    });
    let q = q * fade.from_start.clone();
    let k = k * fade.to_end.clone();
    let whole = fade.from_start.narrow(2, chunk - 1, 1).transpose(); // [.., d_key or 1, 1]

    let mut out = Vec::with_capacity(chunks);
    state = state.reshape([batch * heads, 1, d_key, d_value]);
    for c in 0..chunks {
        let at = |x: &Tensor<4>| x.clone().narrow(1, c, 1);
        let new = match &erase {
            None => at(&written),
            Some((written, erased)) => at(written) - at(erased).matmul(state.clone()),
        };
        out.push(at(&q).matmul(state.clone()) + at(&scores).matmul(new.clone()));
        state = state * at(&whole) + at(&k).transpose().matmul(new);
    }
    let out = Tensor::cat(out, 1).reshape([batch, heads, chunks * chunk, d_value]);
    (out.narrow(2, 0, time), state.reshape([batch, heads, d_key, d_value]))
}

/// `lower ⟨Q, K⟩ (I + A)⁻¹`: the weights of what is written, all of the sequence being one chunk.
pub fn pattern(q: Tensor<4>, k: Tensor<4>, decay: &LogDecay, gates: &Gates) -> Tensor<4> {
    let time = q.dims()[2];
    let size = time.next_power_of_two();
    let erased = gates.erased(&k).map(|erased| pad(erased, size));
    let (q, k) = (pad(q, size), pad(k, size));
    let fade = Fade::of(match decay.per_token(&q) {
        Some(g) => pad(g, size),
        None => q.clone().narrow(3, 0, 1).zeros_like(),
    });
    let scores = fade.product(q, k.clone());
    let pattern = match erased {
        None => scores,
        Some(erased) => scores.matmul(inverse_unit_lower(strict_lower(fade.product(erased, k)))),
    };
    pattern.narrow(2, 0, time).narrow(3, 0, time)
}

impl LogDecay {
    /// `[batch, heads, time, 1 or d_key]`.
    fn per_token(&self, q: &Tensor<4>) -> Option<Tensor<4>> {
        match self {
            Self::None => None,
            Self::Head(g) => Some(g.clone().unsqueeze_dim::<4>(3)),
            Self::Channel(g) => {
                assert_eq!(g.dims()[3], q.dims()[3], "one decay per channel of a key");
                Some(g.clone())
            }
        }
    }
}

/// The decays inside a chunk of `n` tokens.
struct Fade {
    /// `e^{γ_i}`, from the start of the chunk through token `i`: `[.., n, 1 or d_key]`.
    from_start: Tensor<4>,
    /// `e^{γ_n − γ_j}`, from after token `j` to the end.
    to_end: Tensor<4>,
    between: Between,
}

#[allow(clippy::large_enum_variant)] // one a call
enum Between {
    /// `e^{γ_i − γ_j}` for `i ≥ j`, zero above the diagonal: `[.., n, n]`.
    Head(Tensor<4>),
    /// For every halving of the chunk, from pairs of single tokens up to its two halves: the right
    /// half's decays from the border, and the left half's to it, `[.., pairs, n / 2 / pairs, d_key]`.
    Channel(Vec<(Tensor<4>, Tensor<4>)>),
}

impl Fade {
    /// Of `g [rows, chunks, n, 1 or d_key]`.
    fn of(g: Tensor<4>) -> Self {
        match g.dims()[3] {
            1 => Self::per_head(g),
            _ => Self::per_channel(g),
        }
    }

    fn per_head(g: Tensor<4>) -> Self {
        let n = g.dims()[2];
        let (device, dtype) = (g.device(), g.dtype());
        // Column j holds g below row j, so that its running sum is Σ_{j<s≤i} g_s; above it is 0, and
        // masked after exp.
        let spans = (g.clone() * triangle(n, 1, &device, dtype)).cumsum(2);
        let between = spans.exp() * triangle(n, 0, &device, dtype);
        Self {
            from_start: g.cumsum(2).exp(),
            to_end: between.clone().narrow(2, n - 1, 1).transpose(),
            between: Between::Head(between),
        }
    }

    /// Sums over blocks that double, with `from[i] = Σ_{s≤i} g_s` and `to[j] = Σ_{s>j} g_s` inside
    /// a block.
    fn per_channel(g: Tensor<4>) -> Self {
        let [rows, chunks, n, d] = g.dims();
        let rows = rows * chunks;
        let mut from = g.reshape([rows, n, 1, d]);
        let mut to = from.zeros_like();
        let mut levels = Vec::new();
        let mut size = 1;
        while size < n {
            let pairs = n / (2 * size);
            let halves = |x: Tensor<4>| {
                let x = x.reshape([rows, pairs, 2 * size, d]);
                (x.clone().narrow(2, 0, size), x.narrow(2, size, size))
            };
            let ((from_left, from_right), (to_left, to_right)) = (halves(from), halves(to));
            levels.push((from_right.clone().exp(), to_left.clone().exp()));
            let whole = |half: &Tensor<4>| half.clone().narrow(2, size - 1, 1);
            to = Tensor::cat(vec![to_left + whole(&from_right), to_right], 2);
            from = Tensor::cat(vec![from_left.clone(), from_right + whole(&from_left)], 2);
            size *= 2;
        }
        let shape = [rows / chunks, chunks, n, d];
        Self {
            from_start: from.reshape(shape).exp(),
            to_end: to.reshape(shape).exp(),
            between: Between::Channel(levels),
        }
    }

    /// `lower ⟨X, K⟩ [.., n, n]` of `x, k [.., n, d_key]`, the diagonal included.
    fn product(&self, x: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
        let levels = match &self.between {
            Between::Head(between) => return x.matmul(k.transpose()) * between.clone(),
            Between::Channel(levels) => levels,
        };
        let [rows, chunks, n, d] = x.dims();
        let diagonal = (x.clone() * k.clone()).sum_dim(3).reshape([rows * chunks, n, 1, 1]);
        double_blocks(diagonal, |level, _, _| {
            let (from, to) = &levels[level];
            let [rows, pairs, size, _] = from.dims();
            let half = |x: &Tensor<4>, start| x.clone().reshape([rows, pairs, 2 * size, d]).narrow(2, start, size);
            // Both factors stand in (0, 1]: where one underflows, so does their product.
            (half(&x, size) * from.clone()).matmul((half(&k, 0) * to.clone()).transpose())
        })
        .reshape([rows, chunks, n, n])
    }
}

/// A lower triangular matrix from its diagonal `[rows, n, 1, 1]`, in blocks that double: two blocks
/// `L` and `R` on the diagonal become `[[L, 0], [corner(level, L, R), R]]`, up to `[rows, 1, n, n]`.
fn double_blocks(mut blocks: Tensor<4>, corner: impl Fn(usize, &Tensor<4>, &Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [rows, n, ..] = blocks.dims();
    assert!(n.is_power_of_two(), "the size must be a power of two, got {n}");
    for level in 0..n.ilog2() as usize {
        let size = 1 << level;
        let both = blocks.reshape([rows, n / (2 * size), 2 * size, size]);
        let (left, right) = (both.clone().narrow(2, 0, size), both.narrow(2, size, size));
        let below = Tensor::cat(vec![corner(level, &left, &right), right], 3);
        let above = Tensor::cat(vec![left.clone(), left.zeros_like()], 3);
        blocks = Tensor::cat(vec![above, below], 2);
    }
    blocks
}

/// `(I + A)⁻¹` for the strictly lower triangular `A [.., n, n]`, `n` a power of two, by forward
/// substitution in blocks that double: `[[L, 0], [B, R]]⁻¹ = [[L⁻¹, 0], [−R⁻¹ B L⁻¹, R⁻¹]]`.
///
/// Every intermediate is a block of the answer, so correlated keys do no harm; the Neumann product
/// `(I − A)(I + A²)(I + A⁴)…`, equal on paper, loses all digits there.
pub fn inverse_unit_lower(a: Tensor<4>) -> Tensor<4> {
    let [batch, chunks, n, _] = a.dims();
    let rows = batch * chunks;
    let ones = Tensor::<4>::ones([rows, n, 1, 1], (&a.device(), a.dtype()));
    double_blocks(ones, |_, left, right| {
        let [_, pairs, size, _] = left.dims();
        // The block below the diagonal of each pair.
        let below = (0..pairs).map(|p| {
            let start = 2 * p * size;
            a.clone().narrow(2, start + size, size).narrow(3, start, size).reshape([rows, 1, size, size])
        });
        let below = Tensor::cat(below.collect(), 1);
        right.clone().matmul(below).matmul(left.clone()).neg()
    })
    .reshape([batch, chunks, n, n])
}

fn strict_lower(x: Tensor<4>) -> Tensor<4> {
    let mask = triangle(x.dims()[2], 1, &x.device(), x.dtype());
    x * mask
}

/// `[1, 1, n, n]` with ones where `row ≥ column + offset`.
fn triangle(n: usize, offset: usize, device: &Device, dtype: DType) -> Tensor<4> {
    let ones = (0..n * n).map(|i| (i / n >= i % n + offset) as u8 as f32).collect::<Vec<f32>>();
    Tensor::from_data(TensorData::new(ones, [1, 1, n, n]), (device, dtype))
}

fn pad(x: Tensor<4>, time: usize) -> Tensor<4> {
    let [batch, heads, had, d] = x.dims();
    if had == time {
        return x;
    }
    let zeros = Tensor::zeros([batch, heads, time - had, d], (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], 2)
}
