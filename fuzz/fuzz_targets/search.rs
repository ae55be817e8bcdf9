//! Fuzzes bytes that are searched for a person: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("search");
