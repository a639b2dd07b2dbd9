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
