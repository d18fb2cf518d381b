//! Memory of a thread, kept from call to call.

use super::Real;
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A cache line, so that no vector lies across two.
const LINE: usize = 64;

/// Parts of these lengths, each at the start of a cache line; NaN at first in tests.
pub fn with_scratch<E: Real, R>(lengths: &[usize], f: impl FnOnce(Vec<&mut [E]>) -> R) -> R {
    let whole = |length: usize| length.next_multiple_of(LINE / size_of::<E>());
    SCRATCH.with_borrow_mut(|memory| {
        let bytes = lengths.iter().map(|&length| whole(length) * size_of::<E>()).sum::<usize>() + LINE;
        memory.resize(memory.len().max(bytes / size_of::<u64>()), 0);
        let rest: &mut [E] = bytemuck::cast_slice_mut(memory.as_mut_slice());
        let start = rest.as_ptr().align_offset(LINE);
        let mut rest = &mut rest[start..];
        let mut parts = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let (part, after) = rest.split_at_mut(whole(length));
            let part = &mut part[..length];
            if cfg!(test) {
                part.fill(E::NAN);
            }
            parts.push(part);
            rest = after;
        }
        f(parts)
    })
}
