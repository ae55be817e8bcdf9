//! Fuzzes what a put-only host hands in: see `src/fuzzing.rs`.
#![no_main]

reseal_fuzz::target!("intake");
