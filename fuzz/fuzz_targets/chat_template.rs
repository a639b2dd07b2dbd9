//! See `server::fuzz::chat_template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::chat_template(bytes));
