//! See `server::fuzz::detokenizer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::detokenizer(bytes));
