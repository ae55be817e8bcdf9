//! Fuzzes files of exported keys: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("export");
