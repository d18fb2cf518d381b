//! Memory for the intermediate results of a tile.

use super::Real;
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` one part of this thread's memory for each of `lengths`. The memory is kept from call to
/// call; every number of a part is written before it is read, and in tests it begins as NaN. `f` must
/// not borrow again.
pub fn with_scratch<E: Real, R>(lengths: &[usize], f: impl FnOnce(Vec<&mut [E]>) -> R) -> R {
    SCRATCH.with_borrow_mut(|memory| {
        let total: usize = lengths.iter().sum();
        memory.resize(memory.len().max(total), 0);
        let mut rest: &mut [E] = bytemuck::cast_slice_mut(memory.as_mut_slice());
        let mut parts = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let (part, after) = rest.split_at_mut(length);
            if cfg!(test) {
                part.fill(E::NAN);
            }
            parts.push(part);
            rest = after;
        }
        f(parts)
    })
}
