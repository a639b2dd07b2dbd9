//! See `server::fuzz::sampling`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::sampling(bytes));
