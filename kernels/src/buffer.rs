//! Large zeroed arrays, aligned to cache lines and on huge pages where the system has them.
#![expect(unsafe_code, reason = "bytes of a mapping are read as numbers")]

use memmap2::{Advice, MmapMut};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// The system has no memory of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was asked for; `u64::MAX` where no number can say it.
    pub bytes: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for {} bytes", self.bytes)
    }
}

impl std::error::Error for OutOfMemory {}

/// Whether the system would give so many bytes at once. They are not kept. What is more than the whole
/// machine has is known before the work begins; what a control group forbids or others hold already
/// is not.
pub fn probe(bytes: u64) -> Result<(), OutOfMemory> {
    let len = usize::try_from(bytes).map_err(|_| OutOfMemory { bytes })?;
    Buffer::<u8>::zeroed(len).map(drop)
}

/// Numbers for which all bits zero is a value and every bit pattern is one.
///
/// # Safety
/// The type has no padding, no invalid bit patterns and at most the alignment of a page.
pub(crate) unsafe trait Number: Copy + Send + Sync {}

// SAFETY: every bit pattern is a float.
unsafe impl Number for f32 {}
// SAFETY: every bit pattern is an integer.
unsafe impl Number for u8 {}
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
    pub(crate) fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(OutOfMemory { bytes: u64::MAX })?;
        if bytes == 0 {
            return Ok(Self {
                map: None,
                len: 0,
                numbers: PhantomData,
            });
        }
        let map = MmapMut::map_anon(bytes).map_err(|_| OutOfMemory {
            bytes: bytes as u64,
        })?;
        if bytes >= HUGE_PAGES_FROM {
            // Only advice: without huge pages the same memory is a little slower.
            let _ = map.advise(Advice::HugePage);
        }
        Ok(Self {
            map: Some(map),
            len,
            numbers: PhantomData,
        })
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
        // SAFETY: the mapping holds `len` numbers, is aligned to a page, was zeroed by the system,
        // and lives as long as the borrow of `self`, which is exclusive.
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
        let mut buffer = Buffer::<u32>::zeroed(1000).unwrap();
        assert_eq!(buffer.len(), 1000);
        assert!(buffer.iter().all(|&number| number == 0));
        assert_eq!(buffer.as_ptr().align_offset(64), 0);
        buffer[999] = 7;
        assert_eq!(buffer[999], 7);
        assert!(Buffer::<u16>::zeroed(0).unwrap().is_empty());
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        for len in [1 << 60, usize::MAX / 4, usize::MAX] {
            assert!(Buffer::<u32>::zeroed(len).is_err(), "{len}");
        }
        assert_eq!(
            probe(1 << 60).unwrap_err().to_string(),
            "no memory for 1152921504606846976 bytes"
        );
        assert!(probe(1 << 20).is_ok());
    }
}
