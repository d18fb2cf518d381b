//! One chunk of one head. Rows are tokens, filled up to whole vectors with zeros.
//!
//! What reads the state are the queries, and, where something is erased, the erased keys with a minus
//! sign: below them in `X = [Q; −b ⊙ K]`. With `⟨x_i, k_j⟩` the product with the decay between them,
//! `M = [lower ⟨Q, K⟩; strict_lower ⟨−b ⊙ K, K⟩]`, and S the state before the chunk,
//! ```text
//! Y = (X ⊙ e^γ) S          U = w ⊙ V + Y_erase + M_erase U          O = Y_query + M_query U
//! S ← Diag(e^{γ_C}) S + (K ⊙ e^{γ_C − γ})ᵀ U
//! ```
//! U is found row after row. A decay over several tokens is the product of theirs, of numbers in
//! [0, 1], so that nothing overflows and no digits are lost.
//!
//! Backward, `dY = [dO; dU]`, and the decay between two tokens needs no gradient of its own: to divide
//! readers and multiply keys by any `λ_t`, channel by channel, and the decay by `λ_t / λ_{t−1}` changes
//! nothing, so `dg_t = dg_{t+1} + Σ x ⊙ dx − k ⊙ dk` of token t.

use crate::cpu::{Mat, MatMut, Real, combine, dot, product, scale, spread, zip};

/// Tokens.
pub const CHUNK: usize = 16;

/// Sizes of rows, and of what decays: 1 where a head does, `key` where every channel does.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub key: usize,
    pub value: usize,
    pub decay: usize,
    /// Rows of X.
    pub readers: usize,
}

impl Sizes {
    pub fn state(&self) -> usize {
        self.key * self.value
    }

    /// Numbers in the parts of a [`Chunk`].
    pub fn lengths(&self) -> [usize; 9] {
        let Self { key, decay, readers, .. } = *self;
        let work = if decay == 1 { CHUNK * CHUNK } else { CHUNK * key };
        let keys = CHUNK * key;
        let decays = CHUNK * decay;
        [readers * key, keys, decays, decays, decays, readers * key, keys, readers * CHUNK, work]
    }
}

/// Keys and readers, and what the decays make of them.
pub struct Chunk<'a, E> {
    sizes: Sizes,
    /// X.
    pub readers: &'a mut [E],
    pub keys: &'a mut [E],
    /// `e^g` of every token.
    pub decays: &'a mut [E],
    /// `e^γ`, from the start of the chunk through the token.
    from_start: &'a mut [E],
    /// `e^{γ_C − γ}`, from after the token to the end.
    to_end: &'a mut [E],
    /// `X ⊙ e^γ`.
    seen: &'a mut [E],
    /// `K ⊙ e^{γ_C − γ}`.
    kept: &'a mut [E],
    /// M.
    weights: &'a mut [E],
    /// The decay between any two tokens where a head decays; keys on their way where channels do.
    work: &'a mut [E],
}

impl<'a, E: Real> Chunk<'a, E> {
    /// In parts of [`Sizes::lengths`].
    pub fn new(sizes: Sizes, parts: [&'a mut [E]; 9]) -> Self {
        let [readers, keys, decays, from_start, to_end, seen, kept, weights, work] = parts;
        Self { sizes, readers, keys, decays, from_start, to_end, seen, kept, weights, work }
    }

    /// After keys and decays have been written: what is left of the keys at the end.
    #[inline(always)]
    pub fn keep(&mut self) {
        let Sizes { key, decay, .. } = self.sizes;
        self.from_start[..decay].copy_from_slice(&self.decays[..decay]);
        self.to_end[(CHUNK - 1) * decay..].fill(E::ONE);
        for i in 1..CHUNK {
            let (before, row) = self.from_start.split_at_mut(i * decay);
            times(row, &before[(i - 1) * decay..], &self.decays[i * decay..][..decay]);
            let after = (CHUNK - i) * decay;
            let (row, behind) = self.to_end.split_at_mut(after);
            times(&mut row[after - decay..], behind, &self.decays[after..][..decay]);
        }
        self.kept.copy_from_slice(self.keys);
        weigh(self.kept, self.to_end, key, decay);
    }

    /// `S ← Diag(e^{γ_C}) S`.
    #[inline(always)]
    fn fade_state(&self, state: &mut [E]) {
        let Sizes { value, decay, .. } = self.sizes;
        let whole = &self.from_start[(CHUNK - 1) * decay..];
        match whole {
            [whole] => scale(state, *whole),
            _ => state.chunks_exact_mut(value).zip(whole).for_each(|(row, whole)| scale(row, *whole)),
        }
    }

    /// The state after the chunk, when `written` is U.
    #[inline(always)]
    pub fn advance(&self, state: &mut [E], written: &[E]) {
        let Sizes { key, value, .. } = self.sizes;
        self.fade_state(state);
        let kept = Mat::dense(self.kept, CHUNK, key).transposed();
        product(MatMut::dense(state, key, value), E::ONE, E::ONE, kept, Mat::dense(written, CHUNK, value));
    }

    /// After [`keep`](Self::keep), when the readers have been written: M and what the readers see.
    #[inline(always)]
    pub fn meet(&mut self) {
        let Sizes { key, decay, readers, .. } = self.sizes;
        self.seen.copy_from_slice(self.readers);
        for seen in self.seen.chunks_exact_mut(CHUNK * key) {
            weigh(seen, self.from_start, key, decay);
        }
        if decay == 1 {
            let (x, k) = (Mat::dense(self.readers, readers, key), Mat::dense(self.keys, CHUNK, key));
            product(MatMut::dense(self.weights, readers, CHUNK), E::ZERO, E::ONE, x, k.transposed());
            self.work.fill(E::ZERO);
            for i in 0..CHUNK {
                let (before, row) = self.work.split_at_mut(i * CHUNK);
                if i > 0 {
                    row[..CHUNK].copy_from_slice(&before[(i - 1) * CHUNK..]);
                    scale(&mut row[..CHUNK], self.decays[i]);
                }
                row[i] = E::ONE;
            }
            between(self.weights, self.work);
            return;
        }
        self.work.copy_from_slice(self.keys);
        self.weights.fill(E::ZERO);
        for i in 0..CHUNK {
            self.arrive(i);
            for (r, rows) in self.weights.chunks_exact_mut(CHUNK * CHUNK).enumerate() {
                let x = &self.readers[(r * CHUNK + i) * key..][..key];
                // An erased key reads before its own is written.
                for j in 0..i + 1 - r {
                    rows[i * CHUNK + j] = dot(x, &self.work[j * key..][..key]);
                }
            }
        }
    }

    /// The keys before token `i` decay as they pass it.
    #[inline(always)]
    fn arrive(&mut self, i: usize) {
        let key = self.sizes.key;
        let decays = &self.decays[i * key..][..key];
        self.work[..i * key].chunks_exact_mut(key).for_each(|k| zip(k, decays, |k, by| k * by));
    }

    /// `out` becomes Y with O in its first rows; `written` holds `w ⊙ V` and becomes U.
    #[inline(always)]
    pub fn forward(&self, state: &mut [E], written: &mut [E], out: &mut [E]) {
        let Sizes { key, value, readers, .. } = self.sizes;
        let seen = Mat::dense(self.seen, readers, key);
        product(MatMut::dense(out, readers, value), E::ZERO, E::ONE, seen, Mat::dense(state, key, value));
        let (of_queries, of_erased) = self.weights.split_at(CHUNK * CHUNK);
        let (out, erased) = out.split_at_mut(CHUNK * value);
        for (i, erased) in erased.chunks_exact(value).enumerate() {
            let (before, row) = written.split_at_mut(i * value);
            zip(&mut row[..value], erased, |w, y| w + y);
            combine(&mut row[..value], &of_erased[i * CHUNK..][..i], before);
        }
        let weights = Mat::dense(of_queries, CHUNK, CHUNK);
        product(MatMut::dense(out, CHUNK, value), E::ONE, E::ONE, weights, Mat::dense(written, CHUNK, value));
        self.advance(state, written);
    }

    /// From `rows` (dO, then as many again, which become dU) and `d_state`, the gradient of the
    /// state after the chunk, which becomes that of `state`, the one before it.
    #[inline(always)]
    pub fn backward(&mut self, state: &[E], written: &[E], rows: &mut [E], d_state: &mut [E], to: Gradients<'_, E>) {
        let Sizes { key, value, decay, readers } = self.sizes;
        let u = Mat::dense(written, CHUNK, value);
        let (of_queries, of_erased) = self.weights.split_at(CHUNK * CHUNK);
        {
            let (d_o, d_u) = rows.split_at_mut(CHUNK * value);
            let (kept, d_s) = (Mat::dense(self.kept, CHUNK, key), Mat::dense(d_state, key, value));
            product(MatMut::dense(d_u, CHUNK, value), E::ZERO, E::ONE, kept, d_s);
            let weights = Mat::dense(of_queries, CHUNK, CHUNK).transposed();
            product(MatMut::dense(d_u, CHUNK, value), E::ONE, E::ONE, weights, Mat::dense(d_o, CHUNK, value));
            if readers > CHUNK {
                for i in (0..CHUNK).rev() {
                    let (before, row) = d_u.split_at_mut(i * value);
                    spread(before, &of_erased[i * CHUNK..][..i], &row[..value]);
                }
            }
            product(MatMut::dense(to.keys, CHUNK, key), E::ZERO, E::ONE, u, d_s.transposed());
            weigh(to.keys, self.to_end, key, decay);
        }
        let d_y = Mat::dense(&rows[..readers * value], readers, value);
        let s = Mat::dense(state, key, value);
        product(MatMut::dense(to.readers, readers, key), E::ZERO, E::ONE, d_y, s.transposed());
        for rows in to.readers.chunks_exact_mut(CHUNK * key) {
            weigh(rows, self.from_start, key, decay);
        }
        product(MatMut::dense(to.weights, readers, CHUNK), E::ZERO, E::ONE, d_y, u.transposed());
        self.fade_state(d_state);
        let seen = Mat::dense(self.seen, readers, key).transposed();
        product(MatMut::dense(d_state, key, value), E::ONE, E::ONE, seen, d_y);
        self.through_weights(to);
    }

    /// Adds what reaches keys and readers through M.
    #[inline(always)]
    fn through_weights(&mut self, to: Gradients<'_, E>) {
        let Sizes { key, decay, readers, .. } = self.sizes;
        if decay == 1 {
            between(to.weights, self.work);
            let d_m = Mat::dense(to.weights, readers, CHUNK);
            let (x, k) = (Mat::dense(self.readers, readers, key), Mat::dense(self.keys, CHUNK, key));
            product(MatMut::dense(to.readers, readers, key), E::ONE, E::ONE, d_m, k);
            product(MatMut::dense(to.keys, CHUNK, key), E::ONE, E::ONE, d_m.transposed(), x);
            return;
        }
        // `arrive` has taken the keys to the end: again from the start, and then the way back.
        self.work.copy_from_slice(self.keys);
        for i in 0..CHUNK {
            self.arrive(i);
            for (r, rows) in to.weights.chunks_exact(CHUNK * CHUNK).enumerate() {
                let weights = &rows[i * CHUNK..][..i + 1 - r];
                combine(&mut to.readers[(r * CHUNK + i) * key..][..key], weights, self.work);
            }
        }
        let on_the_way = &mut *self.work;
        on_the_way.fill(E::ZERO);
        for i in (0..CHUNK).rev() {
            for (r, rows) in to.weights.chunks_exact(CHUNK * CHUNK).enumerate() {
                let weights = &rows[i * CHUNK..][..i + 1 - r];
                spread(on_the_way, weights, &self.readers[(r * CHUNK + i) * key..][..key]);
            }
            let decays = &self.decays[i * key..][..key];
            on_the_way[..i * key].chunks_exact_mut(key).for_each(|k| zip(k, decays, |k, by| k * by));
        }
        zip(to.keys, on_the_way, |to, from| to + from);
    }
}

/// Where the gradients of a chunk go.
pub struct Gradients<'a, E> {
    /// Of X.
    pub readers: &'a mut [E],
    pub keys: &'a mut [E],
    /// Of M.
    pub weights: &'a mut [E],
}

/// `to ← x ∘ y`, as long as `y` is.
#[inline(always)]
fn times<E: Real>(to: &mut [E], x: &[E], y: &[E]) {
    for ((to, x), y) in to.iter_mut().zip(x).zip(y) {
        *to = *x * *y;
    }
}

/// Every row times its decay: one number, or one for every channel.
#[inline(always)]
fn weigh<E: Real>(rows: &mut [E], decays: &[E], key: usize, decay: usize) {
    if decay > 1 {
        return zip(rows, decays, |x, by| x * by);
    }
    for (row, by) in rows.chunks_exact_mut(key).zip(decays) {
        scale(row, *by);
    }
}

/// `weights` times the decay between their tokens; those of an erased key end before its own.
#[inline(always)]
fn between<E: Real>(weights: &mut [E], decays: &[E]) {
    for (r, weights) in weights.chunks_exact_mut(CHUNK * CHUNK).enumerate() {
        // What is hidden may be infinite.
        for (i, row) in weights.chunks_exact_mut(CHUNK).enumerate() {
            row[i + 1 - r..].fill(E::ZERO);
        }
        zip(weights, decays, |x, by| x * by);
    }
}
