//! `bodies::any_sdp` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::any_sdp(data));
