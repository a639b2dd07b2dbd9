//! Everything about text: tokens from text, chat templates, text from tokens, stop strings.
//!
//! The way of a request: [`chat`] renders messages, [`tokenizer`] turns text into token ids before the
//! engine sees them; [`stream`] turns the tokens that come back into text by way of [`detokenize`]
//! (never half a character) and [`stop`] (never a character of a stop string).
//!
//! Four things hold whatever is sent or loaded:
//! - No text is tokenized before its length is checked, and only so many at once in the whole process.
//! - A tokenizer's file is of a size, and gives tokens and texts of sizes, that tokenizers have.
//! - What a message says never becomes a control token, whatever the template does with it.
//! - A template cannot take more than a stated number of steps and bytes.
//!
//! Nothing here knows the wire, the engine or a clock. Everything is a pure function of its input except
//! [`tokenizer::TokenizerPool`], whose [`room`] bounds how much tokenizing runs at once.

mod budget;
pub mod chat;
mod control;
mod date;
mod decoding;
pub mod detokenize;
mod hugging_face;
mod json;
mod patterns;
mod program;
pub mod room;
#[cfg(test)]
mod samples;
pub mod stop;
pub mod stream;
pub mod tokenizer;
mod utf8;
mod vocabulary;
