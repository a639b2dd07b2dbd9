//! One mutable slice written by many threads at places that do not overlap.
#![expect(unsafe_code, reason = "threads write to one slice")]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice without the compiler's proof that its users keep apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through unsafe functions whose callers keep threads apart.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: a shared reference gives access through the same unsafe functions alone.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// Where the slice begins.
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }

    /// Part of the slice.
    ///
    /// # Safety
    /// Until the result is dropped nobody else uses an element of `range`.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: in bounds by the check; the caller promises that nobody else uses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
