//! See `hub::fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hub::fuzz::files(bytes));
