use burn::tensor::{Tensor, TensorData};

pub fn recurrent(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    beta: Tensor<3>,
    log_decay: Tensor<3>,
    mut state: Tensor<4>,
) -> (Tensor<4>, Tensor<4>) {
    let time = q.dims()[2];
    let mut out = Vec::with_capacity(time);
    for t in 0..time {
        let at = |x: &Tensor<4>| x.clone().narrow(2, t, 1); // [batch, heads, 1, d]
        let scalar = |x: &Tensor<3>| x.clone().narrow(2, t, 1).unsqueeze_dim::<4>(3);
        state = state * scalar(&log_decay).exp();
        let held = at(&k).matmul(state.clone());
        let written = (at(&v) - held) * scalar(&beta);
        state = state + at(&k).transpose().matmul(written);
        out.push(at(&q).matmul(state.clone()));
    }
    (Tensor::cat(out, 2), state)
}

/// Inside a chunk, with `γ_i = Σ_{s≤i} g_s` and `D_ij = e^{γ_i − γ_j}` for `i ≥ j`:
/// ```text
/// A = strict_lower(diag(β) (K Kᵀ ⊙ D)),  M = (I + A)⁻¹,  U = M diag(β) V,  W = M diag(β e^γ) K
/// V' = U − W S,   O = diag(e^γ) Q S + (Q Kᵀ ⊙ D) V',   S ← e^{γ_C} S + (diag(e^{γ_C − γ}) K)ᵀ V'
/// ```
pub fn chunked(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    beta: Tensor<3>,
    log_decay: Tensor<3>,
    mut state: Tensor<4>,
    chunk: usize,
) -> (Tensor<4>, Tensor<4>) {
    assert!(chunk.is_power_of_two(), "the chunk must be a power of two, got {chunk}");
    let [batch, heads, time, d_key] = q.dims();
    let d_value = v.dims()[3];
    let chunks = time.div_ceil(chunk);
    // A token of zeros with β = 0 and g = 0 changes neither the state nor what came before it.
    let split4 = |x: Tensor<4>| {
        let d = x.dims()[3];
        pad(x, chunks * chunk).reshape([batch * heads, chunks, chunk, d])
    };
    let split3 = |x: Tensor<3>| split4(x.unsqueeze_dim::<4>(3));
    let (q, k, v, beta, g) = (split4(q), split4(k), split4(v), split3(beta), split3(log_decay));

    let (gamma, decay) = cumulative_decay(g);
    let inverse =
        inverse_unit_lower(strict_lower(k.clone().matmul(k.clone().transpose()) * decay.clone() * beta.clone()));
    let u = inverse.clone().matmul(v * beta.clone());
    let w = inverse.matmul(k.clone() * beta * gamma.clone().exp());
    let scores = q.clone().matmul(k.clone().transpose()) * decay;
    let q = q * gamma.clone().exp();
    let last = gamma.clone().narrow(2, chunk - 1, 1);
    let k = k * (last.clone() - gamma).exp();
    let total = last.exp();

    let mut out = Vec::with_capacity(chunks);
    state = state.reshape([batch * heads, 1, d_key, d_value]);
    for c in 0..chunks {
        let at = |x: &Tensor<4>| x.clone().narrow(1, c, 1);
        let written = at(&u) - at(&w).matmul(state.clone());
        out.push(at(&q).matmul(state.clone()) + at(&scores).matmul(written.clone()));
        state = state * at(&total) + at(&k).transpose().matmul(written);
    }
    let out = Tensor::cat(out, 1).reshape([batch, heads, chunks * chunk, d_value]);
    (out.narrow(2, 0, time), state.reshape([batch, heads, d_key, d_value]))
}

/// The weights with which the values enter the outputs when the state starts empty, erase term
/// included: `P = (Q Kᵀ ⊙ D) (I + A)⁻¹ diag(β)`, so that `P v` is the output. Rows need not sum
/// to one and entries may be negative. `[batch, heads, time, time]`.
pub fn effective_pattern(q: Tensor<4>, k: Tensor<4>, beta: Tensor<3>, log_decay: Tensor<3>) -> Tensor<4> {
    let time = q.dims()[2];
    let size = time.next_power_of_two();
    let (q, k) = (pad(q, size), pad(k, size));
    let beta = pad(beta.unsqueeze_dim::<4>(3), size);
    let (_, decay) = cumulative_decay(pad(log_decay.unsqueeze_dim::<4>(3), size));
    let inverse =
        inverse_unit_lower(strict_lower(k.clone().matmul(k.clone().transpose()) * decay.clone() * beta.clone()));
    let pattern = (q.matmul(k.transpose()) * decay).matmul(inverse) * beta.transpose();
    pattern.narrow(2, 0, time).narrow(3, 0, time)
}

/// `(I + A)⁻¹` for the strictly lower triangular `A [.., n, n]`, `n` a power of two, by forward
/// substitution in blocks that double: `[[L, 0], [B, R]]⁻¹ = [[L⁻¹, 0], [−R⁻¹ B L⁻¹, R⁻¹]]`.
///
/// Every intermediate is a block of the answer, so correlated keys do no harm; the Neumann product
/// `(I − A)(I + A²)(I + A⁴)…`, equal on paper, loses all digits there.
pub fn inverse_unit_lower(a: Tensor<4>) -> Tensor<4> {
    let [batch, chunks, n, _] = a.dims();
    assert!(n.is_power_of_two(), "the size must be a power of two, got {n}");
    let rows = batch * chunks;
    let mut inverse = Tensor::<4>::ones([rows, n, 1, 1], (&a.device(), a.dtype()));
    let mut size = 1;
    while size < n {
        let pairs = n / (2 * size);
        // The block below the diagonal of each pair.
        let below: Vec<Tensor<4>> = (0..pairs)
            .map(|p| {
                let start = 2 * p * size;
                a.clone().narrow(2, start + size, size).narrow(3, start, size).reshape([rows, 1, size, size])
            })
            .collect();
        let below = Tensor::cat(below, 1);
        let both = inverse.reshape([rows, pairs, 2 * size, size]);
        let (left, right) = (both.clone().narrow(2, 0, size), both.narrow(2, size, size));
        let corner = right.clone().matmul(below).matmul(left.clone()).neg();
        let zeros = left.zeros_like();
        inverse = Tensor::cat(vec![Tensor::cat(vec![left, zeros], 3), Tensor::cat(vec![corner, right], 3)], 2);
        size *= 2;
    }
    inverse.reshape([batch, chunks, n, n])
}

/// From `g [.., n, 1]`: its running sum `γ [.., n, 1]`, and `D_ij = e^{γ_i − γ_j}` on and below the
/// diagonal, zero above. The exponent is masked before `exp`: above the diagonal it is positive
/// and would overflow to a NaN gradient.
fn cumulative_decay(g: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let n = g.dims()[2];
    let options = (&g.device(), g.dtype());
    let lower = triangle(n, 0, options.0, options.1);
    let gamma = lower.clone().matmul(g);
    let difference = (gamma.clone() - gamma.clone().transpose()) * lower.clone();
    (gamma, difference.exp() * lower)
}

fn strict_lower(x: Tensor<4>) -> Tensor<4> {
    let mask = triangle(x.dims()[2], 1, &x.device(), x.dtype());
    x * mask
}

/// `[1, 1, n, n]` with ones where `row ≥ column + offset`.
fn triangle(n: usize, offset: usize, device: &burn::tensor::Device, dtype: burn::tensor::DType) -> Tensor<4> {
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
