//! `bodies::rtsp_message` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::rtsp_message(data));
