//! Fuzzes JSON lines, cut and edited: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("ndjson");
