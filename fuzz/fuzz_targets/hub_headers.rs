//! See `hub::fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hub::fuzz::headers(bytes));
