//! A bump allocator. Every call runs in a fresh instance, which is dropped whole, so giving memory
//! back is wasted work; touching few pages is what counts, since each first touch costs the host a
//! page fault. The rest of the initial memory is used up before the memory is grown.
//! Freeing or growing the newest block does give back or extend in place, which is what `String`
//! and `Vec` do most.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32::{memory_grow, memory_size};
use core::cell::Cell;
use core::ptr::{NonNull, copy_nonoverlapping, null_mut};

const PAGE: usize = 65_536;

struct Arena {
    // Next free byte; 0 before the first allocation.
    next: Cell<usize>,
}

// Policies are single-threaded: the contract has no threads.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { next: Cell::new(0) };

unsafe extern "C" {
    // Where the linker ended stack and data.
    static __heap_base: u8;
}

impl Arena {
    // Makes sure that memory reaches up to `end`.
    fn reach(end: usize) -> bool {
        let have = memory_size(0) * PAGE;
        end <= have || memory_grow(0, (end - have).div_ceil(PAGE)) != usize::MAX
    }
}

// SAFETY: blocks never overlap: `next` only moves past what was handed out, and back only over the
// newest block when that is freed or shrunk.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let free = match self.next.get() {
            0 => (&raw const __heap_base) as usize,
            next => next,
        };
        let start = free.next_multiple_of(layout.align());
        let Some(end) = start.checked_add(layout.size()) else { return null_mut() };
        if end > isize::MAX as usize || !Self::reach(end) {
            return null_mut();
        }
        self.next.set(end);
        // Made from an address, since the memory beyond the data has no Rust object.
        NonNull::with_exposed_provenance(core::num::NonZero::new(start).unwrap_or(core::num::NonZero::<usize>::MIN)).as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block as usize + layout.size() == self.next.get() {
            self.next.set(block as usize);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let start = block as usize;
        if start + layout.size() == self.next.get() {
            let Some(end) = start.checked_add(new_size) else { return null_mut() };
            if end > isize::MAX as usize || !Self::reach(end) {
                return null_mut();
            }
            self.next.set(end);
            return block;
        }
        if new_size <= layout.size() {
            return block;
        }
        // SAFETY: the caller's size is within `Layout`'s bounds by the trait's contract.
        let fresh = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !fresh.is_null() {
            // SAFETY: both blocks are live, apart, and at least this long.
            unsafe { copy_nonoverlapping(block, fresh, layout.size()) };
        }
        fresh
    }
}
