//! Stop strings, matched on characters wherever the borders of tokens and chunks fall.
//!
//! What is decided here:
//! - The stop string that is **complete first** wins, since generation ends as soon as one is there. Of
//!   several that become complete with the same character, the longest wins, so that no character of a
//!   stop string is ever emitted; of equal strings, the first in the list.
//! - Text is held back only while the end of it is the beginning of a stop string, so never more than the
//!   longest stop string less one byte; [`StopMatcher::finish`] gives it free.
//! - The cost is linear in the text, whatever the stop strings are.

use std::sync::Arc;

use thiserror::Error;

use super::patterns::{Patterns, Place};

/// The most stop strings a request may have.
pub const STOPS_MAX: usize = 64;
/// The most bytes one stop string may have.
pub const STOP_BYTES_MAX: usize = 1024;

/// Finds the first stop string in a text that arrives in pieces.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Arc<Patterns>,
    place: Place,
    /// The end of the text so far that may still become a stop string.
    held: String,
    stopped: Option<usize>,
}

/// Why a list of stop strings is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StopError {
    /// More than [`STOPS_MAX`] strings.
    #[error("{stops} stop strings are more than the allowed {stops_max}")]
    TooMany {
        /// How many were given.
        stops: usize,
        /// How many are allowed.
        stops_max: usize,
    },
    /// A string of more than [`STOP_BYTES_MAX`] bytes.
    #[error("stop string {index} has {bytes} bytes, more than the allowed {bytes_max}")]
    TooLong {
        /// Its place in the list.
        index: usize,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        bytes_max: usize,
    },
    /// An empty string, which would stop everything at once.
    #[error("stop string {index} is empty")]
    Empty {
        /// Its place in the list.
        index: usize,
    },
}

impl StopMatcher {
    /// Prepares the search. An empty list is allowed and never matches.
    pub fn new(stops: &[String]) -> Result<Self, StopError> {
        if stops.len() > STOPS_MAX {
            return Err(StopError::TooMany {
                stops: stops.len(),
                stops_max: STOPS_MAX,
            });
        }
        for (index, stop) in stops.iter().enumerate() {
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            if stop.len() > STOP_BYTES_MAX {
                return Err(StopError::TooLong {
                    index,
                    bytes: stop.len(),
                    bytes_max: STOP_BYTES_MAX,
                });
            }
        }
        let patterns = Arc::new(Patterns::new(stops.iter().map(String::as_str)));
        Ok(Self {
            patterns,
            place: Place::default(),
            held: String::new(),
            stopped: None,
        })
    }

    /// Takes the next piece of text and appends to `out` what can no longer be part of a stop string.
    ///
    /// Answers the index of the stop string once one is complete; the text before it is then in `out`, and
    /// whatever is pushed later is ignored.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.stopped.is_some() {
            return self.stopped;
        }
        let before = self.held.len();
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            self.place = self.patterns.step(self.place, byte);
            let first = self.patterns.ending(self.place).next();
            if let Some((index, length)) = first {
                self.release(text, before + at + 1 - length, out);
                self.held.clear();
                self.stopped = Some(index);
                return self.stopped;
            }
        }
        let seen = before + text.len();
        self.release(text, seen - self.patterns.depth(self.place), out);
        None
    }

    /// The end of the text: appends what was held back to `out`.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.place = Place::default();
    }

    /// Bytes held back now.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Appends the first `free` bytes of held text and `text` to `out` and holds the rest.
    fn release(&mut self, text: &str, free: usize, out: &mut String) {
        if let Some(from_text) = free.checked_sub(self.held.len()) {
            out.push_str(&self.held);
            out.push_str(&text[..from_text]);
            self.held.clear();
            self.held.push_str(&text[from_text..]);
        } else {
            out.extend(self.held.drain(..free));
            self.held.push_str(text);
        }
    }
}
