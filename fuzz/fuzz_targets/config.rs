//! See `models::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| models::fuzz::config(bytes));
