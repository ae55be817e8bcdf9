//! Fuzzes chunks as they lie in packs: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("chunk");
