//! See `models::fuzz::safetensors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| models::fuzz::safetensors(bytes));
