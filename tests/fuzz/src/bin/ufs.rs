#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dualroot_fuzz::ufs(data));
