//! The text of one sequence as it grows: tokens in, safe text out, with the tokens it came from.

use std::collections::VecDeque;
use std::ops::Range;

use super::detokenize::Detokenizer;
use super::stop::StopMatcher;

/// Joins a [`Detokenizer`] and a [`StopMatcher`] and remembers which tokens the emitted text covers.
///
/// The chunks of a stream hold the whole text and every token once, in order. Token ranges count from the
/// first token pushed, so a caller that queues ids and logprobs drains `chunk.tokens.len()` of them.
#[derive(Debug)]
pub struct TextStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    decoded: String,
    /// Bytes of text decoded and emitted so far.
    decoded_bytes: usize,
    emitted_bytes: usize,
    /// For each token not yet covered, how many bytes of text must be emitted until it is.
    needs: VecDeque<usize>,
    covered: usize,
    stopped: Option<usize>,
}

/// What became safe to send.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// New text, to be appended to what went before. Whole characters, no part of a stop string.
    pub text: String,
    /// The tokens whose text is now completely emitted, counted from the first token of the stream.
    pub tokens: Range<usize>,
    /// The index of the stop string that ended the text. Nothing follows.
    pub stopped: Option<usize>,
}

impl TextStream {
    /// A stream at its beginning.
    pub fn new(detokenizer: Detokenizer, stop: StopMatcher) -> Self {
        Self {
            detokenizer,
            stop,
            decoded: String::new(),
            decoded_bytes: 0,
            emitted_bytes: 0,
            needs: VecDeque::new(),
            covered: 0,
            stopped: None,
        }
    }

    /// Takes the next tokens. Once stopped, later tokens are ignored and belong to no chunk.
    ///
    /// When a stop string becomes complete, the chunk covers every token up to the one that completed it.
    pub fn push(&mut self, tokens: &[u32]) -> Chunk {
        let mut text = String::new();
        for &token in tokens {
            if self.stopped.is_some() {
                break;
            }
            self.detokenizer.push(token, &mut self.decoded);
            self.decoded_bytes += self.decoded.len();
            self.needs
                .push_back(self.decoded_bytes + usize::from(self.detokenizer.holds_text()));
            self.pass_on(&mut text);
        }
        self.chunk(text)
    }

    /// The end of the sequence: everything held back comes out, and all tokens are covered.
    pub fn finish(&mut self) -> Chunk {
        let mut text = String::new();
        if self.stopped.is_none() {
            self.detokenizer.finish(&mut self.decoded);
            self.decoded_bytes += self.decoded.len();
            self.pass_on(&mut text);
            if self.stopped.is_none() {
                self.stop.finish(&mut text);
            }
        }
        let mut chunk = self.chunk(text);
        self.covered += self.needs.len();
        self.needs.clear();
        chunk.tokens.end = self.covered;
        chunk
    }

    /// Hands decoded text to the stop matcher.
    fn pass_on(&mut self, text: &mut String) {
        self.stopped = self.stop.push(&self.decoded, text);
        self.decoded.clear();
    }

    fn chunk(&mut self, text: String) -> Chunk {
        let first = self.covered;
        self.emitted_bytes += text.len();
        while self
            .needs
            .front()
            .is_some_and(|&need| self.stopped.is_some() || need <= self.emitted_bytes)
        {
            self.needs.pop_front();
            self.covered += 1;
        }
        Chunk {
            text,
            tokens: first..self.covered,
            stopped: self.stopped,
        }
    }
}
