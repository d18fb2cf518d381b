//! Work shared out among threads.

use rayon::prelude::*;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `f` on one of the threads among which operators share out their work. From there a second one
/// takes a part within a microsecond; from outside it has to be woken, which takes ten, some hundreds of
/// times in a training step.
///
/// [`trace`](crate::trace()) and [`by_reference`](crate::by_reference) reach into it.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let before = crate::trace::leave();
    let (result, after) = rayon::scope(move |_| {
        let outer = crate::trace::enter(before);
        // Both threads get their own back also where it panics.
        let result = catch_unwind(AssertUnwindSafe(f));
        (result, crate::trace::enter(outer))
    });
    crate::trace::enter(after);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// On how many threads `work` (multiplications, say) is worth sharing out.
pub fn threads_for(work: usize) -> usize {
    let least = if rayon::current_thread_index().is_some() { 16_384 } else { 131_072 };
    if work < least { 1 } else { rayon::current_num_threads() }
}

/// Calls `f(0) … f(count − 1)`, on several threads when `work` is worth it.
pub fn for_each(count: usize, work: usize, f: impl Fn(usize) + Send + Sync) {
    if count == 1 || threads_for(work) == 1 {
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
