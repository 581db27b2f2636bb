//! Memory that the threads of a step write together.
use std::cell::UnsafeCell;

use super::kernels::{LANES, Line};

/// Numbers that several threads write at once, each its own part.
pub struct Buffer(Box<[UnsafeCell<Line>]>);

// SAFETY: all access goes through raw pointers whose users keep to disjoint parts between barriers.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeros; `len` numbers at least.
    pub fn new(len: usize) -> Self {
        Self(
            (0..len.div_ceil(LANES))
                .map(|_| UnsafeCell::new(Line::ZERO))
                .collect(),
        )
    }

    /// Make room for `len` numbers; what was in it is lost when it grows.
    pub fn reserve(&mut self, len: usize) {
        if self.0.len() * LANES < len {
            *self = Self::new(len);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len() * LANES
    }

    pub fn ptr(&self) -> *mut f32 {
        UnsafeCell::raw_get(self.0.as_ptr()).cast()
    }

    /// # Safety
    /// Nobody writes to `start..start + len` while the slice lives.
    pub unsafe fn slice(&self, start: usize, len: usize) -> &[f32] {
        debug_assert!(start + len <= self.len());
        // SAFETY: in bounds; not written, says the caller.
        unsafe { std::slice::from_raw_parts(self.ptr().add(start), len) }
    }

    /// # Safety
    /// Nobody else reads or writes `start..start + len` while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn slice_mut(&self, start: usize, len: usize) -> &mut [f32] {
        debug_assert!(start + len <= self.len());
        // SAFETY: in bounds; not shared, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().add(start), len) }
    }
}
