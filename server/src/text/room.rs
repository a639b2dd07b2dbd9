//! What all tokenizers of a process share: threads to run on, and room to wait for one.
//!
//! Tokenizing takes up to two seconds and 430 MB for a megabyte of hostile text (measured: full stops and line
//! breaks, byte-level BPE), half a second and 200 MB for a megabyte of prose. So a text takes a thread's
//! permit for each [`THREAD_BYTES`] of it: what runs at once has at most `concurrent_max` times as many bytes
//! (or is one text), however many models there are, and takes some 110 MB of memory for each permit.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hugging_face::HuggingFace;
use super::tokenizer::{Tokenize, TokenizeError, TokenizerLoadError, TokenizerPool};

/// The bounds of tokenizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Texts tokenized at once on blocking threads, fewer if they are long.
    pub concurrent_max: usize,
    /// Bytes of texts that may be there, running or waiting for a thread; more are refused as
    /// [`TokenizeError::Busy`]. One text always finds room.
    pub waiting_bytes_max: usize,
    /// Bytes of one text (or of all messages of a chat together).
    pub text_bytes_max: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            concurrent_max: 4,
            waiting_bytes_max: WAITING_BYTES_MAX,
            text_bytes_max: 1 << 20,
        }
    }
}

/// Bytes of texts that may wait by default: what two threads do in some 10 seconds if it is hostile, the
/// time that most callers wait.
pub const WAITING_BYTES_MAX: usize = 8 << 20;
/// Bytes for which a text takes one more thread's permit.
pub const THREAD_BYTES: usize = 256 << 10;
/// A text takes at least so many bytes of the room, since a short one is not free either.
const PLACE_BYTES_MIN: usize = 2 << 10;

/// Bounds that several pools keep together. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TokenizerRoom {
    limits: PoolLimits,
    places_max: usize,
    /// One permit for each byte of the texts running or waiting.
    pub(super) places: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

/// What a running text holds.
#[derive(Debug)]
pub(super) struct Permits {
    _place: OwnedSemaphorePermit,
    _threads: OwnedSemaphorePermit,
}

impl TokenizerRoom {
    /// A room of its own.
    pub fn new(limits: PoolLimits) -> Self {
        let places = limits
            .waiting_bytes_max
            .max(limits.text_bytes_max)
            .max(PLACE_BYTES_MIN);
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(PERMITS_MAX)));
        Self {
            limits,
            places_max: places.min(PERMITS_MAX),
            places: semaphore(places),
            threads: semaphore(limits.concurrent_max.max(1)),
        }
    }

    /// A pool over the tokenizer of a tokenizer.json. Truncation and padding set in the file are ignored.
    pub fn pool_from_json(&self, bytes: &[u8]) -> Result<TokenizerPool, TokenizerLoadError> {
        Ok(self.pool(Arc::new(HuggingFace::from_json(bytes)?)))
    }

    /// A pool over any tokenizer.
    pub fn pool(&self, tokenizer: Arc<dyn Tokenize>) -> TokenizerPool {
        TokenizerPool::sharing(self.clone(), tokenizer)
    }

    /// The bounds.
    pub fn limits(&self) -> PoolLimits {
        self.limits
    }

    /// Waits for a thread. The permits go with the work, so that work whose caller went away still counts.
    pub(super) async fn permits(&self, bytes: usize) -> Result<Permits, TokenizeError> {
        // What is larger than the room takes all of it.
        let places = bytes.max(PLACE_BYTES_MIN).min(self.places_max) as u32;
        let place = Arc::clone(&self.places)
            .try_acquire_many_owned(places)
            .map_err(|_| TokenizeError::Busy)?;
        let threads = (1 + bytes / THREAD_BYTES).min(self.limits.concurrent_max.max(1));
        let threads = Arc::clone(&self.threads)
            .acquire_many_owned(threads as u32)
            .await
            .map_err(|_| TokenizeError::Busy)?;
        Ok(Permits {
            _place: place,
            _threads: threads,
        })
    }
}

/// Permits of one semaphore: all that may be asked for at once.
const PERMITS_MAX: usize = u32::MAX as usize;

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn what_is_larger_than_the_room_takes_all_of_it() {
        let room = TokenizerRoom::new(PoolLimits {
            concurrent_max: 1,
            waiting_bytes_max: 4096,
            text_bytes_max: 4096,
        });
        let runtime = Builder::new_current_thread().build().unwrap();
        let permits = runtime.block_on(room.permits(1 << 20)).unwrap();
        assert_eq!(room.places.available_permits(), 0);
        drop(permits);
        assert_eq!(room.places.available_permits(), 4096);
    }

    #[test]
    fn a_long_text_takes_more_permits_and_at_most_all() {
        let limits = |concurrent_max| PoolLimits {
            concurrent_max,
            ..PoolLimits::default()
        };
        let check = |concurrent_max, bytes, expect| {
            let room = TokenizerRoom::new(limits(concurrent_max));
            let runtime = Builder::new_current_thread().build().unwrap();
            let _running = runtime.block_on(room.permits(bytes)).unwrap();
            let taken = concurrent_max.max(1) - room.threads.available_permits();
            assert_eq!(taken, expect, "{bytes} of {concurrent_max}");
            assert_eq!(
                WAITING_BYTES_MAX - room.places.available_permits(),
                bytes.max(PLACE_BYTES_MIN)
            );
        };
        check(8, 1, 1);
        check(8, THREAD_BYTES - 1, 1);
        check(8, THREAD_BYTES, 2);
        check(8, 1 << 20, 5);
        check(2, 1 << 20, 2);
        check(1, 8 << 20, 1);
        check(0, 1, 1);
    }

    #[test]
    fn limits_beyond_all_bounds_make_a_room() {
        let room = TokenizerRoom::new(PoolLimits {
            concurrent_max: usize::MAX,
            waiting_bytes_max: usize::MAX,
            text_bytes_max: usize::MAX,
        });
        assert_eq!(room.places.available_permits(), PERMITS_MAX);
    }
}
