#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmark_targets::fuzzing::member_frames(data));
