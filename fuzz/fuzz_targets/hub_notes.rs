//! See `hub::fuzz::notes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hub::fuzz::notes(bytes));
