//! Fuzzes key sheets: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("sheet");
