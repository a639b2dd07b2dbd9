//! Text from tokens, one token at a time: never half a character, linear in the number of tokens.
//!
//! Special tokens and ids the tokenizer does not know give no text. Whatever the chunks, the text is that
//! of decoding the whole sequence at once ([`decode`]).
//!
//! The text of a token depends on what stands before it: many decoders cut the space of the first word, and
//! a character may have its bytes on both sides. So the text of an answer is that which comes after its
//! prompt ([`Detokenizer::after`]), and both together are the text of the whole.

use std::sync::Arc;

use super::decoding::STRIP_MAX;
pub use super::decoding::{Decoding, Prepared, UnknownDecoder};
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

    /// A detokenizer after these tokens, whose text is not given again: what follows [`decode_beginning`]
    /// of them. Looks at as many of the last ones as can matter.
    pub fn after(tokenizer: Arc<dyn Tokenize>, before: &[u32]) -> Self {
        let mut left = MATTERING_TOKENS;
        let start = before.iter().rposition(|&token| {
            let part = tokenizer.prepared(token);
            left -= usize::from(part.is_some_and(|part| !part.bytes().is_empty()));
            left == 0
        });
        let mut detokenizer = Self::new(tokenizer);
        let mut said = String::new();
        for &token in &before[start.unwrap_or(0)..] {
            detokenizer.push(token, &mut said);
            said.clear();
        }
        detokenizer
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

/// Tokens with text that decide how the next one is decoded: a decoder looks at most at the
/// [`STRIP_MAX`] last characters and one unfinished, of four bytes each, a token for each byte.
const MATTERING_TOKENS: usize = 4 * (STRIP_MAX + 1);

/// The text of a whole sequence.
pub fn decode(tokenizer: &dyn Tokenize, tokens: &[u32]) -> String {
    let mut decoding = tokenizer.decoding().clone();
    let mut text = beginning(tokenizer, &mut decoding, tokens);
    decoding.finish(&mut text);
    text
}

/// As [`decode`], with the texts of control tokens.
pub fn decode_all(tokenizer: &dyn Tokenize, tokens: &[u32]) -> String {
    let mut decoding = tokenizer.decoding().clone();
    let mut text = String::new();
    for &token in tokens {
        if !tokenizer.is_special(token) {
            push(tokenizer, &mut decoding, token, &mut text);
        } else if let Some(piece) = tokenizer.piece(token) {
            let part = decoding.prepare(&piece).into_owned();
            decoding.push(&part, &mut text);
        }
    }
    decoding.finish(&mut text);
    text
}

/// The text of a sequence that goes on: as [`decode`], without what later tokens may still change.
pub fn decode_beginning(tokenizer: &dyn Tokenize, tokens: &[u32]) -> String {
    beginning(tokenizer, &mut tokenizer.decoding().clone(), tokens)
}

fn beginning(tokenizer: &dyn Tokenize, decoding: &mut Decoding, tokens: &[u32]) -> String {
    let mut text = String::new();
    for &token in tokens {
        push(tokenizer, decoding, token, &mut text);
    }
    text
}

fn push(tokenizer: &dyn Tokenize, decoding: &mut Decoding, token: u32, out: &mut String) {
    if let Some(part) = tokenizer.prepared(token) {
        decoding.push(&part, out);
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
            with_decoder(unigram(), strip(16)),
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

    /// Checks that a prompt's text and the text streamed after it are together that of the whole.
    /// Answers the streamed text.
    fn check_after(tokenizer: &Arc<dyn Tokenize>, prompt: &[u32], generated: &[u32]) -> String {
        let mut detokenizer = Detokenizer::after(Arc::clone(tokenizer), prompt);
        let mut streamed = String::new();
        for &token in generated {
            detokenizer.push(token, &mut streamed);
        }
        detokenizer.finish(&mut streamed);
        let whole = decode(&**tokenizer, &[prompt, generated].concat());
        let before = decode_beginning(&**tokenizer, prompt);
        assert_eq!(
            before.clone() + &streamed,
            whole,
            "{prompt:?} {generated:?}"
        );
        // Nothing waits at most borders; there, it is the difference of two decoded texts.
        if before == decode(&**tokenizer, prompt) {
            assert_eq!(whole.strip_prefix(&before), Some(&*streamed));
        }
        streamed
    }

    #[test]
    fn an_answer_keeps_the_space_before_its_first_word() {
        let check = |sample: &Value, prompt: &[&str], generated: &[&str], expect: &str| {
            let tokenizer = samples::tokenizer(sample);
            let ids = |pieces: &[&str]| -> Vec<u32> {
                let id = |piece: &&str| tokenizer.id(piece).unwrap();
                pieces.iter().map(id).collect()
            };
            let streamed = check_after(&tokenizer, &ids(prompt), &ids(generated));
            assert_eq!(streamed, expect, "{prompt:?} {generated:?}");
        };
        let llama = sentence_piece();
        check(&llama, &["<s>", "▁t", "h"], &["▁the", "▁t"], " the t");
        check(&llama, &["<s>", "▁t", "</s>"], &["▁the"], " the");
        check(&llama, &["<s>"], &["▁the", "▁t"], "the t");
        check(&llama, &["▁"], &["▁t"], " t");
        // The prompt ends within a character, which belongs to the answer that completes or breaks it.
        check(
            &llama,
            &["a", "<0xE4>", "<0xB8>"],
            &["<0x96>", "▁t"],
            "世 t",
        );
        check(&llama, &["<0xE4>", "<0xB8>"], &["▁t"], "\u{FFFD}\u{FFFD} t");
        check(&byte_level(), &["a", "ä¸"], &["ĸ", "Ġw"], "世 w");
        check(&unigram(), &["<s>", "▁a"], &["▁ab", "."], " ab.");
        check(&word_piece(), &["hello"], &["world", "##s"], " worlds");
        let stripped = json!({ "type": "Strip", "content": "▁", "start": 16, "stop": 0 });
        let stripped = json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }, stripped] });
        let stripped = with_decoder(unigram(), stripped);
        for spaces in [0, 15, 100] {
            let prompt = [&["a"][..], &vec!["▁"; spaces]].concat();
            check(&stripped, &prompt, &["▁a"], "▁a");
        }
        check(&stripped, &["▁"; 15], &["▁ab", "▁a"], "ab▁a");
        let spaced = with_decoder(word_piece(), Value::Null);
        check(&spaced, &["hello"], &["world"], " world");
        let suffixed = json!({ "type": "BPEDecoder", "suffix": "lo" });
        let suffixed = with_decoder(word_piece(), suffixed);
        check(&suffixed, &["do", "hello"], &["a", "hello"], " ahel");
    }

    proptest! {
        #![proptest_config(samples::same_cases())]

        #[test]
        fn a_prompt_and_what_is_streamed_after_it_are_the_whole(
            prompt in prop::collection::vec(prop_oneof![0u32..302, 3u32..9, 172u32..260, 285u32..287], 0..100),
            generated in prop::collection::vec(0u32..302, 0..12),
        ) {
            let kinds = KINDS.iter().chain([&*SENTENCE_PIECE]);
            for (tokenizer, _) in kinds {
                let ids = tokenizer.vocab_size() as u32 + 2;
                let known = |tokens: &[u32]| tokens.iter().map(|id| id % ids).collect::<Vec<u32>>();
                check_after(tokenizer, &known(&prompt), &known(&generated));
            }
        }

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
