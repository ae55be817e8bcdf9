//! Fuzzes list chunks and index chunks: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("list");
