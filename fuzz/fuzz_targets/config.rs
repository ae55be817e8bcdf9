//! Fuzzes configurations and data maps: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("config");
