//! Fuzzes key slots and key files: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("keys");
