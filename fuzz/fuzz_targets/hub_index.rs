//! See `hub::fuzz::index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hub::fuzz::index(bytes));
