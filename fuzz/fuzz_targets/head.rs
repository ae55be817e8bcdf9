//! Fuzzes heads and their names: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("head");
