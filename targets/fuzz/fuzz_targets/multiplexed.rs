#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmark_targets::fuzzing::multiplexed(data));
