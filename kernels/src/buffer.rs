//! Large zeroed arrays, aligned to cache lines and on huge pages where the system has them.
#![expect(unsafe_code, reason = "bytes of a mapping are read as numbers")]

use memmap2::{Advice, MmapMut};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Numbers for which all bits zero is a value and every bit pattern is one.
///
/// # Safety
/// The type has no padding, no invalid bit patterns and at most the alignment of a page.
pub(crate) unsafe trait Number: Copy + Send + Sync {}

// SAFETY: every bit pattern is a float.
unsafe impl Number for f32 {}
// SAFETY: every bit pattern is an integer.
unsafe impl Number for u16 {}
// SAFETY: every bit pattern is an integer.
unsafe impl Number for u32 {}

/// A fixed number of zeroed numbers; pages that are never touched cost no memory.
pub(crate) struct Buffer<T: Number> {
    map: Option<MmapMut>,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Number> Buffer<T> {
    /// `len` zeros.
    ///
    /// Running out of address space ends in a panic, as it does for a `Vec`.
    #[expect(
        clippy::expect_used,
        reason = "running out of memory is fatal everywhere"
    )]
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = len
            .checked_mul(size_of::<T>())
            .expect("a buffer larger than the memory");
        if bytes == 0 {
            return Self {
                map: None,
                len: 0,
                numbers: PhantomData,
            };
        }
        let map = MmapMut::map_anon(bytes).expect("memory for a buffer");
        if bytes >= HUGE_PAGES_FROM {
            // Only advice: without huge pages the same memory is a little slower.
            let _ = map.advise(Advice::HugePage);
        }
        Self {
            map: Some(map),
            len,
            numbers: PhantomData,
        }
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: the mapping holds `len` numbers, is aligned to a page, was zeroed by the system,
        // and lives as long as the borrow of `self`.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.len) }
    }
}

impl<T: Number> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let Some(map) = &mut self.map else {
            return &mut [];
        };
        // SAFETY: as in `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Number> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer[{}]", self.len)
    }
}

// 4 MiB: below it a huge page would round up too much.
const HUGE_PAGES_FROM: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_writable() {
        let mut buffer = Buffer::<u32>::zeroed(1000);
        assert_eq!(buffer.len(), 1000);
        assert!(buffer.iter().all(|&number| number == 0));
        assert_eq!(buffer.as_ptr().align_offset(64), 0);
        buffer[999] = 7;
        assert_eq!(buffer[999], 7);
        assert!(Buffer::<u16>::zeroed(0).is_empty());
    }
}
