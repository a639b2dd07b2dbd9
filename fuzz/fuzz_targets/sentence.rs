//! See `models::fuzz::sentence`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| models::fuzz::sentence(bytes));
