//! Text from tokens, one token at a time: never half a character, linear in the number of tokens.
//!
//! Special tokens and ids the tokenizer does not know give no text. Whatever the chunks, the text is that
//! of decoding the whole sequence at once ([`decode`]).

use std::sync::Arc;

pub use super::decoding::{Decoding, UnknownDecoder};
use super::tokenizer::Tokenize;

/// The text of one growing sequence.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenize>,
    decoding: Decoding,
}

impl Detokenizer {
    /// A detokenizer before the first token.
    pub fn new(tokenizer: Arc<dyn Tokenize>) -> Self {
        let decoding = tokenizer.decoding().clone();
        Self {
            tokenizer,
            decoding,
        }
    }

    /// Takes the next token and appends the text that has become final to `out`.
    pub fn push(&mut self, token: u32, out: &mut String) {
        push(&*self.tokenizer, &mut self.decoding, token, out);
    }

    /// The end of the sequence: appends what waited for more tokens, an unfinished character as U+FFFD.
    /// The detokenizer is then as new.
    pub fn finish(&mut self, out: &mut String) {
        self.decoding.finish(out);
    }

    /// Whether text of tokens already taken still waits for more tokens.
    pub fn holds_text(&self) -> bool {
        self.decoding.holds_text()
    }
}

/// The text of a whole sequence.
pub fn decode(tokenizer: &dyn Tokenize, tokens: &[u32]) -> String {
    let mut decoding = tokenizer.decoding().clone();
    let mut text = String::new();
    for &token in tokens {
        push(tokenizer, &mut decoding, token, &mut text);
    }
    decoding.finish(&mut text);
    text
}

fn push(tokenizer: &dyn Tokenize, decoding: &mut Decoding, token: u32, out: &mut String) {
    if tokenizer.is_special(token) {
        return;
    }
    if let Some(piece) = tokenizer.piece(token) {
        decoding.push(&piece, out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::samples::{
        self, byte_level, sentence_piece, unigram, with_decoder, word_piece,
    };
    use super::*;

    /// The text after each push, and in the end.
    fn stages(tokenizer: &Arc<dyn Tokenize>, tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
        let mut text = String::new();
        let mut stages = Vec::new();
        for &token in tokens {
            detokenizer.push(token, &mut text);
            stages.push(text.clone());
        }
        detokenizer.finish(&mut text);
        stages.push(text);
        stages
    }

    /// That pushing one by one gives the text of the whole, and takes nothing back on the way.
    fn check_growth(tokenizer: &Arc<dyn Tokenize>, tokens: &[u32]) -> String {
        let whole = decode(&**tokenizer, tokens);
        let stages = stages(tokenizer, tokens);
        assert_eq!(stages.last(), Some(&whole));
        for pair in stages.windows(2) {
            assert!(pair[1].starts_with(&pair[0]));
        }
        whole
    }

    /// Byte pieces that are no UTF-8 in the run they stand in, alone different in the library (see `decoding`).
    fn has_broken_run(tokenizer: &dyn Tokenize, tokens: &[u32]) -> bool {
        let mut run = Vec::new();
        let bytes = tokens
            .iter()
            .filter(|&&id| !tokenizer.is_special(id))
            .map(|&id| {
                let piece = tokenizer.piece(id).unwrap_or_default();
                let digits = piece
                    .strip_prefix("<0x")
                    .map(|rest| rest.trim_end_matches('>').to_owned());
                digits.map(|digits| u8::from_str_radix(&digits, 16).unwrap())
            });
        for byte in bytes.chain([None]) {
            match byte {
                Some(byte) => run.push(byte),
                None if String::from_utf8(std::mem::take(&mut run)).is_err() => return true,
                None => {}
            }
        }
        false
    }

    fn kinds() -> Vec<Value> {
        let strip = |start: u32| {
            json!({ "type": "Sequence", "decoders": [
                { "type": "Fuse" }, { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                { "type": "Strip", "content": " ", "start": start, "stop": 0 }] })
        };
        vec![
            byte_level(),
            word_piece(),
            unigram(),
            with_decoder(
                word_piece(),
                json!({ "type": "WordPiece", "prefix": "##", "cleanup": false }),
            ),
            with_decoder(word_piece(), Value::Null),
            with_decoder(word_piece(), json!({ "type": "BPEDecoder", "suffix": "o" })),
            with_decoder(
                unigram(),
                json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never" }),
            ),
            with_decoder(unigram(), strip(1)),
        ]
    }

    /// Each kind with the library's tokenizer of it, made once.
    static KINDS: LazyLock<Vec<(Arc<dyn Tokenize>, tokenizers::Tokenizer)>> = LazyLock::new(|| {
        kinds()
            .iter()
            .map(|kind| (samples::tokenizer(kind), samples::library(kind)))
            .collect()
    });

    static SENTENCE_PIECE: LazyLock<(Arc<dyn Tokenize>, tokenizers::Tokenizer)> =
        LazyLock::new(|| {
            (
                samples::tokenizer(&sentence_piece()),
                samples::library(&sentence_piece()),
            )
        });

    proptest! {
        #![proptest_config(samples::same_cases())]

        #[test]
        fn text_is_that_of_the_library(tokens in prop::collection::vec(0u32..270, 1..24)) {
            for (index, (tokenizer, library)) in KINDS.iter().enumerate() {
                let ids = tokenizer.vocab_size() as u32 + 2;
                let tokens: Vec<u32> = tokens.iter().map(|id| id % ids).collect();
                let whole = check_growth(tokenizer, &tokens);
                let is_text = |id: u32| !tokenizer.is_special(id) && tokenizer.piece(id).is_some();
                // Some of the library's decoders panic where nothing is left to decode.
                if tokens.iter().any(|&id| is_text(id)) {
                    let expect = library.decode(&tokens, true).unwrap();
                    prop_assert_eq!(whole, expect, "kind {}", index);
                }
            }
        }

        #[test]
        fn text_of_byte_fallback_is_that_of_the_library_where_bytes_are_utf8(
            parts in prop::collection::vec(prop_oneof![
                any::<char>().prop_map(|one| one.to_string().bytes().map(|byte| u32::from(byte) + 3).collect()),
                (0u32..302).prop_map(|id| vec![id]),
            ], 1..16),
        ) {
            let tokens: Vec<u32> = parts.concat();
            let (tokenizer, library) = &*SENTENCE_PIECE;
            let whole = check_growth(tokenizer, &tokens);
            if !has_broken_run(&**tokenizer, &tokens) {
                prop_assert_eq!(whole, library.decode(&tokens, true).unwrap());
            }
        }
    }

    #[test]
    fn half_a_character_waits_and_is_replaced_at_the_end() {
        let tokenizer = samples::tokenizer(&byte_level());
        let byte = |byte: u8| u32::from(byte);
        let broken = [0xE4, 0xB8, byte(b'a'), 0xC3, 0xA4];
        let expect = ["", "", "\u{FFFD}a", "\u{FFFD}a", "\u{FFFD}aä", "\u{FFFD}aä"];
        assert_eq!(stages(&tokenizer, &broken), expect);
        let expect = ["a", "a", "a", "a世", "a世", "a世\u{FFFD}"];
        assert_eq!(
            stages(&tokenizer, &[byte(b'a'), 0xE4, 0xB8, 0x96, 0xF0]),
            expect
        );
    }

    #[test]
    fn a_long_sequence_is_linear() {
        // A cost that grew with the square would take minutes for this.
        let tokenizer = samples::tokenizer(&sentence_piece());
        let tokens: Vec<u32> = (0..200_000u32).map(|at| 3 + at % 290).collect();
        assert!(decode(&*tokenizer, &tokens).len() > 200_000);
    }
}
