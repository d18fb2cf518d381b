//! Products of matrices with any strides.

use super::Real;
use std::marker::PhantomData;

/// A matrix to read: element `(i, j)` stands at `i · row + j · column`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, E> {
    start: *const E,
    pub rows: usize,
    pub columns: usize,
    row: usize,
    column: usize,
    data: PhantomData<&'a [E]>,
}

/// A matrix to write.
#[derive(Debug)]
pub struct MatMut<'a, E> {
    start: *mut E,
    pub rows: usize,
    pub columns: usize,
    row: usize,
    column: usize,
    data: PhantomData<&'a mut [E]>,
}

/// Numbers that a matrix spans in memory.
fn extent(rows: usize, columns: usize, row: usize, column: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row + (columns - 1) * column + 1 }
}

impl<'a, E: Real> Mat<'a, E> {
    pub fn new(data: &'a [E], [rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> Self {
        assert!(extent(rows, columns, row, column) <= data.len(), "a matrix beyond its data");
        Self { start: data.as_ptr(), rows, columns, row, column, data: PhantomData }
    }

    /// Rows one after the other.
    pub fn dense(data: &'a [E], rows: usize, columns: usize) -> Self {
        Self::new(data, [rows, columns], [columns, 1])
    }

    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// The rows `first .. first + count`.
    pub fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows {first} + {count} of {}", self.rows);
        Self { start: self.start.wrapping_add(first * self.row), rows: count, ..self }
    }
}

impl<'a, E: Real> MatMut<'a, E> {
    pub fn new(data: &'a mut [E], [rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> Self {
        assert!(extent(rows, columns, row, column) <= data.len(), "a matrix beyond its data");
        Self { start: data.as_mut_ptr(), rows, columns, row, column, data: PhantomData }
    }

    pub fn dense(data: &'a mut [E], rows: usize, columns: usize) -> Self {
        Self::new(data, [rows, columns], [columns, 1])
    }

    /// # Safety
    /// All elements lie in memory that is valid for `'a`, and nobody else uses them.
    pub unsafe fn from_raw(start: *mut E, [rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> Self {
        Self { start, rows, columns, row, column, data: PhantomData }
    }

    pub fn reborrow(&mut self) -> MatMut<'_, E> {
        MatMut { data: PhantomData, ..*self }
    }

    /// # Panics
    /// When a row is not contiguous.
    pub fn row(&mut self, i: usize) -> &mut [E] {
        assert!(i < self.rows && self.column == 1, "row {i} of {}, stride {}", self.rows, self.column);
        // SAFETY: inside the matrix, whose elements are ours.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.row), self.columns) }
    }
}

/// `c ← old · c + scale · a b` on the calling thread. With `old = 0` what stood in `c` is not read.
pub fn product<E: Real>(c: MatMut<'_, E>, old: E, scale: E, a: Mat<'_, E>, b: Mat<'_, E>) {
    multiply(c, old, scale, a, b, gemm::Parallelism::None);
}

/// The same on all threads, when there is enough to do. The number of threads does not change the bits:
/// they share out the elements of `c`, not the terms of a sum.
pub fn wide_product<E: Real>(c: MatMut<'_, E>, old: E, scale: E, a: Mat<'_, E>, b: Mat<'_, E>) {
    // Below this, waking a thread costs more than it saves.
    let worth = c.rows * c.columns * a.columns >= 128 * 128 * 128;
    let threads = if worth { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    multiply(c, old, scale, a, b, threads);
}

fn multiply<E: Real>(c: MatMut<'_, E>, old: E, scale: E, a: Mat<'_, E>, b: Mat<'_, E>, threads: gemm::Parallelism) {
    assert!(
        a.columns == b.rows && c.rows == a.rows && c.columns == b.columns,
        "[{}, {}] · [{}, {}] → [{}, {}]",
        a.rows,
        a.columns,
        b.rows,
        b.columns,
        c.rows,
        c.columns
    );
    // SAFETY: all three lie in their memory (checked where they were made), and `c` is ours alone.
    unsafe {
        gemm::gemm(
            c.rows,
            c.columns,
            a.columns,
            c.start,
            c.column as isize,
            c.row as isize,
            old != E::ZERO,
            a.start,
            a.column as isize,
            a.row as isize,
            b.start,
            b.column as isize,
            b.row as isize,
            old,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}
