//! `bodies::rtp_h265` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::rtp_h265(data));
