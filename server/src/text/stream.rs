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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::super::detokenize;
    use super::super::samples::{self, byte_level};
    use super::super::tokenizer::Tokenize;
    use super::*;

    static BYTE_LEVEL: LazyLock<Arc<dyn Tokenize>> =
        LazyLock::new(|| samples::tokenizer(&byte_level()));

    fn run(chunks: &[Vec<u32>], stops: &[String]) -> (Vec<Chunk>, String) {
        let tokenizer = Arc::clone(&BYTE_LEVEL);
        let mut stream = TextStream::new(
            Detokenizer::new(tokenizer),
            StopMatcher::new(stops).unwrap(),
        );
        let mut out: Vec<Chunk> = chunks.iter().map(|chunk| stream.push(chunk)).collect();
        out.push(stream.finish());
        let text = out.iter().map(|chunk| chunk.text.as_str()).collect();
        (out, text)
    }

    #[test]
    fn tokens_are_covered_with_the_last_of_their_text() {
        let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
        let chunk = |text: &str, tokens: Range<usize>, stopped| Chunk {
            text: text.to_owned(),
            tokens,
            stopped,
        };
        let stops = ["xyz".to_owned()];
        let (out, _) = run(
            &[
                ids("ax"),
                ids("y"),
                ids("b世")[..2].to_vec(),
                ids("世")[1..].to_vec(),
            ],
            &stops,
        );
        let expect = [
            chunk("a", 0..1, None),
            chunk("", 1..1, None),
            chunk("xyb", 1..4, None),
            chunk("世", 4..7, None),
            chunk("", 7..7, None),
        ];
        assert_eq!(out, expect);
        let (out, _) = run(&[ids("ax"), ids("yz!"), ids("?")], &stops);
        let expect = [
            chunk("a", 0..1, None),
            chunk("", 1..4, Some(0)),
            chunk("", 4..4, Some(0)),
            chunk("", 4..4, Some(0)),
        ];
        assert_eq!(out, expect);
        let (out, _) = run(&[ids("ax")], &stops);
        assert_eq!(out, [chunk("a", 0..1, None), chunk("x", 1..2, None)]);
    }

    proptest! {
        #![proptest_config(samples::same_cases())]

        #[test]
        fn chunks_hold_the_whole_text_and_each_token_once(
            chunks in prop::collection::vec(
                prop::collection::vec(prop_oneof![97u32..100, 0u32..256, 256u32..270], 0..5), 0..8),
            stops in prop::collection::vec("[abc]{1,3}", 0..3),
        ) {
            let (out, text) = run(&chunks, &stops);
            let tokens = chunks.concat();
            let last = out.last().unwrap();

            let mut whole = String::new();
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let stopped = matcher.push(&detokenize::decode(&**BYTE_LEVEL, &tokens), &mut whole);
            matcher.finish(&mut whole);
            prop_assert_eq!(&text, &whole);
            prop_assert_eq!(last.stopped, stopped);

            let mut covered = 0;
            let mut emitted = String::new();
            for chunk in &out {
                prop_assert_eq!(chunk.tokens.start, covered);
                covered = chunk.tokens.end;
                emitted.push_str(&chunk.text);
                if last.stopped.is_none() {
                    let so_far = detokenize::decode(&**BYTE_LEVEL, &tokens[..covered]);
                    prop_assert!(emitted.starts_with(so_far.trim_end_matches(char::REPLACEMENT_CHARACTER)));
                }
            }
            if stopped.is_none() {
                prop_assert_eq!(covered, tokens.len());
            }
        }
    }
}
