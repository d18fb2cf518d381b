//! Work shared out among threads.

use rayon::prelude::*;
use std::marker::PhantomData;

/// Calls `f(0) … f(count − 1)`, on several threads when `work` (multiplications, say) is worth one.
pub fn for_each(count: usize, work: usize, f: impl Fn(usize) + Send + Sync) {
    if count == 1 || work < 32_768 {
        (0..count).for_each(f);
    } else {
        (0..count).into_par_iter().for_each(f);
    }
}

/// Memory of which every thread writes a part of its own.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a, E> {
    start: *mut E,
    length: usize,
    memory: PhantomData<&'a mut [E]>,
}

// SAFETY: a pointer to numbers; whoever takes a part promises that it is nobody else's.
unsafe impl<E: Send> Send for Shared<'_, E> {}
unsafe impl<E: Send> Sync for Shared<'_, E> {}

impl<'a, E> Shared<'a, E> {
    pub fn new(memory: &'a mut [E]) -> Self {
        Self { start: memory.as_mut_ptr(), length: memory.len(), memory: PhantomData }
    }

    /// The part `start .. start + length`.
    ///
    /// # Safety
    /// No other part that is in use overlaps it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, length: usize) -> &'a mut [E] {
        assert!(start + length <= self.length, "{start} + {length} of {}", self.length);
        // SAFETY: inside the memory; the caller promises that it is not shared.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// Where element `start` stands, for matrices whose rows interleave with those of other threads.
    pub fn at(&self, start: usize) -> *mut E {
        assert!(start <= self.length, "{start} of {}", self.length);
        // SAFETY: inside the memory or one past it.
        unsafe { self.start.add(start) }
    }
}
