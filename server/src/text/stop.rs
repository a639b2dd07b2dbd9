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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    /// The text before the first stop string, and which one it is, found by looking at every end in turn.
    fn naive<'a>(text: &'a str, stops: &[String]) -> (&'a str, Option<usize>) {
        for end in 1..=text.len() {
            let found = (0..stops.len())
                .filter(|&index| text.as_bytes()[..end].ends_with(stops[index].as_bytes()))
                .max_by_key(|&index| (stops[index].len(), std::cmp::Reverse(index)));
            if let Some(index) = found {
                return (&text[..end - stops[index].len()], Some(index));
            }
        }
        (text, None)
    }

    /// Pushes the chunks, checking after each that what is out is as much as can be.
    fn run(chunks: &[String], stops: &[String]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let (mut out, mut seen) = (String::new(), String::new());
        for chunk in chunks {
            seen.push_str(chunk);
            let stopped = matcher.push(chunk, &mut out);
            if stopped.is_some() {
                assert_eq!(matcher.push("more", &mut out), stopped);
                matcher.finish(&mut out);
                return (out, stopped);
            }
            assert_eq!(out.len() + matcher.held_bytes(), seen.len());
            let held = &seen[out.len()..];
            let needed = held.is_empty() || stops.iter().any(|stop| stop.starts_with(held));
            assert!(needed, "held {held:?} for nothing");
        }
        matcher.finish(&mut out);
        (out, None)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn the_first_complete_stop_string_wins_and_the_longest_of_those() {
        let check = |text: &str, stops: &[&str], expect: (&str, Option<usize>)| {
            let (out, stopped) = run(&strings(&[text]), &strings(stops));
            assert_eq!((out.as_str(), stopped), expect, "{text:?} {stops:?}");
        };
        check("one two", &[], ("one two", None));
        check("one\ntwo", &["\n"], ("one", Some(0)));
        check("abcd", &["abcd", "bc"], ("a", Some(1)));
        check("xab", &["b", "ab", "ab"], ("x", Some(1)));
        check("aab", &["ab"], ("a", Some(0)));
        check("aaaa", &["aab"], ("aaaa", None));
        check("naïve é", &["é"], ("naïve ", Some(0)));
    }

    #[test]
    fn lists_out_of_bounds_are_refused() {
        assert_eq!(
            StopMatcher::new(&strings(&["a", ""])).unwrap_err(),
            StopError::Empty { index: 1 }
        );
        let long = vec!["x".repeat(STOP_BYTES_MAX + 1)];
        let expect = StopError::TooLong {
            index: 0,
            bytes: STOP_BYTES_MAX + 1,
            bytes_max: STOP_BYTES_MAX,
        };
        assert_eq!(StopMatcher::new(&long).unwrap_err(), expect);
        let many = vec!["x".to_owned(); STOPS_MAX + 1];
        let expect = StopError::TooMany {
            stops: STOPS_MAX + 1,
            stops_max: STOPS_MAX,
        };
        assert_eq!(StopMatcher::new(&many).unwrap_err(), expect);
    }

    proptest! {
        #![proptest_config(samples::same_cases())]

        #[test]
        fn any_chunking_gives_what_the_whole_text_gives(
            chunks in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,5}", 0..5),
        ) {
            let text = chunks.concat();
            let (out, stopped) = run(&chunks, &stops);
            prop_assert_eq!((out.as_str(), stopped), naive(&text, &stops));
        }
    }
}
