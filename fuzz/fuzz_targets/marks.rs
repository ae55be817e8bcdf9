//! Fuzzes identity blocks: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("marks");
