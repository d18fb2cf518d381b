//! What calibration keeps in memory.

use burn::tensor::{Device, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use zoo::{Cache, CacheSamples};

/// Counts what is allocated.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of one head and one text, the newest vector is a view of the cache's memory.
#[test]
fn a_sample_holds_its_vector_and_not_the_room_it_lies_in() {
    let (mut samples, mut cache) = (CacheSamples::default(), Cache::default());
    let before = HELD.load(Relaxed);
    for _ in 0..300 {
        cache.append("k", Tensor::<4>::zeros([1, 1, 1, 64], &Device::flex()), 2);
        samples.observe(&cache);
    }
    let held = HELD.load(Relaxed) - before;
    // 300 vectors of 256 bytes and one room; with a room of its own, each would hold up to 130 kB.
    assert!(held < 1 << 20, "{held} bytes");
}
