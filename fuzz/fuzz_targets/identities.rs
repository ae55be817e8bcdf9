//! Fuzzes identity files and certificates: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("identities");
