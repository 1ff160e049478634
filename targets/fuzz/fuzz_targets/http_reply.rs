#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmark_targets::fuzzing::http_reply(data));
