#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmark_results::wire::fuzz(data));
