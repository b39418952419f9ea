// SPDX-License-Identifier: MIT OR Apache-2.0
//! libFuzzer's program for [`fuzz_explain::explain`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_explain::explain(input));
