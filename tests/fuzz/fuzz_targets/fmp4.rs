//! `bodies::fmp4` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::fmp4(data));
