//! See `hub::fuzz::commit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hub::fuzz::commit(bytes));
