//! Fuzzes stored entries on their way into a tar stream: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("tar");
